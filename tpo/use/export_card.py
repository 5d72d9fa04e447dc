"""The model card of an export, made from config and summary of the run, the base's licence and the check."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo.config.groups import ModelConfig
from tpo.model.asked import Asked
from tpo.results.rate import Rate, format_count, format_rate
from tpo.results.read import FinishedRun
from tpo.results.text_table import code_span, markdown_text
from tpo.store.text import one_line
from tpo.use.export_check import Difference

#: What the Hub calls the embedded models, and their licences.
EMBEDDED = {"smollm2-135m-instruct": ("HuggingFaceTB/SmolLM2-135M-Instruct", "apache-2.0")}
#: Groups of a run's config that say what was trained, on what, and how.
SHOWN = ("model", "thought", "sample", "prompts", "judge", "rating", "pairs", "train", "eval")


@dataclass(frozen=True)
class Subject:
    """What a card is about.

    Attributes:
        kind: "adapter" or "merged".
        policy: Its name.
        base: The group `model` of its base.
        dtype: Of the weights.
        is_quantized: Whether the policy's base is quantized to NF4.
        has_base: Whether the base lies beside the adapter.
        asked: Its thought format as the model is asked in it.
        run: That trained it, where it is a run's.
        iteration: Of the run; None: the last.
    """

    kind: str
    policy: str
    base: ModelConfig
    dtype: str
    is_quantized: bool
    has_base: bool
    asked: Asked
    run: FinishedRun | None
    iteration: int | None


def loading_code(subject: Subject, *, here: str) -> str:
    """Return Python code that leaves `model` and `tokenizer`, with transformers and peft alone.

    Args:
        subject: The export.
        here: Its directory, or its name on the Hub.
    """
    is_adapter = subject.kind == "adapter"
    names = ["AutoModelForCausalLM", "AutoTokenizer", "GenerationConfig"]
    given = [f'dtype="{subject.dtype}"', 'device_map="auto"']
    lines = []
    if is_adapter and subject.is_quantized:
        names.append("BitsAndBytesConfig")
        given.append("quantization_config=nf4")
        lines += [
            "nf4 = BitsAndBytesConfig(",
            '    load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,',
            f'    bnb_4bit_compute_dtype="{subject.dtype}",',
            ")",
        ]
    place = "here"
    if is_adapter:
        place = 'here + "/base"' if subject.has_base else _quoted(_place(subject.base))
        if subject.base.revision is not None:
            given.append(f"revision={_quoted(subject.base.revision)}")
    load = f"model = AutoModelForCausalLM.from_pretrained({place}, {', '.join(given)})"
    if is_adapter and subject.is_quantized:
        lines += [
            load,
            "# What the policy was sampled with; without this line it computes in 4 bits, which rounds otherwise.",
            f"model = model.dequantize().to(torch.{subject.dtype})",
        ]
    else:
        lines.append(load)
    if is_adapter:
        lines.append("model = PeftModel.from_pretrained(model, here, autocast_adapter_dtype=False)")
    lines += [
        "model.generation_config = GenerationConfig.from_pretrained(here)",
        "tokenizer = AutoTokenizer.from_pretrained(here)",
    ]
    head = ["import torch"] if is_adapter and subject.is_quantized else []
    head += ["from peft import PeftModel"] if is_adapter else []
    head += [f"from transformers import {', '.join(sorted(names))}", "", f"here = {_quoted(here)}"]
    return "\n".join([*head, *lines]) + "\n"


def _quoted(text: str) -> str:
    """Return a literal of Python."""
    return json.dumps(text, ensure_ascii=False)


def _place(base: ModelConfig) -> str:
    return str(Path(base.name).resolve()) if Path(base.name).is_dir() else base.name


def write_card(out: Path, subject: Subject, difference: Difference, *, here: str) -> None:
    """Write README.md of an export.

    Args:
        out: Its directory.
        subject: What it is.
        difference: What the check found.
        here: Its directory, or its name on the Hub, for the code that is shown.
    """
    from huggingface_hub import ModelCard, ModelCardData

    hub_name, licence = EMBEDDED.get(subject.base.name, (None, None))
    if subject.base.source != "embedded":
        hub_name = None if Path(subject.base.name).is_dir() else subject.base.name
        licence = base_licence(subject.base)
    data = ModelCardData(
        base_model=hub_name,
        base_model_relation="adapter" if subject.kind == "adapter" else "finetune",
        library_name="peft" if subject.kind == "adapter" else "transformers",
        license=licence,
        pipeline_tag="text-generation",
        tags=["tpo", "dpo", "preference-optimization"],
    )
    base = hub_name or Path(subject.base.name).name
    sections = [
        f"# {markdown_text(base)}, {_training(subject)}",
        _what(subject, base),
        _use(subject, here),
        _checked(subject, difference),
        *([_results(subject), _settings(subject.run)] if subject.run is not None else []),
        _limits(subject, base, licence),
    ]
    ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(sections) + "\n").save(out / "README.md")


def base_licence(base: ModelConfig) -> str | None:
    """Return the licence that the card of a base model names; None where there is none at hand."""
    from huggingface_hub import ModelCard
    from transformers.utils import cached_file

    try:
        path = cached_file(base.name, "README.md", revision=base.revision, _raise_exceptions_for_missing_entries=False)
        return None if path is None else ModelCard.load(path).data.get("license")
    except (OSError, ValueError):  # no network, or no card
        return None


def _training(subject: Subject) -> str:
    if subject.asked.form.has_thought:
        return "trained to think before it answers (Thought Preference Optimization)"
    return "trained with DPO on direct answers, the baseline of Thought Preference Optimization"


def _what(subject: Subject, base: str) -> str:
    revision = f" at revision {code_span(subject.base.revision)}" if subject.base.revision else ""
    kind = "A LoRA adapter" if subject.kind == "adapter" else f"A model of its own in {subject.dtype}, merged"
    policy, form = code_span(subject.policy), code_span(subject.asked.form.name)
    text = f"{kind}, on {code_span(base)}{revision}: the policy {policy}, asked with the thought format {form}."
    text += " Method: Wu et al. 2024, *Thinking LLMs* (arXiv 2410.10630)."
    if subject.run is not None:
        experiment, command = subject.run.summary.get("experiment"), subject.run.summary.get("command")
        command = re.sub(r"(?<==)(?:~|\.{1,2})?/(?:[^\s'\",]+/)?", "", command or "")  # without this machine's folders
        text += f" Experiment {code_span(str(experiment))}"
        text += f", by\n\n```bash\n{one_line(command)}\n```" if command else "."
    return text


def _use(subject: Subject, here: str) -> str:
    form = subject.asked.form
    lines = [
        loading_code(subject, here=here).rstrip(),
        'messages = [{"role": "user", "content": "Why is the sky blue?"}]',
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
        "return_dict=True)",
        "output = model.generate(**inputs.to(model.device))",
        'print(tokenizer.decode(output[0, inputs["input_ids"].shape[1]:], skip_special_tokens=True))',
    ]
    parts = ["it takes the instruction alone"]
    if form.prompt != "{instruction}":
        parts.append("puts the thought prompt around the last user turn")
    if subject.asked.prefill:
        parts.append(f"starts the answer with {code_span(subject.asked.prefill.strip())}")
    carried = f"The chat template asks as the policy was trained: {', '.join(parts)}"
    delimiter = subject.asked.response_delimiter
    if delimiter is not None:
        carried += (
            f". The response is what follows {code_span(delimiter)}; what stands before it is a thought, not for "
        )
        carried += "readers"
    if subject.asked.conventions.has_clock:
        carried += f". The template shows the date {markdown_text(str(subject.asked.conventions.date))}, as in training"
    ends = "`generation_config.json` has the ends of a turn, and temperature, nucleus and budget of the run's samples."
    return "## Use\n\n```python\n" + "\n".join(lines) + f"\n```\n\n{carried}. {ends}"


def _checked(subject: Subject, difference: Difference) -> str:
    text = (
        "## Checked at export\n\nLoaded in a fresh process by the code above, without the package that trained it, and "
        f"computed in float32: {difference}."
    )
    if subject.kind == "adapter" and subject.dtype != "float32":
        text += (
            f" In {subject.dtype} kernels round, each in its own way, so that greedy answers may part at a near tie."
        )
    if subject.is_quantized and subject.kind == "merged":
        text += (
            "\n\nThe policy is an unmerged adapter on a base quantized to NF4. This model has the quantized values, "
            "dequantized, with the adapter added and rounded to 16 bits: close to that policy, not equal to it, by the "
            "difference above. Quantizing it again makes another model."
        )
    elif subject.is_quantized:
        text += "\n\nThe policy's base is quantized to NF4; on the 16-bit base the adapter is another policy."
    return text


def _results(subject: Subject) -> str:
    assert subject.run is not None
    summary = subject.run.summary
    entries = summary["iterations"]
    last = entries[-1]["iteration"] if subject.iteration is None else subject.iteration
    unit = f"{100 * summary['confidence']:g} %"
    rows = [
        "| iteration | win rate | n | at equal length | instructions passed | thought tokens | response tokens |",
        "|---|---|---|---|---|---|---|",
    ]
    for entry in entries:
        if entry["iteration"] > last:
            continue
        rate, equal = (Rate.from_dict(entry[name]) for name in ("win_rate", "win_rate_length_controlled"))
        passed = entry["checked"] and Rate.from_dict(entry["checked"]["strict"])
        cells = [
            str(entry["iteration"]) + (" (untrained)" if entry["iteration"] == 0 else ""),
            format_rate(rate),
            format_count(rate.num_prompts, rate.num_unscored),
            format_rate(equal),
            format_rate(passed),
            f"{entry['mean_thought_tokens']:.0f}",
            f"{entry['mean_response_tokens']:.0f}",
        ]
        rows.append(f"| {' | '.join(cells)} |")
    entry = next(entry for entry in entries if entry["iteration"] == last)
    change = []
    for name, words in (("win_rate", "the win rate"), ("checked", "the share of instructions passed")):
        if entry["change"] and entry["change"].get(name):
            found = Rate.from_dict(entry["change"][name])
            change.append(f"{words} by {format_rate(found, unit=' points', sign='+')} (n = {found.count})")
    baseline = summary["baseline"].replace(subject.base.name, Path(subject.base.name).name)
    text = (
        f"## Results\n\nOn held-out instructions, against {markdown_text(baseline)}, by the judge "
        f"{code_span(summary['judge'])}, "
        f"which also taught it; in brackets {unit} intervals.\n\n" + "\n".join(rows)
    )
    if change:
        text += "\n\nTraining changed, on the same instructions, " + " and ".join(change) + "."
    if entry["collapse"]:
        text += f"\n\n**The policy has collapsed:** {markdown_text(str(entry['collapse']))}."
    return text


def _settings(run: FinishedRun | None) -> str:
    assert run is not None
    shown = {name: run.config[name] for name in SHOWN if name in run.config}
    shown |= {name: run.config[name] for name in ("seed", "num_iterations")}
    text = json.dumps(without_places(shown), indent=1, ensure_ascii=False)
    return (
        f"## Data, judge, settings\n\nInstructions: {_told(shown['prompts'])}; who told better from worse: "
        f"{_told(shown['judge'])}.\n\n"
        f"<details><summary>All settings</summary>\n\n```json\n{text}\n```\n\n</details>"
    )


def _told(settings: dict[str, Any]) -> str:
    """Return a group's kind, and the file, data set or class that it names."""
    named = [settings[key] for key in ("_target_", "dataset", "path", "name") if settings.get(key)]
    return f"`{settings['kind']}`" + "".join(f" (`{without_places(name)}`)" for name in named[:1])


def without_places(value: Any) -> Any:
    """Return settings with paths of this machine cut to their last name."""
    if isinstance(value, dict):
        return {key: without_places(item) for key, item in value.items()}
    if isinstance(value, list):
        return [without_places(item) for item in value]
    if isinstance(value, str) and re.match(r"(?:~|\.{1,2})?/\S+$", value):
        return Path(value).name
    return value


def _limits(subject: Subject, base: str, licence: str | None) -> str:
    points = [
        "Win rates are relative to a judge and a baseline; nothing here was compared with other models.",
        "It was trained on the instructions above alone, and on single turns; nobody looked at safety.",
    ]
    if subject.asked.form.has_thought:
        points.append("Thoughts are not an explanation of the answer, and were never judged.")
    if subject.asked.switch is not None:
        points.append(
            "In training a thought that used up its token budget was ended by force; a chat template cannot do that, "
            "so a long thought may leave no response within `max_new_tokens`."
        )
    points.append(
        f"The licence of {code_span(base)} holds for this export: {markdown_text(str(licence))}."
        if licence
        else f"The licence of {code_span(base)} holds for this export; it was not at hand when the card was made."
    )
    return "## Limits and licence\n\n" + "\n".join(f"- {point}" for point in points)
