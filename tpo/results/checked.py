"""Rates of checks that a program made (`CheckResult` rows): by instruction, by type, and what training changed. Pure.

A response passes where it passes all checks of its instruction; an instruction's value is the share of its responses
that do.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any

from tpo.checks import RULES
from tpo.results.change import paired_change
from tpo.results.rate import Rate
from tpo.results.stats import mean_interval
from tpo.store.records import CheckResult


def pass_rates(results: Iterable[CheckResult], *, rule: str = "strict") -> dict[str, float]:
    """Return for each instruction the share of its responses that pass all checks."""
    passed: dict[str, dict[int, bool]] = defaultdict(dict)
    for row in results:
        if row.rule == rule:
            samples = passed[row.prompt_id]
            samples[row.sample_index] = samples.get(row.sample_index, True) and row.is_passed
    return {prompt_id: mean(samples.values()) for prompt_id, samples in passed.items()}


def by_group(results: Sequence[CheckResult], *, trained: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return `pass_rates` of the instructions whose checks are all of trained types, and of those with an unseen one.

    Args:
        results: Of all instructions.
        trained: Types that training instructions have.
    """
    seen = set(trained)
    unseen = {row.prompt_id for row in results if row.name not in seen}
    rates = pass_rates(results)
    return {
        "trained": {key: value for key, value in rates.items() if key not in unseen},
        "unseen": {key: value for key, value in rates.items() if key in unseen},
    }


def by_type(results: Iterable[CheckResult], *, rule: str = "strict") -> dict[str, dict[str, float]]:
    """Return for each type of check, for each instruction that has it, the share of responses that pass it."""
    passed: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in results:
        if row.rule == rule:
            passed[row.name][row.prompt_id].append(row.is_passed)
    return {
        name: {prompt_id: mean(values) for prompt_id, values in found.items()} for name, found in sorted(passed.items())
    }


def summarize(
    results: Sequence[CheckResult], *, bases: Mapping[str, str], trained: Iterable[str], confidence: float
) -> dict[str, Any]:
    """Return the share of instructions whose checks are passed: strictly, loosely, by trained types, and by type.

    Args:
        results: Of all checks of all responses.
        bases: Prompt id to the identity of the base instruction: intervals are clustered by it.
        trained: Types that training instructions have.
        confidence: Of the intervals.

    Returns:
        "strict", "loose", "trained" and "unseen" (both strict), rates as dictionaries; "types" by type, strict, trained
        ones first; "unseen_types", their names; "num_no_response".
    """
    names = sorted({row.name for row in results})
    seen = [name for name in names if name in set(trained)]
    unseen = [name for name in names if name not in set(trained)]

    def rate(values: Mapping[str, float]) -> dict[str, Any] | None:
        if not values:
            return None
        clusters = [bases[prompt_id] for prompt_id in values]
        interval = mean_interval(list(values.values()), confidence=confidence, clusters=clusters)
        return Rate(mean(values.values()), interval, len(values), 0).to_dict()

    groups, types = by_group(results, trained=seen), by_type(results)
    return {
        **{rule: rate(pass_rates(results, rule=rule)) for rule in RULES},
        **{name: rate(values) for name, values in groups.items()},
        "types": {name: rate(types[name]) for name in (*seen, *unseen)},
        "unseen_types": unseen,
        "num_no_response": len({(row.prompt_id, row.sample_index) for row in results if row.error is not None}),
    }


def checked_change(
    first: Sequence[CheckResult],
    last: Sequence[CheckResult],
    *,
    bases: Mapping[str, str],
    unseen: Iterable[str],
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Return how the strict rates changed on the same instructions, in total and by type.

    Args:
        first: Of the untrained policy, or of a baseline.
        last: Of the trained one, or of whatever is compared with the baseline.
        bases: Prompt id to the identity of the base instruction: intervals are clustered by it.
        unseen: Types that no training instruction has.
        confidence: Of the intervals.
        seed: Of the sign flips.

    Returns:
        "checked", "checked_trained", "checked_unseen" (None where there are no such instructions), rates as
        dictionaries, and "checked_types" by type.
    """

    def change(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any] | None:
        return paired_change(before, after, bases, confidence=confidence, seed=seed).to_dict() if after else None

    names = {row.name for row in last} - set(unseen)
    groups, later_groups = by_group(first, trained=names), by_group(last, trained=names)
    types, later_types = by_type(first), by_type(last)
    return {
        "checked": change(pass_rates(first), pass_rates(last)),
        "checked_trained": change(groups["trained"], later_groups["trained"]),
        "checked_unseen": change(groups["unseen"], later_groups["unseen"]),
        "checked_types": {name: change(types[name], later_types[name]) for name in later_types},
    }
