"""Stage "preflight": checks before anything is sampled, so that no run fails hours later.

Every instruction has to leave room for its completion in the model's context, the answers of the self-rating judge must
be single tokens, and what training puts adapters on must be layers of the model. Instructions that are too long in the
model's tokens are left out of a run and counted (stage "fitting"); many of them are a mistake in the settings.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tpo.checks import without_floors
from tpo.config.kinds import load_settings
from tpo.config.thought import ThoughtFormat
from tpo.model.asked import ask, ask_directly
from tpo.model.chat import answer_ids, load_tokenizer
from tpo.model.policy import Policy, open_policy
from tpo.model.reach import read_reach
from tpo.sample.completions import plan_decoding
from tpo.sample.prompts import PromptError, too_long_text
from tpo.store.job import Job, Metrics
from tpo.store.records import Prompt, write_records

MAX_LEFT_OUT = 0.25  # share of a split's instructions that may be too long


def work(job: Job) -> Metrics:
    """Check the instructions, the token budgets and the judge's answers against the model's tokenizer and context."""
    policy = open_policy(job.config, job.inputs)
    if "lora_targets" in job.config:
        from tpo.model.targets import check_targets, make_skeleton  # loads torch, which the rest does without

        check_targets(make_skeleton(policy.model_path, revision=policy.revision), job.config["lora_targets"])
    return check_lengths(
        list(job.inputs["prompts"].rows(Prompt)),
        policy,
        [load_settings(ThoughtFormat, form) for form in job.config["forms"]],
        sample_settings=job.config["sample"],
        judge_settings=job.config["judge"],
    )


def fitting_work(job: Job) -> Metrics:
    """Leave out the instructions that do not fit, and count them with those that the source dropped."""
    source, left_out = job.inputs["prompts"], set(job.config["left_out"])
    rows = [row for row in source.rows(Prompt) if row.prompt_id not in left_out]
    write_records(job.path / "rows.jsonl", rows)
    drops = {**source.metrics["drops"], "longer_than_context": len(left_out)}
    return {**source.metrics, "num_prompts": len(rows), "drops": drops}


def check_lengths(
    prompts: Sequence[Prompt],
    policy: Policy,
    forms: Sequence[ThoughtFormat],
    *,
    sample_settings: dict[str, Any],
    judge_settings: dict[str, Any] | None,
) -> dict[str, Any]:
    """Return the longest prompt and completion that a run may ask for, in tokens, and which instructions are too long.

    Returns:
        `num_prompts`, `longest` of those that fit, how far the model reaches back (`reach`) and, where some do not fit,
        `too_long`: ids and tokens.

    Raises:
        PromptError: If more than `MAX_LEFT_OUT` of a split exceed the model's context.
        TpoError: If an answer of the self-rating judge is not a single token, or the model cannot be asked in a
            thought format.
    """
    tokenizer = load_tokenizer(policy.tokenizer_path)
    for judge in () if judge_settings is None else (judge_settings, *judge_settings.get("members", {}).values()):
        if judge["kind"] in ("self_rating", "likelihood"):
            ask_directly(policy.conventions, what=f"judge={judge['kind']}")
        if judge["kind"] == "self_rating":
            answer_ids(tokenizer, positive=judge["positive"], negative=judge["negative"])
        if judge["kind"] == "checked" and not any(without_floors(prompt.checks) for prompt in prompts):
            raise PromptError(
                "judge=checked scores by an instruction's checks, but these instructions have none: use "
                "prompts=checked, or another judge"
            )
    needed = dict.fromkeys((prompt.prompt_id for prompt in prompts), 0)
    for form in forms:
        asked = ask(form, policy.conventions, tokenizer)
        budget = plan_decoding(tokenizer, asked, sample_settings).max_total
        for prompt in prompts:
            length = len(asked.context(tokenizer, prompt.text)) + budget
            needed[prompt.prompt_id] = max(needed[prompt.prompt_id], length)
    too_long = {name: length for name, length in needed.items() if length > policy.max_model_len}
    _require_few(prompts, too_long, max_model_len=policy.max_model_len)
    longest = max((length for name, length in needed.items() if name not in too_long), default=0)
    limit = read_reach(policy.model_path, revision=policy.revision)
    found = {"num_prompts": len(prompts), "longest": longest, "reach": None if limit is None else limit._asdict()}
    return {**found, **({"too_long": too_long} if too_long else {})}


def _require_few(prompts: Sequence[Prompt], too_long: Mapping[str, int], *, max_model_len: int) -> None:
    """Raise a `PromptError` that names an instruction where too many of its split are too long."""
    sizes = Counter(prompt.split for prompt in prompts)
    counts = Counter(prompt.split for prompt in prompts if prompt.prompt_id in too_long)
    for prompt in prompts:
        count, size = counts[prompt.split], sizes[prompt.split]
        if prompt.prompt_id in too_long and count > MAX_LEFT_OUT * size:
            more = f", as {count} of the split's {size} do" if count > 1 else ""
            raise PromptError(too_long_text(prompt, too_long[prompt.prompt_id], max_model_len=max_model_len, more=more))
