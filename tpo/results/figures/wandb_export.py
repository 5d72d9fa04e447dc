"""Runs read from CSV files that the W&B web page exports, for figures of runs whose folders are not at hand.

In a workspace, put `eval/*` metrics on a line plot whose x axis is `iteration`, then choose "Export CSV". The file
has a column "iteration", and for each run and metric the columns "<run> - <metric>", "<run> - <metric>__MIN" and
"<run> - <metric>__MAX" (equal, where nothing is smoothed or grouped). Metrics may be spread over several files: a
plot with `eval/win_rate`, `eval/win_rate_low` and `eval/win_rate_high` gives rates with their intervals,
`eval/win_rate_num_prompts` their n, `eval/mean_thought_tokens` and `eval/mean_response_tokens` the lengths.
"""

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from tpo.results.table.find import ResultError, matching
from tpo.results.table.table import LENGTHS, RATES

AXIS = "iteration"


def find_exports(patterns: Sequence[str]) -> list[Path]:
    """Return the CSV files that match glob patterns relative to the repository's root (see `tpo.results.table.find`)."""
    return [path for path in matching(patterns) if path.suffix == ".csv"]


def read_exports(paths: Iterable[Path]) -> dict[str, dict[str, Any]]:
    """Return, by run, what a run's `summary.json` would say as far as the files have it.

    "experiment" is the run's name; "judge", "baseline" and "confidence" are null, as no chart shows them. An iteration
    has both win rates, "num_prompts" null where it was not exported, and the mean lengths, null likewise.

    Raises:
        ResultError: If a file's first column is not "iteration", or a cell is not a number.
    """
    runs: dict[str, dict[int, dict[str, float]]] = {}
    for path in paths:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = csv.DictReader(file)
            if not rows.fieldnames or rows.fieldnames[0] != AXIS:
                raise ResultError(f"{path}: the first column is not {AXIS!r}. Export a line plot with that x axis.")
            for row in rows:
                iteration = int(_number(path, AXIS, row[AXIS]))
                for column, value in row.items():
                    run, separator, metric = column.rpartition(" - ")
                    if not separator or not metric.startswith("eval/") or not value:
                        continue
                    found = runs.setdefault(run, {}).setdefault(iteration, {})
                    found[metric.removeprefix("eval/")] = _number(path, column, value)
    return {run: _summary(run, entries) for run, entries in runs.items()}


def _summary(run: str, entries: dict[int, dict[str, float]]) -> dict[str, Any]:
    iterations = [
        {
            "iteration": iteration,
            **{key: _win_rate(metrics, key) for key in RATES},
            **{key: metrics.get(key) for key in LENGTHS},
        }
        for iteration, metrics in sorted(entries.items())
    ]
    return {"experiment": run, "judge": None, "baseline": None, "confidence": None, "iterations": iterations}


def _win_rate(metrics: dict[str, float], key: str) -> dict[str, Any]:
    low, high = metrics.get(f"{key}_low"), metrics.get(f"{key}_high")
    count = metrics.get(f"{key}_num_prompts")
    return {
        "rate": metrics.get(key),
        "interval": None if low is None or high is None else [low, high],
        "num_prompts": None if count is None else int(count),
        "num_unscored": None,
    }


def _number(path: Path, column: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ResultError(f"{path}: {text!r} in the column {column!r} is not a number") from None
