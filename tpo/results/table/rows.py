"""Which rows a table has, a run at an iteration each or runs that differ in one setting together; how runs differ."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tpo.config.schema import flatten
from tpo.results.folder import NOT_IDENTITY
from tpo.results.read import FinishedRun, ResultError
from tpo.store.text import labels

#: Each run's last iteration, all iterations, or one by its number.
Iteration = int | Literal["last", "all"]

LONGEST_LABEL = 56  # characters


@dataclass(frozen=True)
class TableRow:
    """A run at an iteration, or several runs that differ in the averaged setting only."""

    runs: tuple[FinishedRun, ...]
    entries: tuple[dict[str, Any], ...]  # of each run's summary, the iteration
    values: tuple[Any, ...]  # each run's value of the averaged setting; None where nothing is averaged
    settings: dict[str, Any]  # those in which the table's runs differ

    @property
    def name(self) -> str:
        """The run's folder; of several, the experiment."""
        if len(self.values) == 1 and self.values[0] is None:
            return self.runs[0].path.name
        return "/".join(sorted({run.summary["experiment"] for run in self.runs}))

    @property
    def iteration(self) -> int:
        """The number of the iteration."""
        iteration: int = self.entries[0]["iteration"]
        return iteration


def make_rows(runs: Sequence[FinishedRun], *, iteration: Iteration = "last", over: str | None = None) -> list[TableRow]:
    """Return a table's rows in the order of the settings, then of iterations and names; the runs' order is no matter.

    Args:
        runs: Those that did not reach the iteration are left out.
        iteration: Which of each run's.
        over: Dotted key of the setting that is averaged over. Runs that differ in nothing else share a row; of two
            that do not differ in it either, the first by path counts.

    Raises:
        ResultError: If no run's config has the key `over`.
    """
    runs = sorted(runs, key=lambda run: str(run.path))
    flat = [flat_settings(run.config) for run in runs]
    if over is not None and runs and not any(over in config for config in flat):
        raise ResultError(f"--over {over}: no run's config.json has this key. Give one as in conf/, such as seed")
    values = [config.pop(over, None) if over is not None else None for config in flat]
    parts: dict[tuple[str, int], dict[str, tuple[FinishedRun, dict[str, Any], Any, dict[str, Any]]]] = {}
    for run, config, value, settings in zip(runs, flat, values, swept_settings(flat), strict=True):
        same = json.dumps(config, sort_keys=True) if over is not None else str(run.path)
        for entry in run.summary["iterations"][-1:] if iteration == "last" else run.summary["iterations"]:
            if iteration in ("last", "all", entry["iteration"]):
                part = parts.setdefault((same, entry["iteration"]), {})
                part.setdefault(json.dumps(value), (run, entry, value, settings))
    rows = []
    for part in parts.values():
        found_runs, entries, found_values, (settings, *_) = zip(*part.values(), strict=True)
        rows.append(TableRow(found_runs, entries, found_values, settings))
    return sorted(rows, key=lambda row: ([_place(value) for value in row.settings.values()], row.iteration, row.name))


def _place(value: Any) -> tuple[int, float, str]:
    """Numbers come first, by size, then text; a setting that a run does not have comes last."""
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))


# --- settings ---------------------------------------------------------------------------------------------------


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's settings by dotted key, without those that say nothing about the result, such as folders."""
    return flatten({key: value for key, value in config.items() if key not in NOT_IDENTITY})


def swept_settings(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each config, the settings in which not all are equal, by dotted key, None where a config lacks one.

    A group whose `name` or `kind` differs is called by it alone (`thought`: "generic"), without the settings that
    it determines, such as the text of the thought prompt.
    """
    flat = [flat_settings(config) for config in configs]
    keys = dict.fromkeys(key for config in flat for key in config)
    columns = {key: [config.get(key) for config in flat] for key in keys}
    swept = {key: values for key, values in columns.items() if any(value != values[0] for value in values)}
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


def label_runs(runs: Sequence[FinishedRun]) -> dict[str, FinishedRun]:
    """Return runs by the shortest name that tells them apart.

    That is the experiment's name, unless all runs share it, and the settings in which runs of an experiment differ;
    where there are none, or for any of these runs more than fit into a figure, the folder's name.
    """
    names = [run.summary["experiment"] for run in runs]
    is_shared = len(set(names)) == 1
    for name in [name for name, count in Counter(names).items() if count > 1]:
        same = [index for index, run in enumerate(runs) if run.summary["experiment"] == name]
        swept = swept_settings([runs[index].config for index in same])
        told = [[f"{key.split('.')[-1]}={value}" for key, value in settings.items()] for settings in swept]
        whole = [" ".join(parts if parts and is_shared else [name, *parts]) for parts in told]
        do_fit = all(len(label) <= LONGEST_LABEL for label in whole)
        for index, label in zip(same, whole, strict=True):
            names[index] = label if do_fit else runs[index].path.name
    for is_whole in (False, True):  # folders of one name may lie in different places
        counts = Counter(names)
        names = [
            name if counts[name] == 1 else str(run.path) if is_whole else run.path.name
            for name, run in zip(names, runs, strict=True)
        ]
    called = labels(names, longest=LONGEST_LABEL)
    return {called[name]: run for name, run in zip(names, runs, strict=True)}
