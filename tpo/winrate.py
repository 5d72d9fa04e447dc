"""Win rates with their uncertainty: plain and per category. Pure numpy; `tpo.length_control` has those at equal length.

A comparison's win is 1, a loss 0, a tie one half. One that was not scored is missing: excluded and counted,
never a loss.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np

from tpo.records import Comparison


class WinRate(NamedTuple):
    """A win rate in [0, 1] with its interval; both None where no comparison was scored."""

    rate: float | None
    interval: tuple[float, float] | None
    num_prompts: int  # scored comparisons
    num_unscored: int

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {
            "rate": self.rate,
            "interval": None if self.interval is None else list(self.interval),
            "num_prompts": self.num_prompts,
            "num_unscored": self.num_unscored,
        }


def win_rate(comparisons: Sequence[Comparison], *, confidence: float = 0.95) -> WinRate:
    """Return the fraction of prompts on which the policy beats the baseline; a tie counts one half.

    The interval is Wilson's score interval (Wilson 1927; in Agresti & Coull 1998, equation 2), which stays
    within [0, 1] and keeps its coverage for small numbers, where the normal approximation does not. With
    ties it is conservative: half wins vary less than wins and losses do.

    Args:
        comparisons: At most one per prompt.
        confidence: Nominal coverage in (0, 1).
    """
    wins = np.array([row.win for row in comparisons if row.win is not None])
    num_unscored = len(comparisons) - len(wins)
    if len(wins) == 0:
        return WinRate(None, None, 0, num_unscored)
    rate = float(wins.mean())
    return WinRate(rate, wilson_interval(rate, len(wins), confidence=confidence), len(wins), num_unscored)


def wilson_interval(rate: float, count: int, *, confidence: float) -> tuple[float, float]:
    """Return Wilson's score interval of a proportion observed on `count` trials."""
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    denominator = 1 + z**2 / count
    center = (rate + z**2 / (2 * count)) / denominator
    half = z * math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2)) / denominator
    return max(0.0, center - half), min(1.0, center + half)


def outcome(ours: float, theirs: float) -> float:
    """Return 1 where `ours` is the higher score, 0 where it is the lower, 0.5 for a tie."""
    return 0.5 + 0.5 * ((ours > theirs) - (ours < theirs))


def win_rate_by_category(comparisons: Sequence[Comparison], *, confidence: float = 0.95) -> dict[str, WinRate]:
    """Return the win rate of every category, names in alphabetical order."""
    names = sorted({row.category for row in comparisons})
    return {
        name: win_rate([row for row in comparisons if row.category == name], confidence=confidence) for name in names
    }
