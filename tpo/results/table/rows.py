"""Which lines a table has: a run at an iteration each, or runs that differ in one setting together."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from tpo.results.table.find import ResultError, Run
from tpo.results.table.settings import flat_settings, swept_settings

#: Each run's last iteration, all iterations, or one by its number.
Iteration = int | Literal["last", "all"]


@dataclass(frozen=True)
class Row:
    """One line: a run at an iteration, or several runs that differ in the averaged setting only."""

    runs: tuple[Run, ...]
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


def make_rows(runs: Sequence[Run], *, iteration: Iteration = "last", over: str | None = None) -> list[Row]:
    """Return a table's lines in the order of the settings, then of iterations and names; the runs' order is no matter.

    Args:
        runs: Those that did not reach the iteration are left out.
        iteration: Which of each run's.
        over: Dotted key of the setting that is averaged over. Runs that differ in nothing else share a line; of two
            that do not differ in it either, the first by path counts. A run without a config has its own line.

    Raises:
        ResultError: If no run's config has the key `over`.
    """
    runs = sorted(runs, key=lambda run: str(run.path))
    flat = [flat_settings(run.config) for run in runs]
    if over is not None and runs and not any(over in config for config in flat):
        raise ResultError(f"--over {over}: no run's config.json has this key. Give one as in conf/, such as seed")
    values = [config.pop(over, None) if over is not None else None for config in flat]
    lines: dict[tuple[str, int], dict[str, tuple[Run, dict[str, Any], Any, dict[str, Any]]]] = {}
    for run, config, value, settings in zip(runs, flat, values, swept_settings(flat), strict=True):
        same = json.dumps(config, sort_keys=True) if over is not None and config else str(run.path)
        for entry in _entries(run, iteration):
            line = lines.setdefault((same, entry["iteration"]), {})
            line.setdefault(json.dumps(value), (run, entry, value, settings))
    rows = []
    for line in lines.values():
        found_runs, entries, found_values, (settings, *_) = zip(*line.values(), strict=True)
        rows.append(Row(found_runs, entries, found_values, settings))
    return sorted(rows, key=lambda row: ([_place(value) for value in row.settings.values()], row.iteration, row.name))


def _entries(run: Run, iteration: Iteration) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = run.summary["iterations"]
    match iteration:
        case "all":
            return entries
        case "last":
            return entries[-1:]
        case _:
            return [entry for entry in entries if entry["iteration"] == iteration]


def _place(value: Any) -> tuple[int, float, str]:
    """Numbers come first, by size, then text; a setting that a run does not have comes last."""
    if isinstance(value, int | float):
        return (0, float(value), "")
    return (2, 0.0, "") if value is None else (1, 0.0, str(value))
