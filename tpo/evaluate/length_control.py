"""Win rates at equal length: a logistic model's prediction for responses as long as the baseline's. Pure.

Length-Controlled AlpacaEval (Dubois et al. 2024, arXiv 2404.04475, section 3) without the per-instruction difficulty,
which needs many models' results on the same instructions:

    P(win) = sigmoid(a + b tanh(d / std d)),  d = policy's length - baseline's,

evaluated at d = 0. Two estimators, and every `Rate.estimator` says which one it is, or "official": the alpaca_eval
package's own.

- "fitted": a and b from the comparisons alone, with a weak ridge on b (weight 1 against the sum of log-likelihoods, so
  that estimates from separable data are finite). It assumes nothing about the judge's preference for length, and needs
  responses on both sides of d = 0: where all are shorter than the baseline's, a and b cannot be identified separately.
- "slope fixed at <b>": b is given, a follows from the mean prediction being the mean win.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo.results.rate import Interval, Rate
from tpo.results.stats import bootstrap_statistic, wilson_interval
from tpo.store.records import Comparison

NUM_RESAMPLES = 1000

#: b for AlpacaEval 2's annotator, `weighted_alpaca_eval_gpt4_turbo`, lengths in characters. Calibrated on the published
#: length-controlled win rates of six models of its leaderboard (experiments/alpaca_eval.md): 1.08 has the least squared
#: error, the slopes that give each model's figure exactly lie between 0.90 and 1.21. The benchmark's own fits have
#: slopes of 1.5 to 2.2, because they also know the instructions' difficulty: the slope of a logistic model shrinks
#: where a covariate is left out.
ALPACA_EVAL_SLOPE = 1.1
#: The largest of the six errors against the published rates, each with a slope calibrated on the other five, is 0.0152.
#: Six models bound nothing: expect as much for a model like them.
ALPACA_EVAL_SLOPE_ERROR = 0.016

Values = NDArray[np.float64]


def length_controlled_win_rate(
    comparisons: Sequence[Comparison],
    *,
    seed: int,
    slope: float | None = None,
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
) -> Rate:
    """Return `estimate_length_controlled` of comparisons, with lengths in characters as AlpacaEval has them.

    Instructions that were made from one instruction are resampled together. A side without a response has no length, so
    such a prompt counts as one of equal lengths.
    """
    return estimate_length_controlled(
        [row.win for row in comparisons],
        [_length_gap(row) for row in comparisons],
        clusters=[row.base_id for row in comparisons],
        seed=seed,
        slope=slope,
        confidence=confidence,
        num_resamples=num_resamples,
    )


def _length_gap(row: Comparison) -> float:
    if row.policy_characters is None or row.baseline_characters is None:
        return 0.0
    return row.policy_characters - row.baseline_characters


def estimate_length_controlled(
    wins: Sequence[float | None],
    gaps: Sequence[float],
    *,
    seed: int,
    clusters: Sequence[str] | None = None,
    slope: float | None = None,
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
) -> Rate:
    """Return the win rate at equal length with its interval, the percentile bootstrap over prompts or clusters of them.

    The spread std d is computed anew in every resample: it comes from the same prompts as the wins, so its uncertainty
    belongs in the interval. For a rate of 0 or 1, or a single prompt, a bootstrap interval has no width; these have
    Wilson's interval.

    Args:
        wins: One per prompt, in [0, 1]; a judge's probability is as good as a win or a loss. None is unscored, and
            plays no part.
        gaps: One per prompt: the policy's length less the baseline's, in any unit.
        seed: Of the bootstrap.
        clusters: Of each prompt; None where prompts are independent.
        slope: b where it is known, such as `ALPACA_EVAL_SLOPE`; None fits it.
        confidence: Nominal coverage, in (0, 1).
        num_resamples: Of the bootstrap.
    """
    pairs = [(win, gap) for win, gap in zip(wins, gaps, strict=True) if win is not None]
    names = None if clusters is None else [name for name, win in zip(clusters, wins, strict=True) if win is not None]
    estimator = "fitted" if slope is None else f"slope fixed at {slope:g}"
    num_unscored = len(wins) - len(pairs)
    if not pairs:
        return Rate(None, None, 0, num_unscored, estimator=estimator)
    kept_wins, kept_gaps = np.array(pairs, dtype=np.float64).T
    rate = length_controlled_rate(kept_wins, kept_gaps, slope=slope)
    interval: Interval | None
    if rate in (0, 1) or len(pairs) == 1:
        interval = wilson_interval(rate, len(pairs), confidence=confidence)
    else:
        interval = bootstrap_statistic(
            lambda rows: length_controlled_rate(kept_wins[rows], kept_gaps[rows], slope=slope),
            len(pairs),
            seed=seed,
            confidence=confidence,
            clusters=names,
            num_resamples=num_resamples,
        ).interval
    return Rate(rate, interval, len(pairs), num_unscored, estimator=estimator)


def length_controlled_rate(wins: ArrayLike, gaps: ArrayLike, *, slope: float | None = None) -> float:
    """Return sigmoid(a), the win rate at equal length, of the arguments that `estimate_length_controlled` explains.

    All wins are scored. Where all gaps are the same there is nothing to control with, and the result is the plain win
    rate. It is too where all was won or all lost, which no slope explains; fitted, where all wins are equal.
    """
    from scipy.optimize import brentq
    from scipy.special import expit, logit

    observed, differences = np.asarray(wins, dtype=np.float64), np.asarray(gaps, dtype=np.float64)
    mean, spread = float(observed.mean()), differences.std()  # alpaca_eval's std has n - 1: at 805, 0.06 % more
    if spread == 0 or mean in (0, 1):
        return mean
    features = np.tanh(differences / spread)
    if slope is None:
        return mean if observed.min() == observed.max() else _fitted_rate(observed, features)
    # |features| <= 1, so a is at most |b| away from the log-odds of the mean; 1 more, for what rounding does.
    center, reach = float(logit(mean)), abs(slope) + 1
    intercept = brentq(lambda a: float(expit(a + slope * features).mean()) - mean, center - reach, center + reach)
    return float(expit(intercept))


def _fitted_rate(wins: Values, features: Values) -> float:
    """Newton's method: the loss is convex and smooth, and a step that does not lower it is halved."""
    from scipy.special import expit

    ridge = np.array([2e-6, 1.0])

    def loss(parameters: Values) -> float:
        margin = parameters[0] + parameters[1] * features
        return float(np.logaddexp(0, margin).sum() - wins @ margin + 0.5 * ridge @ parameters**2)

    parameters = np.zeros(2)
    lowest = loss(parameters)
    for _ in range(100):
        chance = expit(parameters[0] + parameters[1] * features)
        error, weight = chance - wins, chance * (1 - chance)
        gradient = np.array([error.sum(), error @ features]) + ridge * parameters
        mixed, steepness = weight @ features, np.array([weight.sum(), weight @ features**2]) + ridge
        determinant = steepness[0] * steepness[1] - mixed**2
        step = (steepness[::-1] * gradient - mixed * gradient[::-1]) / determinant
        while (found := loss(parameters - step)) > lowest and abs(step).max() > 1e-9:
            step = step / 2
        if found >= lowest:  # as low as rounding lets it be
            break
        parameters, lowest = parameters - step, found
    return float(expit(parameters[0]))
