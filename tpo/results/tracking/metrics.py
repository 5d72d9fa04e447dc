"""A run's results under the names that W&B shows: pure functions of what `summary.json` and comparisons hold.

`tpo.results.tracking` lists the names.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tpo.results.rate import Rate
from tpo.results.stats import paired_difference
from tpo.store.records import Comparison

NONE = (None, None)  # an interval that is not there
RATES = ("win_rate", "win_rate_length_controlled")

#: Columns of `tables/category_gains`, of which `tpo.results.rate.Rate` explains most.
GAIN_COLUMNS = (
    "category",
    "num_prompts",
    "num_unscored",
    "win_rate_before",  # in iteration 0
    "win_rate",
    "gain",  # win_rate - 0.5
    "gain_low",
    "gain_high",
    "gain_low_simultaneous",
    "gain_high_simultaneous",
    "p_value",
    "adjusted_p_value",
)


def iteration_metrics(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an iteration's flat metrics; what was not measured is left out.

    Args:
        entry: Of `summary.json`'s `iterations`.
    """
    metrics: dict[str, Any] = {"iteration": entry["iteration"]}
    for key in RATES:
        metrics |= _rate(f"eval/{key}", Rate.from_dict(entry[key]))
    for name, rate in entry["categories"].items():
        metrics[f"eval/category/{name}"] = rate["rate"]
    for key in ("mean_thought_tokens", "mean_response_tokens", "format_rate", "parse_rate", "mean_score"):
        metrics[f"eval/{key}"] = entry[key]
    metrics["pairs/num_pairs"] = entry["num_pairs"]
    for reason, count in entry["drops"].items():
        metrics[f"pairs/drop_{reason}"] = count
    for stage, found in (("sample", entry["sampling"]), ("judge", entry["judging"])):
        for name, value in (found or {}).items():
            if isinstance(value, (int, float)):
                metrics[f"{stage}/{name}"] = value
    return _measured(metrics)


def final_metrics(summary: dict[str, Any], change: Rate | None) -> dict[str, Any]:
    """Return what a run is compared by, one value each; what was not measured is left out.

    Args:
        summary: `summary.json`.
        change: Of the win rate since iteration 0, None where no iteration followed.
    """
    last, stages = summary["iterations"][-1], summary["stages"]
    scores = last["validation_scores"]
    metrics: dict[str, Any] = {"num_iterations": last["iteration"]}
    for key in RATES:
        metrics |= _rate(f"final_{key}", Rate.from_dict(last[key]))
    metrics |= {
        "final_mean_thought_tokens": last["mean_thought_tokens"],
        "final_mean_response_tokens": last["mean_response_tokens"],
        "final_validation_score": max(scores.values()) if scores else None,
        "num_pairs": sum(entry["num_pairs"] for entry in summary["iterations"]),
        "num_stages": len(stages),
        "num_stages_reused": sum(stage["is_reused"] for stage in stages),
        "total_seconds": sum(stage["seconds"] for stage in stages),
        "computed_seconds": sum(stage["seconds"] for stage in stages if not stage["is_reused"]),
    }
    if change is not None:
        metrics |= _rate("final_minus_iteration_0", change) | {"final_minus_iteration_0_p_value": change.p_value}
    return _measured(metrics)


def win_rate_change(first: Sequence[Comparison], last: Sequence[Comparison], *, seed: int, confidence: float) -> Rate:
    """Return how much the win rate rose from one comparison to another of the same instructions."""
    before = {row.prompt_id: row.win for row in first}
    wins = [row.win for row in last]
    return paired_difference(wins, [before[row.prompt_id] for row in last], seed=seed, confidence=confidence)


def gain_rows(rates: Mapping[str, Rate], before: Mapping[str, Rate]) -> list[list[Any]]:
    """Return the rows of `GAIN_COLUMNS`, a category each, None where nothing was scored.

    Args:
        rates: Of `tpo.results.winrate.corrected_by_category`.
        before: The win rates of iteration 0; empty where there was none.
    """
    return [
        [
            name,
            rate.num_prompts,
            rate.num_unscored,
            before[name].rate if name in before else None,
            rate.rate,
            *(
                None if value is None else value - 0.5
                for value in (rate.rate, *(rate.interval or NONE), *(rate.simultaneous_interval or NONE))
            ),
            rate.p_value,
            rate.adjusted_p_value,
        ]
        for name, rate in rates.items()
    ]


def numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Yield every number within nested dictionaries and lists, with its path; a list's items go by their names."""
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield name, float(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from numbers(item, f"{name}/{key}")
    elif isinstance(value, list):
        for position, item in enumerate(value):
            key = item.get("name", item.get("max_thought_tokens", position)) if isinstance(item, dict) else position
            yield from numbers(item, f"{name}/{key}")


def _rate(name: str, rate: Rate) -> dict[str, Any]:
    low, high = rate.interval or NONE
    return {
        name: rate.rate,
        f"{name}_low": low,
        f"{name}_high": high,
        f"{name}_num_prompts": rate.num_prompts,
        f"{name}_num_unscored": rate.num_unscored,
    }


def _measured(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in metrics.items() if value is not None}
