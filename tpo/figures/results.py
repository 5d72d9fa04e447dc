"""Finding and reading results: runs, evaluations and measured judges, each a folder below `runs/`."""

import glob
import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from tpo.errors import TpoError
from tpo.summary import NOT_IDENTITY

REPOSITORY = Path(__file__).parents[2]
LONGEST_LABEL = 40  # characters
RUNS_DIR = "TPO_RUNS_DIR"  # an environment variable: the folder that takes the place of runs/


class ResultError(TpoError):
    """A folder holds no results, or damaged ones."""


@dataclass(frozen=True)
class Run:
    """A finished run of `python -m tpo.run`."""

    path: Path
    summary: dict[str, Any]
    config: dict[str, Any]  # empty where the folder holds none


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
    """Judges that `python -m tpo.agreement` measured on the same data, the best first, unscored ones last."""

    path: Path
    results: list[dict[str, Any]]


R = TypeVar("R", Run, Evaluation, Judges)


def read(path: Path) -> Run | Evaluation | Judges | None:
    """Return what the folder `path` holds, or None if that is nothing that can be drawn, or is not finished.

    Raises:
        ResultError: If a file is not JSON.
    """
    if (path / "summary.json").exists():
        summary = _load(path / "summary.json")
        if "iterations" in summary:
            config = path / "config.json"
            return Run(path, summary, _load(config) if config.exists() else {})
        return Evaluation(path, summary) if "evaluation" in summary else None
    results = read_judges(path)
    return Judges(path, results) if results else None


def read_judges(path: Path) -> list[dict[str, Any]]:
    """Return the judges measured in the folder `path`, the best first, those that scored nothing last."""
    found = [_load(file) for file in sorted(path.glob("*.json"))]
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


def find(patterns: Sequence[str], kind: type[R]) -> list[R]:
    """Return the results of one kind among the folders that match `patterns` (see `matching`), sorted by path."""
    found = [read(path) for path in matching(patterns) if path.is_dir()]
    return [result for result in found if isinstance(result, kind)]


def label_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Return runs by the shortest name that tells them apart.

    That is the experiment's name; where runs share it, also the settings in which these differ; where there are none,
    or more than fit into a figure, the folder's name.
    """
    names = [run.summary["experiment"] for run in runs]
    for name in [name for name, count in Counter(names).items() if count > 1]:
        same = [index for index, run in enumerate(runs) if run.summary["experiment"] == name]
        swept = swept_settings([runs[index].config for index in same])
        for index, settings in zip(same, swept, strict=True):
            long = " ".join([name, *(f"{key.split('.')[-1]}={value}" for key, value in settings.items())])
            names[index] = long if len(long) <= LONGEST_LABEL else runs[index].path.name
    counts = Counter(names)
    return {run.path.name if counts[name] > 1 else name: run for name, run in zip(names, runs, strict=True)}


def swept_settings(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each config, the settings in which not all are equal, by dotted key, None where a config lacks one.

    An empty config stands for one that is not known: it makes no difference, and has None everywhere.

    A group whose `name` or `kind` differs is called by it alone (`thought`: "generic"), without the settings that
    it determines, such as the text of the thought prompt.
    """
    flat = [_flatten({key: value for key, value in config.items() if key not in NOT_IDENTITY}) for config in configs]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    columns = {key: [config.get(key) for config in flat] for key in keys}
    known = [row for row, config in enumerate(flat) if config]
    swept = {key: values for key, values in columns.items() if any(values[row] != values[known[0]] for row in known)}
    titles = {key: key for key in swept}
    for group in {key.split(".")[0] for key in swept}:
        namer = next((f"{group}.{key}" for key in ("name", "kind") if f"{group}.{key}" in swept), None)
        if namer is None:
            continue
        titles[namer] = group
        for key in [key for key in titles if key.startswith(f"{group}.") and key != namer]:
            if _determines(swept[namer], swept[key]):
                del titles[key]
    return [{title: swept[key][row] for key, title in titles.items()} for row in range(len(configs))]


def _determines(names: Sequence[Any], values: Sequence[Any]) -> bool:
    by_name: dict[str, Any] = {}
    return all(by_name.setdefault(str(name), value) == value for name, value in zip(names, values, strict=True))


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in config.items():
        flat |= _flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def with_length_intervals(run: Run) -> dict[str, Any]:
    """Return a run's summary with intervals of the mean lengths, where the artifacts with its answers are at hand.

    Entries gain "thought_tokens" and "response_tokens": "mean", a 95 % "interval" (Student's t over instructions) and
    "num_prompts". Only answers that hold a response count, as in the summary's own means. A summary that does not name
    its artifacts, or whose artifacts lie elsewhere, comes back as it is.
    """
    artifacts_dir = REPOSITORY / run.config.get("artifacts_dir", "artifacts")
    entries = []
    for entry in run.summary["iterations"]:
        path = artifacts_dir / entry.get("artifacts", {}).get("answers", "unnamed")
        entries.append({**entry, **(_lengths(path) if (path / "manifest.json").exists() else {})})
    return {**run.summary, "iterations": entries}


def _lengths(path: Path) -> dict[str, Any]:
    import numpy as np
    from scipy.stats import t

    from tpo.artifacts import open_artifact
    from tpo.records import Completion

    answers = [row for row in open_artifact(path).rows(Completion) if row.response is not None]
    found = {}
    for part in ("thought", "response"):
        lengths = np.array([getattr(row, f"num_{part}_tokens") for row in answers], dtype=float)
        if len(lengths) < 2:
            continue
        half = t.ppf(0.975, len(lengths) - 1) * lengths.std(ddof=1) / np.sqrt(len(lengths))
        mean = float(lengths.mean())
        interval = [mean - float(half), mean + float(half)]
        found[f"{part}_tokens"] = {"mean": mean, "interval": interval, "num_prompts": len(lengths)}
    return found


def _load(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ResultError(f"{path} is not JSON ({error}). Repeat the command that made it.") from error
