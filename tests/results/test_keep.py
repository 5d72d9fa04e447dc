"""What a record keeps of a run: enough for the table and the figures, and nothing of the machine."""

import json
import socket
from pathlib import Path
from typing import Any

import made_up
import pytest

from tpo.results.__main__ import main
from tpo.results.keep import keep_run
from tpo.results.read import REPOSITORY, ResultError, load_json, read_run
from tpo.store.files import write_json, write_sealed

KEPT = sorted(
    path
    for path in (REPOSITORY / "experiments").rglob("*.json")
    if path.name in ("config.json", "summary.json") and not path.parent.name.startswith("evaluate-")
)


def make_run(path: Path, *, seed: int = 0, settings: dict[str, Any] | None = None, **summary: Any) -> Path:
    config = json.loads(json.dumps(made_up.config()))
    config |= {"seed": seed, "artifacts_dir": str(path.parent / "artifacts"), "runs_dir": str(path.parent)}
    config |= {"tracking": {"kind": "wandb", "entity": "somebody"}, **(settings or {})}
    path.mkdir(parents=True)
    write_json(path / "config.json", config)
    write_sealed(path / "summary.json", {**made_up.full_summary(), "seed": seed, **summary})
    (path / "report.html").write_text("not kept")
    return path


def test_what_is_kept_is_as_it_was_without_places_and_accounts(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "runs" / "quickstart-1"))
    paths = keep_run(run, tmp_path / "kept")
    assert [path.relative_to(tmp_path).as_posix() for path in paths] == [
        "kept/quickstart-1/config.json",
        "kept/quickstart-1/summary.json",
    ]
    assert sorted(path.name for path in paths[0].parent.iterdir()) == ["config.json", "summary.json"]
    again = read_run(paths[0].parent)
    assert again.summary == run.summary
    neutral = {"artifacts_dir": "artifacts", "runs_dir": "runs", "tracking": {"kind": "none"}}
    assert again.config == {**run.config, **neutral}
    text = "".join(path.read_text() for path in paths)
    assert str(tmp_path) not in text and "somebody" not in text
    assert keep_run(run, tmp_path / "kept") == paths  # again: as it is


def test_kept_runs_are_tabulated_and_drawn_without_artifacts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for seed in range(2):
        make_run(tmp_path / "runs" / f"quickstart-{seed}", seed=seed)
    pattern = [str(path) for path in sorted((tmp_path / "runs").iterdir())]
    assert main([*pattern, "--keep", str(tmp_path / "kept")]) == 0
    kept = [str(path) for path in sorted((tmp_path / "kept").iterdir())]
    assert len(kept) == 2
    capsys.readouterr()
    assert main([*pattern, "--over", "seed"]) == 0
    before = capsys.readouterr().out
    assert main([*kept, "--over", "seed"]) == 0
    assert capsys.readouterr().out == before  # of made-up runs neither has artifacts
    assert main([*kept, "--figures", "--out", str(tmp_path / "figures")]) == 0
    assert (tmp_path / "figures" / "changes.png").exists()
    assert main([kept[0], "--page"]) == 0
    assert (Path(kept[0]) / "report.html").exists()


@pytest.mark.parametrize(
    ("settings", "summary", "named"),
    [
        ({"prompts": {"kind": "file", "path": "/nowhere/at/all.jsonl"}}, {}, "prompts.path of config.json"),
        ({"prompts": {"base": [{"path": "~/mine.jsonl"}]}}, {}, "prompts.base.0.path of config.json"),
        ({}, {"command": f"python -m tpo.run prompts.path={REPOSITORY / 'README.md'}"}, "command of summary.json"),
        ({"engine": {"base_urls": [f"http://{socket.gethostname()}:8000/v1"]}}, {}, "engine.base_urls.0"),
    ],
    ids=["absolute", "home", "in a command", "server"],
)
def test_names_of_the_machine_are_refused(
    tmp_path: Path, settings: dict[str, Any], summary: dict[str, Any], named: str
) -> None:
    if "engine" in settings and socket.gethostname() == "localhost":
        pytest.skip("the machine has no name")
    run = read_run(make_run(tmp_path / "runs" / "quickstart-1", settings=settings, **summary))
    with pytest.raises(ResultError, match="names something of this machine") as caught:
        keep_run(run, tmp_path / "kept")
    assert named in str(caught.value)
    assert not (tmp_path / "kept").exists()


@pytest.mark.parametrize(
    "text", ["yes/no", "Answer /think or /no_think.", "https://example.org/a/b", "and / or", "/ x"]
)
def test_texts_with_slashes_are_no_paths(tmp_path: Path, text: str) -> None:
    run = read_run(make_run(tmp_path / "runs" / "quickstart-1", settings={"thought": {"name": "a", "prompt": text}}))
    assert len(keep_run(run, tmp_path / "kept")) == 2


def test_reruns_of_one_name_are_kept_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = make_run(tmp_path / "a" / "quickstart-1")
    second = make_run(tmp_path / "b" / "quickstart-1", null_control=None)
    kept = tmp_path / "kept"
    assert main([str(first), "--keep", str(kept / "1")]) == 0
    assert main([str(second), "--keep", str(kept / "1")]) == 1
    assert "another run of this name" in capsys.readouterr().err
    assert load_json(kept / "1" / "quickstart-1" / "summary.json") == load_json(first / "summary.json")
    assert main([str(second), "--keep", str(kept / "2")]) == 0


def test_keep_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / "empty"), "--keep", str(tmp_path / "kept")]) == 1
    assert "no folder holds a finished run" in capsys.readouterr().err
    run = make_run(tmp_path / "runs" / "quickstart-1")
    (tmp_path / "file").write_text("")
    for options in (["--keep"], ["--out"], ["--figures", "--out"]):  # the kind: a folder that cannot be one
        for place in (tmp_path / "file", tmp_path / "file" / "below"):
            assert main([str(run), *options, str(place)]) == 1
            error = capsys.readouterr().err
            assert error.count("\n") == 1 and f"{tmp_path / 'file'}" in error and "cannot be written" in error
    with pytest.raises(SystemExit):
        main([str(run), "--keep", str(tmp_path / "kept"), "--over", "seed"])
    assert "--over says nothing about what is kept" in capsys.readouterr().err


@pytest.mark.skipif(not KEPT, reason="no record keeps runs yet")
def test_records_keep_no_name_of_a_machine(tmp_path: Path) -> None:
    for folder in sorted({path.parent for path in KEPT}):
        assert sum(path.stat().st_size for path in folder.glob("*.json")) < 100_000
        run = read_run(folder)
        for path in keep_run(run, tmp_path / str(folder).replace("/", "-")):
            assert path.read_bytes() == (folder / path.name).read_bytes()
