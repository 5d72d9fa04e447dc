"""A run's results under the names that W&B shows: pure functions of what `summary.json` and comparisons hold.

`tpo.results.tracking` lists the names.
"""

from collections.abc import Iterator, Mapping
from typing import Any

from tpo.results.rate import REQUIRED, Rate
from tpo.store.text import one_line

NONE = (None, None)  # an interval that is not there
RATES = ("win_rate", "win_rate_answered", "win_rate_length_controlled")
MEANS = (
    *("mean_thought_tokens", "mean_response_tokens", "mean_score"),
    *("format_rate", "parse_rate", "cut_thought_rate", "empty_thought_rate"),
)
COUNTS = ("num_answers", "num_no_response")

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
    metrics |= _headline(entry, "eval/")
    for key in COUNTS:
        metrics[f"eval/{key}"] = entry[key]
    for name, rate in entry["categories"].items():
        metrics[f"eval/category/{one_line(name)}"] = rate["rate"]
    for key in MEANS:
        metrics[f"eval/{key}"] = entry[key]
    metrics["pairs/num_pairs"] = entry["num_pairs"]
    for reason, count in entry["drops"].items():
        metrics[f"pairs/drop_{reason}"] = count
    for stage, found in (("sample", entry["sampling"]), ("judge", entry["judging"])):
        for name, value in (found or {}).items():
            if isinstance(value, (int, float)):
                metrics[f"{stage}/{name}"] = value
    return _measured(metrics)


def final_metrics(summary: dict[str, Any]) -> dict[str, Any]:
    """Return what a run is compared by, one value each; what was not measured is left out.

    Args:
        summary: `summary.json`.
    """
    last, stages = summary["iterations"][-1], summary["stages"]
    scores = last["validation_scores"]
    metrics: dict[str, Any] = {"num_iterations": last["iteration"]} | _headline(last, "final_")
    for name, value in (summary["null_control"] or {}).items():
        metrics |= _rate(f"null_control_{name}", Rate.from_dict(value))
    metrics |= {
        "final_mean_thought_tokens": last["mean_thought_tokens"],
        "final_mean_response_tokens": last["mean_response_tokens"],
        "final_cut_thought_rate": last["cut_thought_rate"],
        **{f"final_{key}": last[key] for key in COUNTS},
        "final_validation_score": max(scores.values()) if scores else None,
        "num_pairs": sum(entry["num_pairs"] for entry in summary["iterations"]),
        "num_stages": len(stages),
        "num_stages_reused": sum(stage["is_reused"] for stage in stages),
        "total_seconds": sum(stage["seconds"] for stage in stages),
        "computed_seconds": sum(stage["seconds"] for stage in stages if not stage["is_reused"]),
    }
    return _measured(metrics)


def _headline(entry: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Return an iteration's change since the untrained policy, its rates, and what the second judge says."""
    metrics: dict[str, Any] = {}
    for name, value in (entry["change"] or {}).items():
        metrics |= _change(f"{prefix}change_{name}", value)
    checked = entry.get("checked") or {}
    for name, key in (("checked", "strict"), ("checked_unseen", "unseen")):
        if checked.get(key) is not None:
            metrics |= _rate(f"{prefix}{name}", Rate.from_dict(checked[key]))
    for key in RATES:
        metrics |= _rate(f"{prefix}{key}", Rate.from_dict(entry[key]))
    second = entry["second_judge"] or {}
    for key in ("win_rate", "agreement"):
        metrics |= _rate(f"{prefix}second_judge_{key}", Rate.from_dict(second[key])) if second else {}
    return metrics | _change(f"{prefix}second_judge_change", second.get("change"))


def _change(name: str, value: Any) -> dict[str, Any]:
    """Return a change with its p-value; of several by type, which a table has, nothing."""
    if value is None or not set(value) >= REQUIRED:
        return {}
    rate = Rate.from_dict(value)
    return _rate(name, rate) | {f"{name}_p_value": rate.p_value}


def gain_rows(rates: Mapping[str, Rate], before: Mapping[str, Rate]) -> list[list[Any]]:
    """Return the rows of `GAIN_COLUMNS`, a category each, None where nothing was scored.

    Args:
        rates: Of `tpo.results.winrate.corrected_by_category`.
        before: The win rates of iteration 0; empty where there was none.
    """
    return [
        [
            one_line(name),
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
            yield from numbers(item, f"{name}/{one_line(key)}")
    elif isinstance(value, list):
        for position, item in enumerate(value):
            key = item.get("name", item.get("max_thought_tokens", position)) if isinstance(item, dict) else position
            yield from numbers(item, f"{name}/{one_line(str(key))}")


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
