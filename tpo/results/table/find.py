"""Finding and reading results: runs, evaluations and measured judges, each a folder below `runs/`."""

import glob
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tpo.store.errors import TpoError

REPOSITORY = Path(__file__).parents[3]
RUNS_DIR = "TPO_RUNS_DIR"  # an environment variable: the folder that takes the place of runs/


class ResultError(TpoError):
    """A folder holds no results, or damaged ones."""


@dataclass(frozen=True)
class Run:
    """A finished run of `python -m tpo.run`."""

    path: Path
    summary: dict[str, Any]
    config: dict[str, Any]  # empty where the folder holds none

    @property
    def confidence(self) -> float:
        """Of its intervals; a summary of an earlier version leaves it to the config.

        Raises:
            ResultError: If neither says.
        """
        found = self.summary.get("confidence", self.config.get("eval", {}).get("confidence"))
        if found is None:
            raise ResultError(f"{self.path}: no confidence in summary.json or config.json. Repeat the run's command")
        return float(found)


@dataclass(frozen=True)
class Evaluation:
    """A finished evaluation of `python -m tpo.evaluate`; `kind` is the summary's "evaluation"."""

    path: Path
    summary: dict[str, Any]

    @property
    def kind(self) -> str:
        """Which evaluation it is."""
        kind: str = self.summary["evaluation"]
        return kind


@dataclass(frozen=True)
class Judges:
    """Judges that `python -m tpo.evaluate.agreement` measured on the same data, the best first, unscored ones last."""

    path: Path
    results: list[dict[str, Any]]


R = TypeVar("R", Run, Evaluation, Judges)


def read(path: Path) -> Run | Evaluation | Judges | None:
    """Return what the folder `path` holds, or None if that is nothing that can be drawn, or is not finished.

    Raises:
        ResultError: If a file is not JSON.
    """
    if (path / "summary.json").exists():
        summary = load_json(path / "summary.json")
        if "iterations" in summary:
            config = path / "config.json"
            return Run(path, summary, load_json(config) if config.exists() else {})
        return Evaluation(path, summary) if "evaluation" in summary else None
    results = read_judges(path)
    return Judges(path, results) if results else None


def read_judges(path: Path) -> list[dict[str, Any]]:
    """Return the judges measured in the folder `path`, the best first, those that scored nothing last."""
    found = [load_json(file) for file in sorted(path.glob("*.json"))]
    results = [result for result in found if isinstance(result, dict) and "slices" in result]
    rates = {id(result): result["slices"]["all"]["rate"] for result in results}
    return sorted(results, key=lambda result: (rates[id(result)] is None, -(rates[id(result)] or 0)))


def matching(patterns: Sequence[str]) -> list[Path]:
    """Return what matches glob patterns relative to the repository's root, sorted, each once.

    Where the environment variable `TPO_RUNS_DIR` is set, the folder that it names, itself relative to the root or
    absolute, is meant wherever a pattern starts with `runs/`.
    """
    runs_dir = REPOSITORY / os.environ.get(RUNS_DIR, "runs")
    wanted = [
        runs_dir / pattern.removeprefix("runs/") if pattern.startswith("runs/") else REPOSITORY / pattern
        for pattern in patterns
    ]
    return sorted({Path(name) for pattern in wanted for name in glob.glob(str(pattern))})


class Sorted(NamedTuple):
    """Folders by what they hold: see `sort_folders`."""

    runs: list[Run]
    unfinished: list[Path]  # runs without a summary
    others: dict[Path, str]  # what they hold instead, for example "an evaluation"


def sort_folders(names: Sequence[str]) -> Sorted:
    """Return what folders hold, sorted by absolute path, each once, however often and in whichever order it is named.

    Args:
        names: Folders, or glob patterns (see `matching`).

    Raises:
        ResultError: If a name matches nothing, or a file is not JSON.
    """
    paths: set[Path] = set()
    for name in names:
        matched = [Path(name)] if Path(name).exists() else [path for path in matching([name]) if path.is_dir()]
        if not matched:
            raise ResultError(
                f"{name}: there is no such folder. Name folders below runs/, such as runs/quickstart-bdbd3c7e264f, or "
                "quote a pattern, such as 'runs/quickstart-*'; `make quickstart` makes a run"
            )
        paths |= {path.resolve() for path in matched}
    found = Sorted([], [], {})
    for path in sorted(paths):
        result = read(path) if path.is_dir() else None
        config = load_json(path / "config.json") if (path / "config.json").exists() else {}
        match result:
            case Run():
                found.runs.append(result)
            case Evaluation():
                found.others[path] = "an evaluation"
            case Judges():
                found.others[path] = "measured judges"
            case None if "num_iterations" in config and not (path / "summary.json").exists():
                found.unfinished.append(path)
            case None:
                found.others[path] = "no run's config.json and summary.json" if path.is_dir() else "a file"
    return found


def find(patterns: Sequence[str], kind: type[R]) -> list[R]:
    """Return the results of one kind among the folders that match `patterns` (see `matching`), sorted by path."""
    found = [read(path) for path in matching(patterns) if path.is_dir()]
    return [result for result in found if isinstance(result, kind)]


def load_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        ResultError: If it is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultError(f"{path} is not JSON ({error}). Repeat the command that made it.") from error
