"""What the pipeline asks the store for: where each step runs, what it depends on, and that it is listed once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from made_rows import completion
from test_config import PLAIN, composed

from tpo.plan.stages import PlannedArtifact, PlannedPipeline, PlannedRun, PlanStore, plan_job
from tpo.store.artifacts import finish
from tpo.store.job import load_work
from tpo.store.records import Completion, Score
from tpo.store.stage import Budget, RunsOn, Stage
from tpo.store.store import Store

SERVERS = ["judge.server.base_url=http://a/v1", "judge.name=some/judge"]


def planned(*overrides: str) -> PlannedRun:
    return plan_job(composed(*PLAIN, "artifacts_dir=nowhere", *overrides))


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], {"sample": "device", "judge": "kept", "train": "device", "model": "device"}),
        (["engine=vllm"], {"sample": "vllm", "judge": "kept", "train": "device"}),
        (["engine=server", "engine.base_urls=[http://a/v1]"], {"sample": "host", "judge": "kept"}),
        (["judge=armorm"], {"judge": "kept"}),
        (["judge=length"], {"judge": "host"}),
        (["judge=likelihood"], {"judge": "kept", "normalize": "host"}),
        (["judge=llm_pairwise", *SERVERS, "judge.backend=server"], {"verdicts": "host", "rate": "host"}),
        (["judge=llm_pairwise", "judge.backend=vllm", "judge.name=some/judge"], {"verdicts": "vllm"}),
        ([], {"pairs": "host", "compare": "host", "preflight": "host", "prompts": "host"}),
        (["prompts=synthetic", "engine=vllm"], {"synthesize": "vllm"}),
    ],
)
def test_steps_run_where_what_they_compute_with_is(overrides: list[str], expected: dict[str, str]) -> None:
    found: dict[str, set[str]] = {}
    for artifact in planned(*overrides).stages:
        found.setdefault(artifact.manifest["stage"], set()).add(artifact.manifest["runs_on"])
    assert {stage: found[stage] for stage in expected} == {stage: {place} for stage, place in expected.items()}


def test_work_of_every_step_is_there() -> None:
    for overrides in (["prompts=synthetic"], ["judge=likelihood"], ["judge=llm_pairwise", *SERVERS]):
        for artifact in planned(*overrides).stages:
            assert callable(load_work(artifact.manifest["work"]))


def test_training_of_several_processes_is_launched_with_what_it_depends_on() -> None:
    trainings = [
        artifact.manifest
        for artifact in planned("train.num_processes=2", "train.micro_batch_size=1").stages
        if artifact.manifest["stage"] == "train"
    ]
    assert trainings and all(
        manifest["processes"] == manifest["config"]["accelerate"] and manifest["processes"]["num_processes"] == 2
        for manifest in trainings
    )


def test_store_remembers_what_it_was_asked_once_and_in_order(tmp_path: Path) -> None:
    def execute(path: Path) -> None:
        finish(path, metrics={}, started=0)

    store = Store(tmp_path, execute=execute)
    first, second = Stage("first", 1, "nowhere:work"), Stage("second", 2, "nowhere:work", runs_on=RunsOn.DEVICE)
    one = store.request(first, {})
    two = store.request(second, {}, {"one": one}, budget=Budget(tokens=7, num_prompts=2))
    assert store.request(first, {}).artifact_id == one.artifact_id
    assert store.asked == [one, two]
    assert two.manifest["inputs"] == {"one": one.artifact_id} and two.manifest["runs_on"] == "device"
    assert two.budget == Budget(tokens=7, num_prompts=2) and one.budget is None
    assert store.request(second, {}, {"one": one}).budget == two.budget, "it is no part of the identity"


def test_how_and_where_are_no_part_of_the_identity(tmp_path: Path) -> None:
    ids = []
    make: Callable[..., Any] = Store(tmp_path, execute=lambda path: finish(path, metrics={}, started=0)).request
    for more in ({}, {"how": {"a": 1}}, {"runs_on": RunsOn.VLLM}, {"processes": {"n": 2}}, {"budget": Budget(1)}):
        ids.append(make(Stage("any", 1, "nowhere:work"), {"x": 1}, seed=3, **more).artifact_id)
    assert len(set(ids)) == 1


def test_scores_of_policies_that_are_judged_together_come_apart_by_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    config = composed(*PLAIN, "judge=llm_pairwise", *SERVERS, "eval.num_samples=2", "artifacts_dir=nowhere")
    pipeline = PlannedPipeline(config, PlanStore(Path("nowhere")))
    rows: dict[type[Any], list[Any]] = {
        Score: [Score("p", index, float(index), None, None, 0) for index in range(4)],
        Completion: [completion("p", index, "yes") for index in range(2)],
    }
    monkeypatch.setattr(PlannedArtifact, "rows", lambda _, kind: rows[kind])
    first, second = pipeline._scores([pipeline.answer(pipeline.seed_policy)] * 2)
    assert [(row.sample_index, row.score) for row in first] == [(0, 0.0), (1, 1.0)]
    assert [(row.sample_index, row.score) for row in second] == [(0, 2.0), (1, 3.0)]


def samples(run: PlannedRun) -> list[dict[str, Any]]:
    """The requests to sample answers to the test instructions."""
    manifests = [artifact.manifest for artifact in run.stages if artifact.manifest["stage"] == "sample"]
    return [manifest for manifest in manifests if manifest["config"]["split"] == "test"]


def test_the_null_control_is_further_draws_of_the_baselines_policy() -> None:
    settings = ["num_iterations=0", "eval.num_samples=3", "eval.baseline_samples=2"]
    plain, controlled = planned(*settings), planned(*settings, "eval.null_control=true")
    baseline, control, policy = samples(controlled)
    assert samples(plain) == [baseline, policy]
    assert [row["config"]["settings"]["num_samples"] for row in (baseline, policy, control)] == [2, 3, 3]
    assert control["config"]["thought"] == baseline["config"]["thought"] != policy["config"]["thought"]
    assert len({row["seed"] for row in (baseline, policy, control)}) == 3, "draws of its own"


def model_of(*overrides: str) -> PlannedArtifact:
    return next(stage for stage in planned(*overrides).stages if stage.manifest["stage"] == "model")


def test_what_a_chat_template_is_given_and_its_date_are_part_of_the_identity() -> None:
    settings = ([], ["model.template_date=2026-01-02"], ["+model.template_arguments.date_string=x"])
    ids = [model_of(*more).artifact_id for more in settings]
    assert len({*ids}) == 3 and model_of().artifact_id == ids[0]
    contexts = [
        sample["config"]["thought"]
        for sample in samples(planned("num_iterations=0", "+thought.template_arguments.x=1"))
    ]
    assert [thought["template_arguments"] for thought in contexts] == [{}, {"x": 1}], "the baseline's, the policy's"


def test_a_baseline_that_thinks_is_asked_as_it_is() -> None:
    baseline, policy = samples(planned("num_iterations=0", "thought=think", "model.direct_answers=stripped"))
    assert [row["config"]["thought"]["thinking"] for row in (baseline, policy)] == ["default", "on"]
    no_think, none = (samples(planned("num_iterations=0", f"thought={name}")) for name in ("no_think", "none"))
    assert no_think == none


def test_the_null_control_of_a_run_without_thoughts_samples_nothing() -> None:
    settings = ["thought=none", "num_iterations=1"]
    plain, controlled = planned(*settings), planned(*settings, "eval.null_control=true")
    assert [stage.artifact_id for stage in plain.stages] == [stage.artifact_id for stage in controlled.stages]


@pytest.mark.parametrize(("judge", "stage"), [("length", "judge"), ("random", "judge")])
def test_a_second_judge_samples_nothing(judge: str, stage: str) -> None:
    plain = planned("eval.num_samples=2")
    second = planned("eval.num_samples=2", f"judge@eval.judge={judge}")
    known = {artifact.artifact_id for artifact in plain.stages}
    more = [artifact.manifest for artifact in second.stages if artifact.artifact_id not in known]
    assert known <= {artifact.artifact_id for artifact in second.stages}
    assert {manifest["stage"] for manifest in more} == {"preflight", stage, "compare"}
    assert all(manifest["config"]["judge"]["kind"] == judge for manifest in more if manifest["stage"] == stage)
    compared = [row.manifest for row in second.stages if row.manifest["stage"] == "compare"]
    assert len(compared) == 2 * 2 and len(samples(second)) == 3, "iterations 0 and 1, by each judge; with the baseline"


def places(*overrides: str) -> list[str]:
    """Where the steps that use the device run, in order, each place once for steps that follow each other there."""
    found = [artifact.manifest["runs_on"] for artifact in planned(*overrides).stages]
    used = [place for place in found if place != "host"]
    return [place for position, place in enumerate(used) if position == 0 or used[position - 1] != place]


@pytest.mark.parametrize("control", ["eval.null_control=false", "eval.null_control=true"])
def test_what_vllm_samples_is_asked_for_before_a_judge_needs_the_device(control: str) -> None:
    # Of an iteration: the judge, training, the answers of the epochs, the judge, and the answers to the test with the
    # next iteration's samples.
    found = places("engine=vllm", "judge=armorm", "num_iterations=3", "train.num_epochs=3", control)
    assert found == ["device", "vllm", "kept", *["device", "vllm", "kept", "vllm", "kept"] * 3]
