"""A whole run after its artifacts were deleted, computed anew with other rounding, edited and swept: R1 end to end."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from test_run import Finished, run_here, tiny_overrides
from test_stale import Rounding

import tpo.pipeline
import tpo.store.gc
import tpo.store.verify
from tpo.config.schema import Config
from tpo.sample.stages import SAMPLE
from tpo.store.artifacts import Artifact, open_artifact
from tpo.store.errors import ArtifactError
from tpo.store.layout import STALE
from tpo.store.records import Completion, Pair, read_records, write_records
from tpo.store.stage import Stage
from tpo.store.store import Store

SMALL = ("num_iterations=1", "train.num_epochs=2", "prompts.num_test=3", "prompts.num_validation=1")


@pytest.fixture
def run(tiny_model: Path, tmp_path: Path) -> Finished:
    return run_here(tmp_path, tiny_overrides(tiny_model, tmp_path, *SMALL))


def again(run: Finished) -> Finished:
    import tpo.run

    path = tpo.run.run_tpo(run.config, experiment="test")
    return Finished(run.root, run.config, path, json.loads((path / "summary.json").read_text()))


def verify(*paths: Path) -> int:
    return tpo.store.verify.main([str(path) for path in paths])


def require_pairs_of_completions(run: Finished) -> None:
    """The pairs that were trained on are made of the completions that are there."""
    [entry] = run.summary["iterations"][1:]
    pairs, sampled = (
        open_artifact(run.root / "artifacts" / entry["artifacts"][role]) for role in ("pairs", "completions")
    )
    rows = {row.key: row for row in sampled.rows(Completion)}
    for pair in pairs.rows(Pair):
        assert pair.chosen_ids == rows[pair.prompt_id, pair.chosen_index].completion_ids
        assert pair.rejected_ids == rows[pair.prompt_id, pair.rejected_index].completion_ids


def training_samples(run: Finished) -> Artifact:
    return open_artifact(run.root / "artifacts" / run.summary["iterations"][1]["artifacts"]["completions"])


@pytest.mark.slow
def test_samples_that_round_otherwise_are_never_mixed_with_pairs_of_before(
    run: Finished, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import tpo.sample.completions

    work = tpo.sample.completions.work

    def rounds_otherwise(job: Any) -> Any:
        found = work(job)
        rows = list(read_records(job.path / "rows.jsonl", Completion))
        write_records(job.path / "rows.jsonl", [_with_another_token(row) for row in rows])
        return found

    assert verify(run.path, run.root / "artifacts") == 0
    shutil.rmtree(training_samples(run).path)
    assert verify(run.path) == 1
    assert SAMPLE.work == "tpo.sample.completions:work"
    monkeypatch.setattr(tpo.sample.completions, "work", rounds_otherwise)
    other = again(run)
    require_pairs_of_completions(other)
    assert "stale (computed from another content of" in caplog.text
    stages = {path.name.partition("-")[0] for path in (run.root / "artifacts" / STALE).iterdir()}
    assert {"judge", "pairs", "train"} <= stages
    assert verify(other.path, run.root / "artifacts") == 0
    contents = [{stage["artifact_id"]: stage["content"] for stage in each.summary["stages"]} for each in (run, other)]
    assert contents[0].keys() == contents[1].keys() and contents[0] != contents[1]
    caplog.clear()
    assert again(other).summary["iterations"] == other.summary["iterations"]
    assert "computing" not in caplog.text and "stale" not in caplog.text


def _with_another_token(row: Completion) -> Completion:
    import msgspec

    return msgspec.structs.replace(row, completion_ids=[7, *row.completion_ids[1:]])


@pytest.mark.slow
def test_samples_computed_anew_alike_leave_the_rest_as_it_is(run: Finished, caplog: pytest.LogCaptureFixture) -> None:
    name = training_samples(run).artifact_id
    shutil.rmtree(run.root / "artifacts" / name)
    with caplog.at_level("INFO"):
        assert again(run).summary["iterations"] == run.summary["iterations"]
    computed = {line.split(": computing")[0] for line in caplog.messages if line.endswith(": computing")}
    assert computed == {name} and not (run.root / "artifacts" / STALE).exists()


def test_what_a_run_has_computed_before_it_was_killed_in_its_first_stages_stays(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed:
        def __init__(self, config: Config, store: Store) -> None:
            store._execute = Rounding(model=0)
            store.request(Stage("model", 1, "none"), {})
            raise KeyboardInterrupt

    monkeypatch.setattr(tpo.pipeline, "Pipeline", Killed)
    with pytest.raises(KeyboardInterrupt):
        run_here(tmp_path, tiny_overrides(tiny_model, tmp_path, *SMALL))
    [model], [folder] = (tmp_path / "artifacts").glob("model-*"), (tmp_path / "runs").iterdir()
    assert tpo.store.gc.find(tmp_path / "artifacts", [tmp_path / "runs"]) == []
    assert json.loads((folder / "summary.asked").read_text()) == [model.name]


@pytest.mark.slow
def test_a_run_that_is_repeated_after_gc_asks_for_nothing_again(
    run: Finished, caplog: pytest.LogCaptureFixture
) -> None:
    artifacts, runs = run.root / "artifacts", run.root / "runs"
    assert tpo.store.gc.main([str(artifacts), "--runs", str(runs), "--epochs", "--delete"]) == 0
    assert len({path.name for path in artifacts.glob("train-*/epoch-*")}) == 1
    with caplog.at_level("INFO"):
        assert again(run).summary["iterations"] == run.summary["iterations"]
    assert not [line for line in caplog.messages if line.endswith(": computing")]
    assert verify(run.path, artifacts) == 0
    [training] = artifacts.glob("train-*")
    gone = "epoch-1" if not (training / "epoch-1").exists() else "epoch-2"
    with pytest.raises(ArtifactError, match="was deleted by tpo.gc"):
        open_artifact(training).verified(gone)
