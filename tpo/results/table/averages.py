"""Runs that differ in one setting, such as the seed, taken together: means over runs, in the shape of a summary."""

import json
from collections.abc import Sequence
from statistics import mean
from typing import Any

from tpo.results.rate import REQUIRED, Rate
from tpo.results.read import FinishedRun
from tpo.results.stats import student_interval
from tpo.results.table.rows import TableRow, flat_settings, label_runs, make_rows

LENGTHS = {"thought": "mean_thought_tokens", "response": "mean_response_tokens"}
#: What is a difference, and so no fraction: paired changes, and the null control's score.
SIGNED = {"change", "score"}


def average_runs(runs: Sequence[FinishedRun], *, over: str) -> dict[str, dict[str, Any]]:
    """Return a summary for all runs that differ in a setting only, by the shortest name that tells these apart.

    The figures that compare runs, and those of one run, draw it like a run's. Rates, changes and numbers are means over
    the runs that reached the iteration, intervals Student's t over runs, none of a single one; counts of a rate are
    sums. Iterations have "length_intervals" likewise. Texts, such as names of artifacts, are None where runs differ.

    Args:
        runs: In any order; of two that do not differ in `over` either, the first by path counts.
        over: The setting's dotted key.

    Returns:
        Summaries with one key more: "averaged", a dictionary of "over" and "num_runs".

    Raises:
        ResultError: If no run's config has the key.
    """
    groups: dict[str, list[TableRow]] = {}
    for row in make_rows(runs, iteration="all", over=over):
        groups.setdefault(json.dumps(row.settings), []).append(row)
    averaged = [_average(rows, over) for rows in groups.values()]
    return {label: run.summary for label, run in label_runs(averaged).items()}


def summaries_by_label(runs: Sequence[FinishedRun], *, over: str | None) -> dict[str, dict[str, Any]]:
    """Return `average_runs`, or with `over` None each run's own summary, by the shortest name that tells it apart."""
    if over is not None:
        return average_runs(runs, over=over)
    return {label: run.summary for label, run in label_runs(runs).items()}


def mean_rate(rates: Sequence[Rate], *, confidence: float, is_fraction: bool) -> Rate:
    """Return the mean over runs with Student's t interval over runs, none of a single run; fractions' within [0, 1]."""
    values = [rate.rate for rate in rates if rate.rate is not None]
    interval = None
    if len(values) > 1:
        low, high = student_interval(values, confidence=confidence)
        interval = (max(0.0, low), min(1.0, high)) if is_fraction else (low, high)
    num_prompts, num_unscored = (sum(getattr(rate, key) for rate in rates) for key in ("num_prompts", "num_unscored"))
    return Rate(mean(values) if values else None, interval, num_prompts, num_unscored)


def _average(rows: Sequence[TableRow], over: str) -> FinishedRun:
    """Return the runs of some rows, the iterations of one group, as one."""
    every = {run.path: run for row in rows for run in row.runs}
    first = next(iter(every.values()))
    confidence = first.summary["confidence"]
    entries = []
    for row in rows:
        entry = _mean(row.entries, confidence)
        means = {part: [found[key] for found in row.entries if found[key]] for part, key in LENGTHS.items()}
        edges = {part: list(student_interval(own, confidence=confidence)) for part, own in means.items() if own[1:]}
        entries.append(entry | {"length_intervals": edges})
    whole = [{**run.summary, "iterations": None, "stages": None} for run in every.values()]
    summary = _mean(whole, confidence) | {"iterations": entries, "stages": [], "confidence": confidence}
    summary["averaged"] = {"over": over, "num_runs": len(every)}
    config = {key: value for key, value in flat_settings(first.config).items() if key != over}
    return FinishedRun(first.path, summary, config)


def _mean(values: Sequence[Any], confidence: float, *, is_fraction: bool = True) -> Any:
    """Return the mean of nested dictionaries, key by key, over those that have the key."""
    known = [value for value in values if value is not None]
    if not known:
        return None
    if isinstance(known[0], dict):
        if set(known[0]) >= REQUIRED:
            rates = [Rate.from_dict(value) for value in known]
            return mean_rate(rates, confidence=confidence, is_fraction=is_fraction).to_dict()
        keys = dict.fromkeys(key for value in known for key in value)
        return {
            key: _mean([value.get(key) for value in known], confidence, is_fraction=is_fraction and key not in SIGNED)
            for key in keys
        }
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in known):
        return mean(known)
    return known[0] if all(value == known[0] for value in known) else None
