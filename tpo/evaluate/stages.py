"""The stages of an evaluation, and what each of them depends on."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from tpo.config.fields import how, identity
from tpo.config.groups import EngineConfig, EvalConfig, SampleConfig
from tpo.judge.llm.settings import LLMConfig
from tpo.judge.stages import Judging
from tpo.model.policy import PolicyRef
from tpo.store.artifacts import Artifact
from tpo.store.files import file_digest
from tpo.store.stage import RunsOn, Stage
from tpo.store.store import Store

ADAPTER = Stage("adapter", version=1, work="tpo.evaluate.trained:work")
CLASSIFY = Stage("classify", version=3, work="tpo.evaluate.categories:work", runs_on=RunsOn.DEVICE)
BENCHMARK = Stage("benchmark", version=4, work="tpo.evaluate.benchmarks.load:work")
UNSEEN = Stage("unseen", version=1, work="tpo.evaluate.lineage:work")
CHECK = Stage("check", version=3, work="tpo.evaluate.benchmarks.load:check_work")
INTERVENE = Stage("intervene", version=6, work="tpo.evaluate.interventions:work", runs_on=RunsOn.DEVICE)
LABELLED = Stage("labelled", version=2, work="tpo.evaluate.agreement.labelled:work")
CHECKED = Stage("checked", version=3, work="tpo.evaluate.checked:work")
COMPARE = Stage("compare", version=6, work="tpo.evaluate.compare:work")


def import_adapter(store: Store, path: Path, digests: dict[str, str]) -> Artifact:
    """Return a copy of the adapter in the directory `path`, whose files have these sha256 digests."""
    return store.request(ADAPTER, {"files": digests}, how={"path": str(path)})


def classify(
    store: Store,
    prompts: Artifact,
    *,
    categories: Sequence[str],
    per_category: int,
    classifier: LLMConfig | None,
    seed: int,
) -> Artifact:
    """Return the test instructions by category.

    Args:
        store: Of all artifacts.
        prompts: Instructions, of which the test split counts.
        categories: What there is to choose from.
        per_category: The most that are taken of each; 0 takes all.
        classifier: The language model that sorts; None for the instructions' own categories.
        seed: Of the step.
    """
    config = {
        "categories": list(categories),
        "per_category": per_category,
        "classifier": None if classifier is None else identity(classifier),
    }
    return store.request(
        CLASSIFY,
        config,
        {"prompts": prompts},
        seed=seed,
        how={} if classifier is None else how(classifier),
        runs_on=RunsOn.HOST if classifier is None else classifier.runs_on,
    )


def benchmark(store: Store, settings: Mapping[str, Any], *, seed: int) -> Artifact:
    """Return the instructions of a benchmark, with what it brings besides (`tpo.evaluate.benchmarks`).

    Args:
        store: Of all artifacts.
        settings: `name` and what the benchmark's loader takes; values of keys that end in "path" are local files.
        seed: Of the step.
    """
    paths = {key: value for key, value in settings.items() if key.endswith("path") and value is not None}
    config = {key: value for key, value in settings.items() if not key.endswith("path")}
    config |= {f"{key}_sha256": file_digest(Path(value)) for key, value in paths.items()}
    return store.request(BENCHMARK, config, seed=seed, how=paths)


def check(store: Store, benchmark: Artifact, answers: Artifact, settings: EvalConfig) -> Artifact:
    """Return what a program can tell of the answers to a benchmark that needs no judge."""
    config = {"benchmark": settings.kind, "confidence": settings.confidence}
    return store.request(CHECK, config, {"benchmark": benchmark, "completions": answers})


def checked(store: Store, prompts: Artifact, answers: Artifact, settings: EvalConfig) -> Artifact:
    """Return which test instructions' own checks the answers pass."""
    inputs = {"prompts": prompts, "completions": answers}
    return store.request(CHECKED, {"confidence": settings.confidence}, inputs)


def intervene(
    store: Store,
    policy: PolicyRef,
    prompts: Artifact,
    thoughts: Artifact,
    *,
    intervention: dict[str, Any],
    settings: SampleConfig,
    engine: EngineConfig,
    seed: int,
) -> Artifact:
    """Return a policy's answers after given thoughts: those of the completions `thoughts`, altered.

    Args:
        store: Of all artifacts.
        policy: What samples the responses, and its thought format.
        prompts: Instructions, of which the test split counts.
        thoughts: Completions of the same instructions.
        intervention: Arguments of `tpo.evaluate.interventions.alter`.
        settings: Temperature, nucleus and the response's tokens.
        engine: What samples.
        seed: Of the step.
    """
    config = {
        "thought": identity(policy.form),
        "settings": {
            "temperature": settings.temperature,
            "top_p": settings.top_p,
            "max_response_tokens": settings.max_response_tokens,
        },
        "intervention": intervention,
        "engine": identity(engine),
        **policy.config,
    }
    inputs = {"prompts": prompts, "thoughts": thoughts, **policy.inputs}
    return store.request(INTERVENE, config, inputs, seed=seed, how={"engine": how(engine)}, runs_on=engine.runs_on)


def answer_settings(sample: SampleConfig, evaluation: EvalConfig, *, is_baseline: bool = False) -> SampleConfig:
    """Return how answers that are compared are sampled: the group `sample` as `eval` changes it.

    Args:
        sample: Of the policy.
        evaluation: How policies are compared.
        is_baseline: Whether they are the baseline's, of which there may be another number.
    """
    return replace(
        sample,
        num_samples=evaluation.baseline_samples if is_baseline else evaluation.num_samples,
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
    )


def compare(
    judging: Judging,
    prompts: Artifact,
    answers: Artifact,
    baseline: Artifact | None,
    *,
    settings: EvalConfig,
    seed: int,
) -> Artifact:
    """Judge two sets of answers to the test instructions and return their comparison.

    Judged together where a score means something only beside others. A judge is asked only about pairs that count: of
    one that gives verdicts, each of the policy's samples meets one of the baseline's (`responses.matched_pairs`).

    Args:
        judging: The judge.
        prompts: Instructions, or a benchmark.
        answers: The policy's completions.
        baseline: The baseline's completions; None takes the benchmark's own reference answers.
        settings: How policies are compared.
        seed: Of the step.
    """
    both = {"prompts": prompts, "completions_0": answers, **_answers_of(baseline, prompts, role="completions_1")}
    inputs = {"prompts": prompts, "completions": answers, **_answers_of(baseline, prompts, role="baseline_completions")}
    config: dict[str, Any] = {"confidence": settings.confidence, "no_response": settings.no_response}
    if judging.gives_verdicts:
        inputs["verdicts"] = judging.verdicts(both, pairs="matched")
    elif judging.is_comparative:
        inputs["scores"] = inputs["baseline_scores"] = judging.score(both, is_versus=True)
        config["are_together"] = True
    else:
        alone = _answers_of(baseline, prompts, role="completions_0")
        inputs["scores"] = judging.score({"prompts": prompts, "completions_0": answers})
        inputs["baseline_scores"] = judging.score({"prompts": prompts, **alone})
        config["are_together"] = False
    return judging.store.request(COMPARE, config, inputs, seed=seed)


def _answers_of(baseline: Artifact | None, benchmark: Artifact, *, role: str) -> dict[str, Artifact]:
    return {"references": benchmark} if baseline is None else {role: baseline}
