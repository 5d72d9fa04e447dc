"""A run that goes on from another run's policy: the same policy to the last token, and the reference is that policy."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from test_run import Finished, run_here, tiny_overrides

from tpo.config.compose import compose_config
from tpo.config.fields import ConfigError
from tpo.config.schema import Config
from tpo.evaluate.inherit import settings_of_seed
from tpo.plan.stages import plan_job
from tpo.run import run_tpo
from tpo.store.artifacts import open_artifact
from tpo.store.records import Completion

SHORT = ["num_iterations=1", "train.num_epochs=1"]


def without_model(overrides: list[str]) -> list[str]:
    return [word for word in overrides if not word.startswith(("model=", "model."))]


def continued(root: Path, name: str, *more: str) -> Config:
    """The config of a run that names only what it goes on from; all else of the group `model` is found."""
    overrides = [*without_model(tiny_overrides(Path("unused"), root)), f"model.name={name}", *SHORT, *more]
    return compose_config(Config, overrides, find_under=settings_of_seed)


@pytest.fixture(scope="module")
def first(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    root = tmp_path_factory.mktemp("first")
    return run_here(root, tiny_overrides(tiny_model, root, *SHORT))


def go_on(first: Finished, name: str, *more: str) -> dict[str, Any]:
    path = run_tpo(continued(first.root, name, *more), experiment="second")
    return dict(json.loads((path / "summary.json").read_text()))


def answers(first: Finished, entry: dict[str, Any]) -> list[Completion]:
    return list(open_artifact(first.root / "artifacts" / entry["artifacts"]["answers"]).rows(Completion))


def test_the_second_run_starts_where_the_first_ended(first: Finished) -> None:
    second = go_on(first, f"{first.path}@1")
    untrained, trained = second["iterations"]
    (_, last) = first.summary["iterations"]
    assert answers(first, untrained) == answers(first, last), "iteration 0 is the first run's last policy"
    assert untrained["artifacts"]["answers"] == last["artifacts"]["answers"], "the very same step"
    assert trained["training"]["first_loss"] == pytest.approx(math.log(2), abs=1e-6)
    manifest = open_artifact(first.root / "artifacts" / trained["artifacts"]["train"]).manifest
    assert manifest["inputs"]["adapter"] == last["artifacts"]["train"], "its identity is the training before"
    assert answers(first, trained) != answers(first, untrained)


def test_an_untrained_iteration_is_the_model_itself(first: Finished, tiny_model: Path) -> None:
    plan = plan_job(continued(first.root, f"{first.path}@0"))
    own = plan_job(first.config)
    assert [stage.artifact_id for stage in plan.stages] == [stage.artifact_id for stage in own.stages]


def test_the_judge_that_is_the_seed_model_stays_the_base(first: Finished) -> None:
    own, second = plan_job(first.config), plan_job(continued(first.root, f"{first.path}@1"))
    judged = [
        {stage.manifest["inputs"]["model"] for stage in run.stages if stage.manifest["stage"] == "judge"}
        for run in (own, second)
    ]
    assert judged[0] == judged[1] and len(judged[0]) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["train.lora_rank=8"], r"train\.lora_rank=8, but training goes on with the adapter of .*@1, which has 4"),
        (["train.reference=seed"], r"train\.reference=seed: .* take train\.reference=previous"),
        (["train.method=full"], r"train\.method=full .* format=merged"),
        (["model.dtype=bfloat16"], r"model\.dtype=bfloat16, but the policy .*@1 was trained with float32"),
    ],
)
def test_what_cannot_go_on_is_said_before_anything_is_computed(first: Finished, changes: list[str], said: str) -> None:
    config = continued(first.root, f"{first.path}@1", *changes)
    with pytest.raises(ConfigError, match=said):
        plan_job(config)
