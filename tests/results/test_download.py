"""Results read back from W&B: through a fake of its public API, with W&B's signatures, as there is no server here."""

import inspect
import json
from pathlib import Path
from typing import Any, ClassVar, TextIO

import made_up
import pytest
import wandb
import wandb.apis.public
from wandb.errors import CommError

from tpo.results.__main__ import main
from tpo.results.read import read_folders
from tpo.results.tracking.connect import TrackingError
from tpo.results.tracking.download import FILES, download_results
from tpo.store.files import write_sealed

SUMMARY, CONFIG = made_up.full_summary(), made_up.config()
EVALUATION = {"evaluation": "gsm8k", "accuracy": 0.5}


class FakeFile:
    """As much of `wandb.apis.public.File` as is used; refuses to write over a file unless told, as W&B's does."""

    def __init__(self, name: str, content: Any) -> None:
        self.name, self.content = name, content

    def download(self, root: str = ".", replace: bool = False) -> TextIO:
        path = Path(root) / self.name
        if path.exists() and not replace:
            raise ValueError("File already exists")
        write_sealed(path, self.content) if self.name == "summary.json" else path.write_text(json.dumps(self.content))
        return path.open()


class FakeRun:
    """As much of `wandb.apis.public.Run` as is used."""

    def __init__(self, run_id: str, **contents: Any) -> None:
        self.id = run_id
        files = {"config.yaml": {}, **{f"{name}.json": content for name, content in contents.items()}}
        self.contents = [FakeFile(name, content) for name, content in files.items()]

    def files(self, names: list[str] | None = None) -> list[FakeFile]:
        return [file for file in self.contents if not names or file.name in names]


class FakeApi:
    """As much of `wandb.Api` as is used; finds one project."""

    projects: ClassVar[dict[str, list[FakeRun]]] = {}

    def __init__(self, timeout: int | None = None) -> None:
        assert timeout, "nobody waits for ever"

    def runs(self, path: str | None = None) -> list[FakeRun]:
        if path == "lab/broken":
            raise CommError("the connection was lost\nat once")
        if path not in self.projects:
            raise ValueError(f"Could not find project {path}")
        return self.projects[path]


@pytest.fixture
def project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A project of W&B with two finished runs, an unfinished one and an evaluation; returns where they will lie."""
    second = {**CONFIG, "thought": {**CONFIG["thought"], "name": "none"}}
    runs = [
        FakeRun("quickstart-a", config=CONFIG, summary=SUMMARY),
        FakeRun("quickstart-b", config=second, summary=SUMMARY),
        FakeRun("quickstart-half"),
        FakeRun("evaluate-gsm8k-c", config={}, summary=EVALUATION),
    ]
    monkeypatch.setattr(FakeApi, "projects", {"lab/tpo": runs})
    monkeypatch.setattr(wandb, "Api", FakeApi)
    monkeypatch.setattr("tpo.results.tracking.download.has_wandb_key", lambda: True)
    monkeypatch.setattr("tpo.results.tracking.download.unreachable", lambda: None)
    monkeypatch.setattr("tpo.results.read.REPOSITORY", tmp_path)
    return tmp_path / "wandb" / "lab" / "tpo"


def test_the_fake_takes_what_wandb_takes() -> None:
    for fake, real in (
        (FakeApi.__init__, wandb.Api.__init__),
        (FakeApi.runs, wandb.Api.runs),
        (FakeRun.files, wandb.apis.public.Run.files),
        (FakeFile.download, wandb.apis.public.File.download),
    ):
        taken = inspect.signature(real).parameters
        for name, parameter in inspect.signature(fake).parameters.items():
            assert taken[name].default == parameter.default, f"{fake.__qualname__}: {name}"


def test_a_project_is_read_as_folders_are(project: Path) -> None:
    for _ in range(2):  # what was downloaded before is replaced
        folders = read_folders(["wandb:lab/tpo"])
    assert [run.path for run in folders.runs] == [project / "quickstart-a", project / "quickstart-b"]
    assert [(run.summary, run.config["thought"]["name"]) for run in folders.runs] == [
        (SUMMARY, "generic"),
        (SUMMARY, "none"),
    ]
    assert [(found.path.name, found.summary) for found in folders.evaluations] == [("evaluate-gsm8k-c", EVALUATION)]
    assert folders.others == [project / "quickstart-half"], "it has not finished"
    assert sorted(path.name for path in project.rglob("*.*")) == sorted(3 * FILES), "and nothing else is asked for"


@pytest.mark.parametrize(
    ("pattern", "names"), [("quickstart-*", ["quickstart-a", "quickstart-b"]), ("quickstart-b", ["quickstart-b"])]
)
def test_runs_are_chosen_by_their_ids(pattern: str, names: list[str], project: Path) -> None:
    assert [run.path.name for run in read_folders([f"wandb:lab/tpo/{pattern}"]).runs] == names


def test_the_table_is_made_of_a_project(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["wandb:lab/tpo"]) == 0
    printed = capsys.readouterr().out
    assert "quickstart-a" in printed and "thought" in printed and "1 not a run" not in printed
    assert "evaluate-gsm8k-c (an evaluation), quickstart-half" in " ".join(printed.split())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lab", "give wandb:entity/project"),
        ("lab/", "give wandb:entity/project"),
        ("/tpo", "give wandb:entity/project"),
        ("lab/tpo/a/b", "give wandb:entity/project"),
        ("lab/other", "wandb:lab/other: W&B does not give it (Could not find project lab/other)"),
        ("lab/broken", "wandb:lab/broken: W&B does not give it (the connection was lost at once)"),
    ],
)
def test_what_wandb_does_not_give_is_a_sentence(
    name: str, message: str, project: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([f"wandb:{name}"]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("has_key", "reason", "message"),
    [
        (False, None, "no key of W&B is found; see `wandb login`"),
        (True, "W&B does not answer", "W&B does not answer. Offline runs are read from their folders"),
    ],
)
def test_without_a_key_or_an_answer_nothing_is_asked(
    has_key: bool, reason: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpo.results.tracking.download.has_wandb_key", lambda: has_key)
    monkeypatch.setattr("tpo.results.tracking.download.unreachable", lambda: reason)
    monkeypatch.setattr(wandb, "Api", None)
    with pytest.raises(TrackingError, match=message.replace("(", r"\(")):
        download_results("lab/tpo", tmp_path)
