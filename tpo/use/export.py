"""A policy as a directory that transformers, peft and vLLM load without this package, checked before it exists.

`adapter` has what was trained; its base is a Hub model, a directory or, where it is embedded, lies beside the adapter.
`merged` is a model of its own in 16 bits. Merged is what the policy is computed with: for a quantized policy the values
of the quantized weights, not the 16-bit weights that these were made from. Both come with the tokenizer, whose chat
template asks as the policy was trained, the ends of turns, and a card made from the run's config and summary.

There is no GGUF: no package maps the weights of every family to llama.cpp's names. Its own converter, a script of
llama.cpp's repository, takes a merged export.
"""

import gc
import json
import random
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tpo.config.groups import ModelConfig, SampleConfig
from tpo.config.schema import ExportConfig
from tpo.config.streams import say
from tpo.evaluate.lineage import find_training
from tpo.evaluate.policies import find_policy
from tpo.evaluate.seeds import find_seed
from tpo.evaluate.trained import named_run
from tpo.model.asked import Asked, ask
from tpo.model.exported import BASE_TEMPLATE, RECORD
from tpo.model.policy import Policy, PolicyRef, open_policy
from tpo.results.read import read_run
from tpo.sample.sources.builtin import load_builtin
from tpo.store.artifacts import Store
from tpo.store.files import open_to_others, write_json, writing_to
from tpo.store.seeds import derive_seed
from tpo.use.export_card import Subject, loading_code, write_card
from tpo.use.export_check import Difference, ExportError, Greedy, answer_greedily, check_export
from tpo.use.export_template import carrying_template

NUM_CHECKED = 4  # instructions that policy and export answer
BASE = "base"  # folder of an adapter's base that is nowhere else


def export_policy(config: ExportConfig, store: Store) -> Path:
    """Export the policy that the config names and return the directory, complete and checked.

    Raises:
        ExportError: If the policy has no adapter to export, or the export is not the policy; nothing is left then.
        TpoError: If there is no such policy.
    """
    named = find_policy(
        config.policy,
        store,
        model=config.model,
        form=config.thought,
        sample=config.sample,
        has_own_settings=False,
    )
    out, policy = Path(config.out), open_policy(named.config, named.inputs)
    if config.format == "adapter" and policy.adapter_path is None:
        kind = "a whole model" if policy.seed_path is not None else "untrained, or a model of its own"
        raise ExportError(f"format=adapter: the policy {named.name} is {kind} and has no adapter; take format=merged")
    base = find_seed(named.settings, store).model
    if (
        config.push is not None
        and config.format == "adapter"
        and (base.source == "embedded" or Path(base.name).is_dir())
    ):
        raise ExportError(
            f"push={config.push}: the base of the adapter, {base.name}, is not on the Hub, where nobody could load it; "
            "take format=merged"
        )
    part = out.with_name(f".{out.name}.part")
    with writing_to(out):
        shutil.rmtree(part, ignore_errors=True)  # of an export that was killed
        part.mkdir(parents=True)
        try:
            difference = _write(part, config, named, policy, base=base, store=store)
            open_to_others(part, [str(file.relative_to(part)) for file in part.rglob("*") if file.is_file()])
            part.rename(out)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    say(f"loaded again in a fresh process: {difference}")
    return out


def _write(
    out: Path, config: ExportConfig, named: PolicyRef, policy: Policy, *, base: ModelConfig, store: Store
) -> Difference:
    """Write all files of an export, and check it before its card says that it was."""
    import torch

    from tpo.model.chat import load_chat

    chat = load_chat(policy)
    asked = ask(named.form, policy.conventions)
    source = str(chat.tokenizer.get_chat_template())
    (out / BASE_TEMPLATE).write_text(source, encoding="utf-8")
    ends = _generation_config(chat, asked, named.sampling)
    instructions = _instructions(config.seed)
    contexts = [asked.context(chat.tokenizer, text) for text in instructions]
    saved, own = _save_weights(out, config, policy, base, contexts, ends)
    gc.collect()  # the fresh process needs the room
    torch.cuda.empty_cache()
    tokenizer = chat.tokenizer
    tokenizer.chat_template = carrying_template(source, asked)
    tokenizer.save_pretrained(out)
    ends.save_pretrained(out)
    write_json(out / RECORD, _record(config.format, named, base, store=store))
    subject = Subject(
        kind=config.format,
        policy=named.name,
        base=base,
        dtype=policy.dtype,
        is_quantized=policy.unquantized_path is not None,
        has_base=(out / BASE).is_dir(),
        asked=asked,
        run=None if (run := named_run(config.policy)) is None else read_run(run.path),
        iteration=None if run is None else run.iteration,
    )
    code = loading_code(subject, here=str(out.resolve()))
    say("saved; a fresh process loads it and answers a few instructions")
    difference = check_export(code, instructions, saved, own)
    write_card(out, subject, difference, here=config.push or config.out)
    return difference


def _save_weights(
    out: Path, config: ExportConfig, policy: Policy, base: ModelConfig, contexts: list[list[int]], ends: Any
) -> tuple[list[Greedy], list[Greedy]]:
    """Write the weights and return what they answer greedily, and what the policy does, as it was sampled."""
    from tpo.model.load import ADAPTER_CONFIG, load_adapter, load_model, load_policy

    path, revision, dtype = policy.model_path, policy.revision, policy.dtype
    model = load_policy(path, revision=revision, dtype=dtype, adapter_path=policy.adapter_path)
    own = answer_greedily(model, contexts, ends)
    if config.format == "adapter":
        assert policy.adapter_path is not None
        for file in policy.adapter_path.glob("adapter_model.*"):
            shutil.copyfile(file, out / file.name)
        adapter = json.loads((policy.adapter_path / ADAPTER_CONFIG).read_text())
        place, name = policy.unquantized_path or policy.model_path, base.name
        if base.source == "embedded":
            shutil.copytree(place, out / BASE)
            name = str(Path(config.out).resolve() / BASE)
        elif Path(name).is_dir():
            name = str(Path(name).resolve())
        adapter |= {"base_model_name_or_path": name, "revision": base.revision}
        write_json(out / ADAPTER_CONFIG, adapter)
        return own, own
    del model  # in float32 now, and its layers may be replaced by unmerged ones
    model = load_model(path, revision=revision, dtype=dtype)
    if policy.adapter_path is not None:
        model = load_adapter(model, policy.adapter_path).merge_and_unload(safe_merge=True)
    model.config.use_cache = True
    model.generation_config = ends
    model.save_pretrained(out)
    return answer_greedily(model, contexts, ends), own


def _generation_config(chat: Any, asked: Asked, sampling: SampleConfig) -> Any:
    """Return how the policy's answers were sampled: temperature, nucleus, budgets, and what ends a turn."""
    from transformers import GenerationConfig

    eos = chat.tokenizer.eos_token_id
    budget = sampling.max_response_tokens + (sampling.max_thought_tokens if asked.form.has_thought else 0)
    draws = {"do_sample": True, "temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    return GenerationConfig(
        bos_token_id=chat.tokenizer.bos_token_id,
        eos_token_id=[eos, *sorted(chat.end_ids - {eos})],
        pad_token_id=chat.tokenizer.pad_token_id,
        max_new_tokens=budget,
        **(draws if sampling.temperature > 0 else {"do_sample": False}),
    )


def _instructions(seed: int) -> list[str]:
    """Return a few of the package's own instructions, drawn with the seed."""
    texts = sorted(prompt.text for prompt in load_builtin())
    return random.Random(derive_seed(seed, "export")).sample(texts, NUM_CHECKED)


def _record(kind: str, named: PolicyRef, base: ModelConfig, *, store: Store) -> dict[str, Any]:
    """Return what names an export where a model or a policy can be named (`tpo.model.exported`)."""
    model = asdict(base)
    if kind == "merged":
        model |= {"source": "pretrained", "name": "", "revision": None, "quantization": "none"}
    if model["chat_template"] is not None:
        model["chat_template"] = BASE_TEMPLATE
    weights = named.weights
    training = None if weights is None else find_training(weights, store.root) or weights.parent
    return {
        "kind": kind,
        "policy": named.name,
        "model": model,
        "thought": asdict(named.form),
        "sample": asdict(named.sampling),
        "training": None if training is None else training.name,
    }
