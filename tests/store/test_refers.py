"""Where `python -m tpo.gc` looks for what refers to artifacts, and that it refuses a place where nothing does."""

import shutil
from pathlib import Path

import pytest
from test_gc import finished_run
from test_stale import SAMPLE, Rounding, run

from tpo.store.files import write_json
from tpo.store.gc import find, main
from tpo.store.refers import places_of_runs


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`runs` where the command runs, with a run that needs none of the artifacts."""
    monkeypatch.chdir(tmp_path)
    return finished_run(tmp_path / "runs", "other-0").parent


def test_runs_is_read_beside_what_is_given(
    root: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sampled, judged, paired = run(root, Rounding())
    finished_run(runs, "quickstart-1", judged.artifact_id)
    finished_run(tmp_path / "more", "quickstart-2", sampled.artifact_id)
    for more in ([], ["--runs", "more"], ["--runs", "more", "--runs", str(runs)]):
        assert main([str(root), *more]) == 0
        said = capsys.readouterr().out
        assert said.count("no run refers to it") == 1 and f"{paired.path}: no run" in said and "in 1 place that" in said
    shutil.rmtree(runs)
    assert main([str(root), "--runs", "more"]) == 0
    assert capsys.readouterr().out.count("no run refers to it") == 2


@pytest.mark.parametrize("place", ["empty", "hydra", "missing"])
@pytest.mark.parametrize("is_default", [True, False])
def test_a_place_without_runs_is_refused_since_nothing_would_be_kept(
    place: str, is_default: bool, root: Path, runs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifacts = run(root, Rounding())
    given = tmp_path / "other"
    if is_default:
        shutil.rmtree(runs)
        given = runs
    if place != "missing":
        (given / ("hydra/quickstart-1" if place == "hydra" else ".")).mkdir(parents=True)
        if place == "hydra":
            write_json(given / "hydra" / "quickstart-1" / "config.json", {})
    capsys.readouterr()  # what computing the artifacts logs, to whatever handlers other tests have left
    assert main([str(root), "--delete", *([] if is_default else ["--runs", "other"])]) == 2
    said = capsys.readouterr()
    assert not said.out and said.err.count("\n") == 1 and all(artifact.path.exists() for artifact in artifacts)
    assert said.err.startswith(f"error: {given.name}: there is no ") and "--runs" in said.err


@pytest.mark.parametrize("name", ["a/config.json", "a/summary.json", "a/b/length.asked", "agreement-1/length.json"])
def test_all_that_refers_to_artifacts_is_a_run(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # where pytest was started, a quickstart may have left `runs`
    (sampled,) = run(root, Rounding(), (SAMPLE,))
    file = tmp_path / "other" / name
    file.parent.mkdir(parents=True)
    file.write_text(f'["{sampled.artifact_id}"]')
    assert places_of_runs([tmp_path / "other"]) == [tmp_path / "other"]
    assert find(root, [tmp_path / "other"]) == []
