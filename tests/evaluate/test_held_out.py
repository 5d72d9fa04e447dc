"""A run is measured on what it held out, on its own artifacts; what it has seen is refused, whatever it is called."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_run import Finished, run_here, tiny_overrides

from tpo.config.check import check_evaluate
from tpo.evaluate.__main__ import run_evaluation
from tpo.evaluate.inherit import compose_evaluation
from tpo.evaluate.lineage import SeenError
from tpo.store.artifacts import open_artifact
from tpo.store.layout import MANIFEST
from tpo.store.records import Prompt

NUM_ROWS = 40  # of the file: 8 for the test, 3 for validation, and four iterations of 6 for training
UNUSUAL = [
    "judge=length",
    "seed=5",
    "rating=win_count",
    "eval.confidence=0.9",
    "num_iterations=2",
    "train.num_epochs=1",
]


def write_instructions(path: Path) -> Path:
    rows = [{"text": f"What is {number} plus {number}?"} for number in range(NUM_ROWS)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture(scope="module")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Two iterations on a file whose rows are free to go into any split."""
    root = tmp_path_factory.mktemp("held_out")
    path = write_instructions(root / "mine.jsonl")
    left_out = ("judge",)
    tiny = [item for item in tiny_overrides(tiny_model, root) if not item.startswith(left_out)]
    return run_here(root, [*tiny, "prompts=file", f"prompts.path={path}", *UNUSUAL])


def evaluate(finished: Finished, *overrides: str) -> dict[str, Any]:
    config = compose_evaluation([*overrides, "tracking=none", f"runs_dir={finished.root}/runs"])
    check_evaluate(config)
    summary: dict[str, Any] = json.loads((run_evaluation(config) / "summary.json").read_text())
    return summary


def computed(finished: Finished) -> set[str]:
    return {path.parent.name for path in (finished.root / "artifacts").glob(f"*/{MANIFEST}")}


@pytest.mark.parametrize("iteration", [2, 1, 0])
def test_an_evaluation_of_a_run_computes_nothing_that_the_run_has(finished: Finished, iteration: int) -> None:
    before = computed(finished)
    summary = evaluate(finished, f"policy={finished.path}@{iteration}")
    assert computed(finished) == before
    entry = finished.summary["iterations"][iteration]
    assert {key: summary[key] for key in ("win_rate", "mean_score", "categories")} == {
        key: entry[key] for key in ("win_rate", "mean_score", "categories")
    }
    assert (summary["judge"], summary["seed"], summary["confidence"]) == ("length", 5, 0.9)
    assert summary["num_left_out"] == 0


def spellings(finished: Finished, tmp_path: Path) -> list[str]:
    """The run's policies under other names, with the settings that a run would bring."""
    adapter = finished.root / "artifacts" / finished.summary["iterations"][2]["adapter"]
    shutil.copytree(adapter, tmp_path / "copy")
    (tmp_path / "link").symlink_to(adapter)
    return [f"{finished.path}", f"{finished.path}@1", f"{adapter}", f"{tmp_path}/copy", f"{tmp_path}/link"]


def test_planted_contamination_is_refused_under_every_name(finished: Finished, tmp_path: Path) -> None:
    before = computed(finished)
    moved = write_instructions(tmp_path / "another-name.jsonl")
    model = [item for item in tiny_overrides(Path(finished.config.model.name), finished.root) if "model" in item]
    for number, policy in enumerate(spellings(finished, tmp_path)):
        file = ["prompts=file", f"prompts.path={moved}", "prompts.num_train=6", "prompts.num_validation=3"]
        by_run = [] if number < 2 else [*model, "judge=length", f"artifacts_dir={finished.root}/artifacts"]
        with pytest.raises(SeenError, match="of the 20 test instructions of another-name.jsonl") as caught:
            evaluate(finished, f"policy={policy}", *by_run, *file, "seed=1", "prompts.num_test=20")
        assert str(caught.value).startswith(f"{policy}: ")
    # Nothing was sampled or judged for that.
    assert {name.partition("-")[0] for name in computed(finished) - before} <= {"prompts", "adapter", "preflight"}
    # The policy before training has seen nothing.
    own = ["seed=1", "prompts.num_test=20"]
    assert evaluate(finished, f"policy={finished.path}@0", *own)["win_rate"]["num_prompts"] == 20
    with pytest.raises(SeenError):
        evaluate(finished, f"policy={finished.path}@0", f"baseline={finished.path}@1", *own)


def test_a_larger_test_of_the_same_seed_takes_what_the_run_validated_on(finished: Finished) -> None:
    with pytest.raises(SeenError, match="3 of the 11 test instructions"):
        evaluate(finished, f"policy={finished.path}@1", "prompts.num_test=11", "prompts.num_validation=0")


def test_what_was_seen_is_left_out_and_counted(finished: Finished, caplog: pytest.LogCaptureFixture) -> None:
    own = ["seed=1", "prompts.num_test=20", "eval.seen=leave_out"]
    with caplog.at_level(logging.WARNING):
        summary = evaluate(finished, f"policy={finished.path}", *own)
    used = {"train-1", "train-2", "validation"}
    [prompts] = finished.artifacts("prompts")
    seen = {row.prompt_id for row in prompts.rows(Prompt) if row.split in used}
    kept = list(open_artifact(finished.root / "artifacts" / summary["prompts"]).rows(Prompt))
    tests = {row.prompt_id for row in kept if row.split == "test"}
    assert tests and not tests & seen
    assert summary["num_left_out"] + summary["win_rate"]["num_prompts"] + summary["win_rate"]["num_unscored"] == 20
    assert summary["num_left_out"] == 20 - len(tests) > 0
    assert f"{summary['num_left_out']} of the 20 test instructions of mine.jsonl" in caplog.text


def test_a_benchmarks_questions_are_looked_at_too(finished: Finished, tmp_path: Path) -> None:
    path = tmp_path / "gsm8k.jsonl"
    rows = [
        {"question": f"What is {number} plus {number}?", "answer": f"#### {2 * number}"}
        for number in range(NUM_ROWS + 5)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = [f"policy={finished.path}", "eval=gsm8k", f"eval.path={path}"]
    # 12 for training in two iterations, 3 for validation; the benchmark asks them in other words.
    with pytest.raises(SeenError, match="15 of the 45 test instructions of gsm8k"):
        evaluate(finished, *given)
    summary = evaluate(finished, *given, "eval.seen=leave_out")
    assert summary["num_left_out"] == 15 and summary["accuracy"]["strict"]["num_prompts"] == 30


def test_a_policy_from_elsewhere_is_said_to_be_unknown(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = Path(finished.config.model.name)
    shared = [
        item for item in tiny_overrides(model, finished.root) if not item.startswith(("train.", "pairs.", "judge"))
    ]
    with caplog.at_level(logging.WARNING):
        evaluate(finished, *shared, "judge=length", f"policy={model}", "prompts.num_test=2")
    assert f"policy {model}: what " in caplog.text and "is not known here" in caplog.text


def test_a_run_on_a_model_that_was_trained_here_does_not_test_on_what_that_saw(
    finished: Finished, tiny_model: Path
) -> None:
    tiny = [item for item in tiny_overrides(tiny_model, finished.root) if not item.startswith("judge")]
    file = ["prompts=file", f"prompts.path={finished.root}/mine.jsonl", "judge=length"]
    full = ["train.method=full", "train.num_epochs=1", "num_iterations=1"]
    first = run_here(finished.root, [*tiny, *file, *full])
    trained = finished.root / "artifacts" / first.summary["iterations"][1]["adapter"]
    again = [item for item in tiny if not item.startswith("model.name")]
    with pytest.raises(SeenError, match=f"model {trained}: .* of the 8 test instructions of mine.jsonl"):
        run_here(finished.root, [*again, *file, f"model.name={trained}", "seed=1", "num_iterations=0"])
    assert run_here(finished.root, [*again, *file, f"model.name={trained}", "num_iterations=0"]).summary["iterations"]
