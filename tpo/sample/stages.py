"""The stages that make instructions and completions, and what each of them depends on."""

import logging
from collections.abc import Sequence
from typing import Any

from tpo.config.fields import file_digests, how, identity
from tpo.config.groups import EngineConfig, JudgeConfig, PromptsConfig, SampleConfig
from tpo.config.thought import ThoughtFormat
from tpo.model.policy import PolicyRef
from tpo.model.reach import Reach, require_reach
from tpo.sample.decoding import EngineSettings
from tpo.sample.prompts import RECATEGORIZED, require_all_fit
from tpo.sample.sources.synthetic import SyntheticPrompts
from tpo.store.artifacts import Artifact
from tpo.store.progress import counted
from tpo.store.records import Prompt
from tpo.store.seeds import derive_seed
from tpo.store.stage import Budget, RunsOn, Stage
from tpo.store.store import Store

log = logging.getLogger(__name__)

SYNTHESIZE = Stage("synthesize", version=6, work="tpo.sample.synthetic:work", runs_on=RunsOn.DEVICE)
PROMPTS = Stage("prompts", version=4, work="tpo.sample.prompts:work")
PREFLIGHT = Stage("preflight", version=2, work="tpo.sample.preflight:work")
FITTING = Stage("fitting", version=1, work="tpo.sample.preflight:fitting_work")
SAMPLE = Stage("sample", version=6, work="tpo.sample.completions:work", runs_on=RunsOn.DEVICE)


def make_prompts(
    store: Store, settings: PromptsConfig, *, policy: PolicyRef, engine: EngineConfig, seed: int
) -> Artifact:
    """Return the instructions of the group `prompts` in their splits.

    Args:
        store: Of all artifacts.
        settings: Where they come from, and the sizes of the splits.
        policy: Its seed model generates them where they are synthetic.
        engine: Samples them then.
        seed: The run's; each step derives its own.
    """
    config: dict[str, Any] = {"settings": identity(settings), **file_digests(settings)}
    inputs: dict[str, Artifact] = {}
    if isinstance(settings, SyntheticPrompts):
        model = policy.seed_model()
        inputs["candidates"] = store.request(
            SYNTHESIZE,
            config | {"engine": identity(engine), **model.config},
            model.inputs,
            seed=derive_seed(seed, "synthesize"),
            how={"engine": how(engine)},
            runs_on=engine.runs_on,
            budget=Budget(settings.num_candidates * settings.max_tokens),
        )
    prompts = store.request(PROMPTS, config, inputs, seed=derive_seed(seed, "prompts"))
    found = prompts.metrics  # empty in a plan, which computes nothing
    if count := found.get("drops", {}).get(RECATEGORIZED):
        log.warning(
            "%s: left out, as the same text stands in the source in another category: %s. The copy that counts is the "
            "one held out for the test, else for validation, else for training, and of several there the one whose "
            "category is last in the alphabet",
            prompts.artifact_id,
            counted(count, "instruction"),
        )
    for at, origin in (found.get("origins") or {}).items():
        if origin["is_pinned"]:
            continue
        read, pin = f"sha256 {origin['sha256'][:12]} of its instructions", f"{at}.revision to a commit"
        if origin["commit"] is not None:
            read, pin = f"commit {origin['commit']}", f"{at}.revision={origin['commit']}"
        log.warning(
            "%s: the instructions of %s are not pinned, and may be others elsewhere or later; these are %s. Set %s",
            prompts.artifact_id,
            origin["dataset"],
            read,
            pin,
        )
    return prompts


def preflight(
    store: Store,
    policy: PolicyRef,
    prompts: Artifact,
    *,
    forms: Sequence[ThoughtFormat],
    settings: SampleConfig,
    engine: EngineConfig,
    judge: JudgeConfig | None,
    leaves_out: bool,
    lora_targets: str | None = None,
) -> Artifact:
    """Return the instructions that fit into the model's context, found out before anything is sampled.

    Args:
        store: Of all artifacts.
        policy: Its seed model's tokenizer and context count.
        prompts: Instructions of all splits.
        forms: Thought formats that they will be asked in.
        settings: Token budgets.
        engine: What samples.
        judge: Some of its answers must be single tokens of the model, or it needs instructions with checks; None where
            none is asked.
        leaves_out: Whether a few instructions that are too long are left out, and counted; else one is an error.
        lora_targets: The layers that training names; None where it names none.

    Returns:
        `prompts` where all of them fit.

    Raises:
        PromptError: If one does not fit and none may be left out.
        TpoError: If something is beyond what the engine computes.
    """
    model = policy.seed_model()
    config = {
        "forms": [identity(form) for form in forms],
        "sample": identity(settings),
        "judge": None if judge is None else identity(judge),
        **({} if lora_targets is None else {"lora_targets": lora_targets}),
        **model.config,
    }
    found = store.request(PREFLIGHT, config, {"prompts": prompts, **model.inputs})
    limit = found.metrics.get("reach")  # nothing in a plan, which computes nothing
    if limit is not None and isinstance(engine, EngineSettings) and not engine.has_windows:
        require_reach(Reach(**limit), needed=found.metrics["longest"], model=policy.settings.name)
    too_long = found.metrics.get("too_long", {})
    if not too_long:
        return prompts
    if not leaves_out:
        require_all_fit(prompts.rows(Prompt), too_long, max_model_len=policy.settings.max_model_len)
    log.warning(
        "%s: %d instructions are longer than model.max_model_len leaves room for, up to %d tokens with the completion; "
        "they are left out",
        prompts.artifact_id,
        len(too_long),
        max(too_long.values()),
    )
    # With the settings of the source, which say how large the splits are.
    return store.request(FITTING, {**prompts.manifest["config"], "left_out": sorted(too_long)}, {"prompts": prompts})


def sample(
    store: Store,
    policy: PolicyRef,
    prompts: Artifact,
    *,
    split: str,
    settings: SampleConfig,
    engine: EngineConfig,
    seed: int,
) -> Artifact:
    """Return K completions of each instruction of a split: everything that they depend on stands in this call.

    Their identity is `config`, `inputs` and `seed` below: `policy.config` adds dtype, context and epoch,
    `policy.inputs` the model and the adapter. The request's other arguments say how it is computed, and its cost.

    Args:
        store: Of all artifacts.
        policy: What is sampled from, and the thought format that it is asked in.
        prompts: Instructions of all splits.
        split: "train-1", "train-2", ..., "validation" or "test".
        settings: K, temperature, nucleus and token budgets.
        engine: What samples.
        seed: The step's; `completions.py` derives each sample's from it.
    """
    config = {
        "split": split,
        "thought": identity(policy.form),
        "settings": identity(settings),
        "engine": identity(engine),
        **policy.config,
    }
    inputs = {"prompts": prompts, **policy.inputs}
    return store.request(
        SAMPLE,
        config,
        inputs,
        seed=seed,
        how={"engine": how(engine)},
        runs_on=engine.runs_on,
        budget=_budget(prompts, split=split, form=policy.form, settings=settings),
    )


def _budget(prompts: Artifact, *, split: str, form: ThoughtFormat, settings: SampleConfig) -> Budget | None:
    """Return the most that sampling a split may take; None where `prompts` does not say its sizes, as a benchmark.

    Without a forced switch the response may use the thought's tokens too.
    """
    sizes = prompts.manifest["config"].get("settings", {})
    num_prompts = sizes.get(f"num_{split.partition('-')[0]}")  # "train-2" has num_train instructions
    if num_prompts is None:  # of a benchmark
        return None
    thought = settings.max_thought_tokens if form.has_thought else 0
    longest = thought + settings.max_response_tokens
    return Budget(
        tokens=num_prompts * settings.num_samples * longest,
        num_prompts=num_prompts,
        num_samples=settings.num_samples,
        response_tokens=settings.max_response_tokens if form.forces_switch else longest,
        completion_tokens=longest,
    )
