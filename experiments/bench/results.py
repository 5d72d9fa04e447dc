"""Medians, ratios and ranges over rounds; pure."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple


class Spread(NamedTuple):
    """A median with the smallest and the largest value, over `num` rounds."""

    median: float
    low: float
    high: float
    num: int


def spread(values: Sequence[float]) -> Spread | None:
    """Return the median and the range of values, or None of none."""
    if not values:
        return None
    return Spread(statistics.median(values), min(values), max(values), len(values))


def speedup(ours: Mapping[int, float], other: Mapping[int, float], *, is_rate: bool) -> Spread | None:
    """Return how many times as fast ours is: the ratio of the medians, with the range of the rounds' own ratios.

    Contenders of the same round ran one after the other, so that a machine that slows down slows both; the range says
    what is left.

    Args:
        ours: Round to value.
        other: Likewise.
        is_rate: Whether a larger value is faster; else values are seconds.

    Returns:
        Over the rounds that have both; None where none has.
    """
    rounds = sorted(set(ours) & set(other))
    if not rounds:
        return None
    fast = [ours[number] if is_rate else other[number] for number in rounds]
    slow = [other[number] if is_rate else ours[number] for number in rounds]
    ratios = [high / low for high, low in zip(fast, slow, strict=True)]
    return Spread(statistics.median(fast) / statistics.median(slow), min(ratios), max(ratios), len(rounds))


def summarize_contender(runs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return a contender's entry in the file, without its runs: status, spreads of value, seconds, start-up, memory.

    Args:
        runs: As `process.run_contenders` returns them, each with its "round". The status is "ok" where all are.
    """
    done = [run for run in runs if run["status"] == "ok"]
    faults = sorted({run["status"] for run in runs} - {"ok"})
    memory = {device: max(run["peak_memory_mib"][device] for run in done) for device in _devices(done)}
    return {
        "status": "; ".join(faults) or "ok",
        **{
            key: _as_dict(spread([run[key] for run in done if run[key] is not None]))
            for key in ("value", "seconds", "startup_s")
        },
        "peak_memory_mib": memory,
    }


def value_of_rounds(runs: Sequence[Mapping[str, Any]], *, is_rate: bool) -> dict[int, float]:
    """Return round to value, that of the slowest where several ran at a time."""
    values: dict[int, float] = {}
    for run in runs:
        if run["status"] == "ok":
            number, value = run["round"], run["value"]
            slowest = min if is_rate else max
            values[number] = slowest(values.get(number, value), value)
    return values


def kept_speed(
    quiet: Mapping[str, Sequence[Mapping[str, Any]]],
    other: Mapping[str, Sequence[Mapping[str, Any]]],
    *,
    is_rate: bool,
) -> dict[str, Any]:
    """Return for each contender the share of its quiet speed that it keeps under another condition.

    Args:
        quiet: Contender to its runs.
        other: Likewise, under the other condition.
        is_rate: Of the part's value.
    """
    found = {
        name: speedup(
            value_of_rounds(runs, is_rate=is_rate),
            value_of_rounds(quiet.get(name, ()), is_rate=is_rate),
            is_rate=is_rate,
        )
        for name, runs in other.items()
    }
    return {name: share._asdict() for name, share in found.items() if share is not None}


def summarize_condition(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], comparisons: Sequence[tuple[str, str]], *, is_rate: bool
) -> dict[str, Any]:
    """Return "contenders" and "speedups" of a part of the benchmark under one condition.

    Args:
        runs: Contender to its runs.
        comparisons: (ours, other) whose ratio is wanted.
        is_rate: Of the part's value.
    """
    values = {name: value_of_rounds(found, is_rate=is_rate) for name, found in runs.items()}
    return {
        "contenders": {name: {**summarize_contender(found), "runs": list(found)} for name, found in runs.items()},
        "speedups": [
            {"ours": ours, "other": other, **_as_dict(found)}
            for ours, other in comparisons
            if (found := speedup(values.get(ours, {}), values.get(other, {}), is_rate=is_rate))
        ],
    }


def compare_values(first: Sequence[float], second: Sequence[float]) -> dict[str, Any]:
    """Return how far apart two contenders' results are, beside how far their own values spread."""
    differences = [abs(one - two) for one, two in zip(first, second, strict=True)]
    return {
        "num_values": len(differences),
        "max_abs_difference": max(differences, default=None),
        "standard_deviation": statistics.pstdev(first) if first else None,
    }


def _devices(runs: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({device for run in runs for device in run["peak_memory_mib"]})


def _as_dict(found: Spread | None) -> dict[str, Any]:
    return {} if found is None else found._asdict()
