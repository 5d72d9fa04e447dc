"""Whether results are still those of the run: summaries that were edited, artifacts that were computed anew."""

import json
import logging
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import made_up
import pytest
from test_stale import SAMPLE, Rounding, run

from tpo.results.folder import settings_of, stage_list
from tpo.results.read import FinishedRun, ResultError, contents_of, load_json, read_run
from tpo.results.run import forget_other_results
from tpo.results.tracking import TRACKED
from tpo.store.files import write_json, write_sealed
from tpo.store.verify import main as verify


@pytest.fixture
def finished(tmp_path: Path) -> FinishedRun:
    """A run whose one stage is its comparison, with its artifact."""
    stages = run(tmp_path / "artifacts", Rounding(), (SAMPLE,))
    path = tmp_path / "quickstart-1"
    path.mkdir()
    config = made_up.config() | {"artifacts_dir": str(tmp_path / "artifacts")}
    summary = made_up.full_summary() | {"stages": stage_list(stages, run=path.name), "settings": settings_of(config)}
    write_json(path / "config.json", config)
    write_sealed(path / "summary.json", summary)
    return read_run(path)


def test_sealed_summary_reads_as_it_was_written(finished: FinishedRun) -> None:
    assert finished.summary == json.loads(json.dumps(finished.summary)) and "digest" not in finished.summary
    [content] = contents_of(finished.summary).values()
    assert len(content) == 64


def test_edited_win_rate_is_named_and_not_shown(finished: FinishedRun) -> None:
    path = finished.path / "summary.json"
    value = json.loads(path.read_text())
    value["iterations"][-1]["win_rate"] = {**value["iterations"][-1]["win_rate"], "value": 0.99}
    path.write_text(json.dumps(value))
    with pytest.raises(ResultError, match=r"summary.json was edited.*Repeat the command that made it"):
        read_run(finished.path)


@pytest.mark.parametrize(
    ("change", "is_seen"),
    [
        ({"seed": 7}, True),
        ({"train": {}}, True),
        ({"new": None}, True),
        # Other than the name of the run says, but a repetition may have them so.
        ({"artifacts_dir": "elsewhere", "tracking": {"kind": "none"}, "isolate_stages": None}, False),
    ],
)
def test_edited_settings_are_named_and_not_shown(
    finished: FinishedRun, change: dict[str, Any], is_seen: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path = finished.path / "config.json"
    write_json(path, json.loads(path.read_text()) | change)
    with pytest.raises(ResultError, match=r"config.json was edited.*Repeat the c") if is_seen else nullcontext():
        read_run(finished.path)
    artifacts = finished.path.parent / "artifacts"
    verify([str(finished.path), "--artifacts", str(artifacts)])
    assert ("config.json was edited" in capsys.readouterr().out) is is_seen


@pytest.mark.parametrize(
    ("name", "value"), [("summary.json", {"iterations": []}), ("length.json", {"slices": {}}), ("summary.json", [])]
)
def test_numbers_without_a_digest_are_not_shown(name: str, value: Any, tmp_path: Path) -> None:
    write_json(tmp_path / name, value)
    with pytest.raises(ResultError, match=f"{name} (has no digest of its own|is damaged).*Repeat the command"):
        load_json(tmp_path / name)


def test_a_stage_without_content_is_no_artifacts(finished: FinishedRun, caplog: pytest.LogCaptureFixture) -> None:
    [stage] = finished.summary["stages"]
    del stage["content"]
    assert not finished.peak_memory() and "was computed anew since" in caplog.text


def test_artifact_computed_anew_is_not_the_runs(finished: FinishedRun, caplog: pytest.LogCaptureFixture) -> None:
    [stage] = finished.summary["stages"]
    assert finished.peak_memory()
    shutil.rmtree(finished.artifacts_dir / stage["artifact_id"])
    assert not finished.peak_memory() and not caplog.records, "it is not at hand"
    run(finished.artifacts_dir, Rounding(), (SAMPLE,))
    assert finished.peak_memory(), "it holds what it held"
    shutil.rmtree(finished.artifacts_dir / stage["artifact_id"])
    run(finished.artifacts_dir, Rounding(sample=1), (SAMPLE,))
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert not finished.peak_memory()
    assert "was computed anew since, so it is left out; repeat the run" in caplog.text


@pytest.mark.parametrize("changes", [{}, {"num_pairs": 7}], ids=["the_same", "others"])
def test_a_run_with_other_results_is_tracked_again(
    changes: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = [{"iteration": 0, "win_rate": 0.5, "num_pairs": 3}]
    write_sealed(tmp_path / "summary.json", {"iterations": before})
    forget_other_results(tmp_path, before)
    write_json(tmp_path / TRACKED, {"mode": "online"})
    forget_other_results(tmp_path, [before[0] | changes])
    assert (tmp_path / TRACKED).exists() == (not changes)
    assert ("repeat the command to track these" in caplog.text) == bool(changes)
