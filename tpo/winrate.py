"""Win rates with their uncertainty: plain, per category, and controlled for length. Pure numpy and scipy.

A comparison's win is 1, a loss 0, a tie one half. One that was not scored is missing: excluded and counted,
never a loss.
"""

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize

from tpo.records import Comparison

NUM_RESAMPLES = 1000


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


def wilson_interval(rate: float, count: float, *, confidence: float) -> tuple[float, float]:
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


def length_controlled_win_rate(
    comparisons: Sequence[Comparison], *, seed: int, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> WinRate:
    """Return the win rate that a logistic model predicts for responses as long as the baseline's.

    Length-Controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475, section 3) without the
    per-instruction difficulty, which needs many models' results on the same instructions:

        P(win) = sigmoid(a + b tanh(d / std d)),  d = policy tokens - baseline tokens,

    fitted with a weak ridge on b (weight 1 against the sum of log-likelihoods, so that separable data stay
    finite), and evaluated at d = 0. The interval is the percentile bootstrap over prompts. Where all
    lengths agree, the result is the plain win rate. A side without a response has no length, so such a prompt
    counts as one of equal lengths.

    Args:
        comparisons: At most one per prompt.
        seed: Of the bootstrap.
        confidence: Nominal coverage.
        num_resamples: Of the bootstrap.
    """
    scored = [row for row in comparisons if row.win is not None]
    num_unscored = len(comparisons) - len(scored)
    if not scored:
        return WinRate(None, None, 0, num_unscored)
    wins = np.array([row.win for row in scored], dtype=np.float64)
    gaps = np.array([_length_gap(row) for row in scored])
    rate = _rate_at_equal_length(wins, gaps)
    generator = np.random.default_rng(seed)
    draws = generator.integers(0, len(wins), size=(num_resamples, len(wins)))
    rates = [_rate_at_equal_length(wins[draw], gaps[draw]) for draw in draws]
    low, high = np.quantile(rates, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return WinRate(rate, (float(low), float(high)), len(scored), num_unscored)


def _length_gap(row: Comparison) -> float:
    if row.policy_score is None or row.baseline_score is None:
        return 0.0
    return float(row.policy_tokens - row.baseline_tokens)


def _rate_at_equal_length(wins: NDArray[np.float64], gaps: NDArray[np.float64]) -> float:
    spread = gaps.std()
    if spread == 0 or wins.min() == wins.max():
        return float(wins.mean())
    features = np.tanh(gaps / spread)

    def objective(parameters: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        intercept, slope = parameters
        margin = intercept + slope * features
        loss = np.logaddexp(0, margin).sum() - (wins * margin).sum() + 0.5 * slope**2 + 1e-6 * intercept**2
        error = 1 / (1 + np.exp(-margin)) - wins
        gradient = np.array([error.sum() + 2e-6 * intercept, (error * features).sum() + slope])
        return float(loss), gradient

    solution = minimize(objective, np.zeros(2), jac=True, method="BFGS")
    return float(1 / (1 + math.exp(-solution.x[0])))
