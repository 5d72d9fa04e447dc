"""Means over seeds with intervals, tests and verdicts. Pure."""

import math
from collections.abc import Mapping, Sequence
from statistics import mean

import numpy as np
from scipy.stats import t

from tpo.results.rate import Rate
from tpo.results.stats import student_interval

YES, NO, CANNOT_TELL = "yes", "no", "cannot tell"
MARGIN = 0.05  # of a checked rate: what is called negligible


def over_seeds(values: Mapping[int, float], *, confidence: float, margin: float | None = None) -> Rate:
    """Return the mean over seeds with Student's t interval over seeds, and a two-sided p-value of no difference.

    Neither for a single seed. With a margin, and a mean within it, the p-value is that of a difference as large as the
    margin: the larger of two one-sided ones (Schuirmann 1987), doubled, so that it is at most 1 - `confidence` exactly
    where the interval lies within the margin. No difference and one as large as the margin cannot both be true, so this
    counts as one test.

    Args:
        values: By seed.
        confidence: Of the interval.
        margin: Up to which a difference is negligible; None where the claim is of a difference.
    """
    numbers = list(values.values())
    if not numbers:
        return Rate(None, None, 0, 0)
    center = mean(numbers)
    if len(numbers) < 2:
        return Rate(center, None, len(numbers), 0)
    mirrored = [-value for value in numbers]
    if margin is not None and abs(center) < margin:
        p_value = 2 * max(one_sided(numbers, above=-margin), one_sided(mirrored, above=-margin))
    else:
        p_value = 2 * min(one_sided(numbers, above=0.0), one_sided(mirrored, above=0.0))
    interval = student_interval(numbers, confidence=confidence)
    return Rate(center, interval, len(numbers), 0, p_value=min(1.0, p_value))


def one_sided(values: Sequence[float], *, above: float) -> float:
    """Return Student's p-value of a mean that is at most `above`, against one that is higher; two values at least.

    Equal values have a p-value of 0 where they are higher, else 1.
    """
    array = np.asarray(values, dtype=np.float64)
    distance = float(array.mean()) - above
    error = float(array.std(ddof=1)) / math.sqrt(len(array))
    if error <= 1e-12 * max(1.0, abs(distance)):
        return 0.0 if distance > 1e-12 else 1.0
    return float(t.sf(distance / error, len(array) - 1))


def verdict(difference: Rate, *, direction: int, confidence: float) -> str:
    """Return what a difference says of a claim, by its p-value after Holm.

    Args:
        difference: Of `over_seeds`, with a margin where the direction is 0.
        direction: 1 where an increase is claimed, -1 a decrease, 0 no difference to speak of.
        confidence: 1 less the chance of erring at all in the family of tests.
    """
    p_value, center = difference.adjusted_p_value, difference.rate
    if p_value is None or center is None or p_value > 1 - confidence + 1e-12:
        return CANNOT_TELL
    if direction == 0:
        return YES if abs(center) < MARGIN else NO
    return YES if center * direction > 0 else NO
