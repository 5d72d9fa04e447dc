"""Win rates with intervals, overall and per category; `tpo.evaluate.length_control` has those at equal length. Pure.

A comparison's win is 1, a loss 0, a tie one half. One that was not scored is missing: excluded and counted,
never a loss.
"""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tpo.results.rate import Rate
from tpo.results.stats import holm, mean_interval, sign_flip_test, simultaneous_confidence
from tpo.store.records import Comparison
from tpo.store.seeds import derive_seed


def win_rate(comparisons: Sequence[Comparison], *, confidence: float = 0.95) -> Rate:
    """Return the fraction of prompts on which the policy beats the baseline; a tie counts one half.

    A win may be any value in [0, 1]: a judge's preference, or the mean over several samples of both sides. The interval
    is `stats.mean_interval`, clustered by base instruction: Wilson's for wins and losses on different ones, narrower
    where ties or means vary less than those do.

    Args:
        comparisons: At most one per prompt.
        confidence: Nominal coverage in (0, 1).
    """
    scored = _scored(comparisons)
    num_unscored = len(comparisons) - len(scored)
    if not scored:
        return Rate(None, None, 0, num_unscored)
    wins = _wins(scored)
    interval = mean_interval(wins, confidence=confidence, clusters=_clusters(scored))
    return Rate(float(wins.mean()), interval, len(wins), num_unscored)


def win_rate_answered(comparisons: Sequence[Comparison], *, confidence: float = 0.95) -> Rate:
    """Return the win rate among the pairs in which the policy answered, each pair counting the same.

    `num_prompts` are the instructions that have such a pair, `num_unscored` those that the policy answered without one
    being scored. An instruction without any answer is in neither.

    Args:
        comparisons: At most one per prompt.
        confidence: Nominal coverage in (0, 1).
    """
    found = [row for row in comparisons if row.win_answered is not None]
    num_answered = sum(row.num_no_response < row.num_samples for row in comparisons)
    if not found:
        return Rate(None, None, 0, num_answered)
    counts = [row.num_answered_pairs for row in found]
    wins = np.repeat([row.win_answered for row in found], counts).astype(np.float64)
    clusters = np.repeat(_clusters(found), counts).tolist()
    interval = mean_interval(wins, confidence=confidence, clusters=clusters)
    return Rate(float(wins.mean()), interval, len(found), num_answered - len(found))


def _scored(comparisons: Sequence[Comparison]) -> list[Comparison]:
    return [row for row in comparisons if row.win is not None]


def _wins(comparisons: Sequence[Comparison]) -> NDArray[np.float64]:
    return np.array([row.win for row in comparisons], dtype=np.float64)


def _clusters(comparisons: Sequence[Comparison]) -> list[str]:
    return [row.base_id for row in comparisons]


def outcome(ours: float, theirs: float) -> float:
    """Return 1 where `ours` is the higher score, 0 where it is the lower, 0.5 for a tie."""
    return 0.5 + 0.5 * ((ours > theirs) - (ours < theirs))


def win_rate_by_category(comparisons: Sequence[Comparison], *, confidence: float = 0.95) -> dict[str, Rate]:
    """Return the win rate of every category, names in alphabetical order."""
    return {name: win_rate(rows, confidence=confidence) for name, rows in _by_category(comparisons).items()}


def corrected_by_category(comparisons: Sequence[Comparison], *, seed: int, confidence: float = 0.95) -> dict[str, Rate]:
    """Return every category's win rate with its p-value, corrected for looking at them all; names in order.

    Whoever looks at 20 categories without a gain finds one at 5 % in more than half of all evaluations. With Holm's
    adjusted p-values that is at most one in twenty, with simultaneous intervals (Sidak) about one (measured in
    `experiments/coverage.py`); the two can disagree about a category near the edge, being different tests. With few
    comparisons nothing can be found: n that are not ties have a p-value of 2^(1 - n) or more, so a category needs at
    least ten of them to be one of 20 at 5 %.

    Args:
        comparisons: At most one per prompt.
        seed: Of the sign flips, where there are too many to enumerate (soft preferences only).
        confidence: Nominal coverage in (0, 1), of each plain interval and of all simultaneous ones together.
    """
    groups = _by_category(comparisons)
    plain = win_rate_by_category(comparisons, confidence=confidence)
    num_scored = sum(rate.rate is not None for rate in plain.values())
    joint = win_rate_by_category(comparisons, confidence=simultaneous_confidence(confidence, max(1, num_scored)))
    p_values = [
        sign_flip_test(_wins(rows) - 0.5, seed=derive_seed(seed, "gain", name), clusters=_clusters(rows))
        if rows
        else None
        for name, rows in ((name, _scored(rows)) for name, rows in groups.items())
    ]
    return {
        name: replace(rate, p_value=p_value, adjusted_p_value=adjusted, simultaneous_interval=joint[name].interval)
        for (name, rate), p_value, adjusted in zip(plain.items(), p_values, holm(p_values), strict=True)
    }


def _by_category(comparisons: Sequence[Comparison]) -> dict[str, list[Comparison]]:
    names = sorted({row.category for row in comparisons})
    return {name: [row for row in comparisons if row.category == name] for name in names}
