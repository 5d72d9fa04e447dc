"""Rates of checks that a program made (`CheckResult` rows): by instruction, by type, and what training changed. Pure.

A response passes where it passes all checks of its instruction; an instruction's value is the share of its responses
that do. What training could teach and what it could only carry over are two questions: the checked rate is that of
instructions whose types of checks training has, and those with another type, unseen, have a rate of their own.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
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


def split_unseen(
    results: Sequence[CheckResult], *, unseen: Collection[str]
) -> tuple[list[CheckResult], list[CheckResult]]:
    """Return the results of instructions without a check of these types, and of those with one."""
    apart = {row.prompt_id for row in results if row.name in unseen}
    return [row for row in results if row.prompt_id not in apart], [row for row in results if row.prompt_id in apart]


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
    """Return the share of instructions whose checks are passed, strictly, loosely and by type.

    Args:
        results: Of all checks of all responses.
        bases: Prompt id to the identity of the base instruction: intervals are clustered by it.
        trained: Types that training instructions have; where they have none, no type is unseen.
        confidence: Of the intervals.

    Returns:
        "strict" and "loose", of the instructions without unseen types, and "unseen", of those with one, strictly: rates
        as dictionaries, None where there are no such instructions; "types" by type, strict, unseen ones last;
        "unseen_types", their names; "num_no_response".
    """
    names, known = sorted({row.name for row in results}), set(trained)
    unseen = [name for name in names if known and name not in known]

    def rate(values: Mapping[str, float]) -> dict[str, Any] | None:
        if not values:
            return None
        clusters = [bases[prompt_id] for prompt_id in values]
        interval = mean_interval(list(values.values()), confidence=confidence, clusters=clusters)
        return Rate(mean(values.values()), interval, len(values), 0).to_dict()

    (inside, outside), types = split_unseen(results, unseen=unseen), by_type(results)
    return {
        **{rule: rate(pass_rates(inside, rule=rule)) for rule in RULES},
        "unseen": rate(pass_rates(outside)),
        "types": {name: rate(types[name]) for name in sorted(names, key=lambda name: (name in unseen, name))},
        "unseen_types": unseen,
        "num_no_response": len({(row.prompt_id, row.sample_index) for row in results if row.error is not None}),
    }


def checked_change(
    first: Sequence[CheckResult],
    last: Sequence[CheckResult],
    *,
    bases: Mapping[str, str],
    unseen: Collection[str],
    confidence: float,
    seed: int,
) -> dict[str, Any]:
    """Return how the strict rates changed on the same instructions.

    Args:
        first: Of the untrained policy, or of a baseline.
        last: Of the trained one, or of whatever is compared with the baseline.
        bases: Prompt id to the identity of the base instruction: intervals are clustered by it.
        unseen: Types that no training instruction has.
        confidence: Of the intervals.
        seed: Of the sign flips.

    Returns:
        "checked", of the instructions without unseen types, and "checked_unseen", of those with one: rates as
        dictionaries, None where there are no such instructions; "checked_types" by type.
    """

    def change(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, Any] | None:
        return paired_change(before, after, bases, confidence=confidence, seed=seed).to_dict() if after else None

    before, after = split_unseen(first, unseen=unseen), split_unseen(last, unseen=unseen)
    types, later_types = by_type(first), by_type(last)
    return {
        "checked": change(pass_rates(before[0]), pass_rates(after[0])),
        "checked_unseen": change(pass_rates(before[1]), pass_rates(after[1])),
        "checked_types": {name: change(types[name], later_types[name]) for name in later_types},
    }
