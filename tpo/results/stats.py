"""Statistics of evaluation: intervals, paired differences, sign flips, the bootstrap, many tests at once.

Pure numpy, and scipy, which is imported where it is needed, since every command imports this module: arrays in, numbers
out. A cluster is a group of values that depend on each other, in this project an instruction; clusters are named by a
sequence as long as the values, in any order. What takes a seed gives the same numbers for the same seed and rows.
Fractions are in [0, 1].
"""

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tpo.results.rate import Interval, Rate

#: More sign patterns than this are sampled: 15 differences of different sizes are enumerated, 16 are not.
MAX_ENUMERATED = 2**15

Values = NDArray[np.float64]
Clusters = Sequence[str] | Sequence[int]


# --- one mean ---------------------------------------------------------------------------------------------------


def wilson_interval(rate: float, count: float, *, confidence: float) -> Interval:
    """Return Wilson's score interval of a proportion observed on `count` trials.

    Wilson 1927; in Agresti & Coull 1998, equation 2. It stays within [0, 1] and has a width at 0 and 1.

    Args:
        rate: In [0, 1].
        count: Above 0; an effective number of trials need not be whole.
        confidence: Nominal coverage in (0, 1).
    """
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    denominator = 1 + z**2 / count
    center = (rate + z**2 / (2 * count)) / denominator
    half = z * math.sqrt(rate * (1 - rate) / count + z**2 / (4 * count**2)) / denominator
    # The rate lies between the edges, but for rounding.
    return max(0.0, min(rate, center - half)), min(1.0, max(rate, center + half))


def mean_interval(values: ArrayLike, *, confidence: float, clusters: Clusters | None = None) -> Interval:
    """Return an interval of the mean of values in [0, 1]: wins, ties of one half, preferences, several per instruction.

    Wilson's interval for as many trials as the values are worth (Korn & Graubard 1998, Survey Methodology 24): with
    mean p, cluster sizes m, the sums r of a cluster's deviations from p, and G clusters,

        n_eff = (sum m)^2 / sum m^2 / d,    d = (sum r^2 + a) / (p (1 - p) sum m^2 + a),    a = 2 s^2 sum m^2 / G.

    Without a, p (1 - p) / n_eff is the clustered variance. a adds what two values at a distance s from the mean would,
    so that a handful of equal values is not taken for certainty: 3 ties have [0.21, 0.79], not [0.5, 0.5]. s is twice
    the values' standard deviation, but at least one tenth and at most one half, and one half where all are equal:
    means over many pairs, which lie close together, are not taken for wins and losses. Wins and losses alone have
    d = 1, Wilson's interval; ties, soft preferences and means, which vary less, a narrower one.

    Measured coverage of 95 % intervals (`experiments/coverage.py`, 10,000 samples each, error 0.2), n from 20 to 805,
    true means 0.1 to 0.9: 93.5 to 97.5 % for wins and losses; 94.1 to 96.8 % with ties (0.1 to 0.6); 94.2 to 96.4 %
    for preferences with a standard deviation of 0.18 or 0.26. Clusters of one to five rows, 20 or more of them: 94.5
    to 97.3 %. Where one cluster in ten is twenty times as large as the others it falls to 89 % at 20 to 60 clusters:
    then give each cluster its mean. What a run reports (the third table there: 60 instructions with several samples on
    both sides, 320 in twins, and changes of both): 94.3 to 96.2 %. Means of fewer than five instructions: down to 90 %.

    Args:
        values: In [0, 1], at least one.
        confidence: Nominal coverage in (0, 1).
        clusters: Of each value; None where values are independent, which is a cluster for each.

    Raises:
        ValueError: If there is no value, or one is outside [0, 1].
    """
    array = np.asarray(values, dtype=np.float64)
    if not array.size or not ((array >= 0) & (array <= 1)).all():
        raise ValueError("an interval of a mean needs one value or more, all in [0, 1]")
    mean = min(1.0, float(array.mean()))
    numbers = _numbered(clusters, len(array))
    sums, sizes = np.bincount(numbers, array - array.mean()), np.bincount(numbers).astype(np.float64)
    squared_sizes = float((sizes**2).sum())
    deviation = float(array.std())
    distance = min(0.5, max(0.1, 2 * deviation)) if deviation > 1e-9 else 0.5
    added = 2 * distance**2 * squared_sizes / len(sizes)
    spread = (float((sums**2).sum()) + added) / (mean * (1 - mean) * squared_sizes + added)
    return wilson_interval(mean, float(sizes.sum()) ** 2 / squared_sizes / spread, confidence=confidence)


def student_interval(values: ArrayLike, *, confidence: float, clusters: Clusters | None = None) -> Interval:
    """Return Student's t interval of a mean of any numbers, whose error is taken from the sums over clusters.

    With G clusters, N values and a cluster's sum r of deviations from the mean, the squared error is
    G / (G - 1) sum r^2 / N^2, with G - 1 degrees of freedom; of independent values that is the textbook's.

    Args:
        values: Any numbers.
        confidence: Nominal coverage in (0, 1).
        clusters: Of each value; None is a cluster for each.

    Raises:
        ValueError: If there are fewer than two clusters.
    """
    from scipy.stats import t

    array = np.asarray(values, dtype=np.float64)
    sums = np.bincount(_numbered(clusters, len(array)), array - array.mean() if len(array) else None)
    count = len(sums)
    if count < 2:
        raise ValueError(f"Student's interval needs two clusters or more, not {count}")
    error = math.sqrt(count / (count - 1) * float((sums**2).sum())) / len(array)
    half = error * float(t.ppf(0.5 + confidence / 2, count - 1))
    return float(array.mean()) - half, float(array.mean()) + half


def _numbered(clusters: Clusters | None, count: int) -> NDArray[np.intp]:
    """Return the number of each row's cluster, in the order of the clusters' names."""
    if clusters is None:
        return np.arange(count)
    if len(clusters) != count:
        raise ValueError(f"there are {len(clusters)} clusters for {count} rows")
    return np.unique(np.asarray(clusters), return_inverse=True)[1].astype(np.intp)


# --- pairs ------------------------------------------------------------------------------------------------------


def difference_interval(
    differences: ArrayLike, *, confidence: float, is_bounded: bool = True, clusters: Clusters | None = None
) -> Interval | None:
    """Return an interval of a mean difference: `mean_interval` moved to [-1, 1], or else Student's.

    Args:
        differences: One or more, of values in [0, 1] where `is_bounded`.
        confidence: Nominal coverage in (0, 1).
        is_bounded: As for `paired_difference`.
        clusters: Of each difference; None is a cluster for each.

    Returns:
        None where differences of any size are of a single cluster.
    """
    array = np.asarray(differences, dtype=np.float64)
    if is_bounded:
        low, high = mean_interval((1 + array) / 2, confidence=confidence, clusters=clusters)
        return 2 * low - 1, 2 * high - 1
    if len(set(clusters if clusters is not None else range(len(array)))) < 2:
        return None
    return student_interval(array, confidence=confidence, clusters=clusters)


def paired_difference(
    first: Sequence[float | None],
    second: Sequence[float | None],
    *,
    seed: int,
    confidence: float = 0.95,
    is_bounded: bool = True,
    clusters: Clusters | None = None,
) -> Rate:
    """Return how much higher `first` is than `second` on average, on the instructions that have both.

    What makes an instruction easy or hard for both cancels, so the interval can exclude 0 where the two means' own
    intervals overlap. Values in [0, 1] differ by -1 to 1, and the interval is `mean_interval`'s, moved to that range:
    equal values throughout still leave it a width. Other values have Student's t interval, none for a single cluster
    (`difference_interval`). The p-value is `sign_flip_test`'s.

    Args:
        first: A value per instruction, None where it was not scored.
        second: Likewise, in the same order.
        seed: Of the sign flips.
        confidence: Nominal coverage in (0, 1).
        is_bounded: Whether the values are in [0, 1], as wins and correct answers are, and lengths and scores are not.
        clusters: Of each instruction; None where instructions are independent.

    Raises:
        ValueError: If the sequences differ in length, or `is_bounded` and a value is outside [0, 1].
    """
    pairs = list(zip(first, second, strict=True))
    kept = [pair for pair in pairs if None not in pair]
    names = _numbered(clusters, len(pairs))[[None not in pair for pair in pairs]].tolist()
    num_unscored = len(pairs) - len(kept)
    if not kept:
        return Rate(None, None, 0, num_unscored)
    ours, theirs = np.array(kept, dtype=np.float64).T
    if is_bounded and (min(ours.min(), theirs.min()) < 0 or max(ours.max(), theirs.max()) > 1):
        raise ValueError("values outside [0, 1] need is_bounded=False")
    differences = ours - theirs
    interval = difference_interval(differences, confidence=confidence, is_bounded=is_bounded, clusters=names)
    p_value = sign_flip_test(differences, seed=seed, clusters=names)
    return Rate(float(differences.mean()), interval, len(kept), num_unscored, p_value=p_value)


def sign_flip_test(
    differences: ArrayLike, *, seed: int, num_flips: int = 10_000, clusters: Clusters | None = None
) -> float:
    """Return the two-sided p-value of differences that are as likely as their opposites, a cluster's flipped together.

    The share of sign patterns whose sum is as far from 0 as the observed one (Fisher 1935, chapter III). Differences of
    one size need only their number of plus signs, so the patterns to enumerate are the product of (1 + how many) over
    sizes: wins against one half, whose ties are 0 and flip to themselves, need no sampling; that is the sign test.
    Above `MAX_ENUMERATED` patterns, b of `num_flips` random ones being as extreme gives (b + 1) / (num_flips + 1)
    (Phipson & Smyth 2010), never 0. No difference other than 0, or none at all, gives 1.

    Args:
        differences: Any numbers; their sums over clusters are compared to 12 digits.
        seed: Of the random patterns.
        num_flips: Random patterns.
        clusters: Of each difference; None is a cluster for each.
    """
    from scipy.stats import binom

    array = np.asarray(differences, dtype=np.float64)
    if not array.any():
        return 1.0
    sums = np.bincount(_numbered(clusters, len(array)), array)
    sums = np.round(sums / np.abs(array).max(), 12)
    magnitudes, counts = np.unique(np.abs(sums[sums != 0]), return_counts=True)
    observed = abs(float(sums.sum())) - 1e-9  # sums of the same numbers in another order differ by less
    if math.prod(1 + int(count) for count in counts) <= MAX_ENUMERATED:
        totals, chances = np.zeros(1), np.ones(1)
        for magnitude, count in zip(magnitudes, counts, strict=True):
            plus = np.arange(count + 1)
            totals = np.add.outer(totals, magnitude * (2 * plus - count)).ravel()
            chances = np.multiply.outer(chances, binom.pmf(plus, count, 0.5)).ravel()
        return min(1.0, float(chances[np.abs(totals) >= observed].sum()))
    generator = np.random.default_rng(seed)
    num_extreme = 0
    for start in range(0, num_flips, 1000):  # in parts, to bound memory
        plus = generator.binomial(counts, 0.5, size=(min(1000, num_flips - start), len(counts)))
        num_extreme += int((np.abs((2 * plus - counts) @ magnitudes) >= observed).sum())
    return (num_extreme + 1) / (num_flips + 1)


# --- bootstrap --------------------------------------------------------------------------------------------------


class ResampledMeans(NamedTuple):
    """Means of columns, and what a bootstrap over clusters makes of them; nan is a mean of no row."""

    means: Values  # (columns,)
    draws: Values  # (num_resamples, columns)
    counts: Values  # (clusters, columns): rows that count


class Bootstrap(NamedTuple):
    """A statistic with its percentile interval; the interval is None where there are fewer than two rows."""

    estimate: float
    interval: Interval | None
    draws: Values  # (num_resamples,)


def cluster_bootstrap(
    values: ArrayLike, is_used: ArrayLike, clusters: Clusters, *, seed: int, num_resamples: int
) -> ResampledMeans:
    """Return the means of several columns over resampled clusters, all columns in the same resamples.

    A resample draws as many clusters as there are, with replacement (the pairs cluster bootstrap of Cameron, Gelbach &
    Miller 2008); a mean is the ratio of two sums, over the rows' values and over their number. As the columns share the
    resamples, the difference of two columns' draws is a draw of their difference.

    Args:
        values: (columns, rows).
        is_used: (columns, rows), whether a row counts in a column.
        clusters: Of each row. The order of rows changes nothing but how sums are rounded.
        seed: Of the draws.
        num_resamples: As many rows has the result's `draws`.
    """
    numbers = _numbered(clusters, len(clusters))
    num_clusters = int(numbers.max(initial=-1)) + 1
    used = np.asarray(is_used, dtype=np.float64)
    sums, counts = (
        np.array([np.bincount(numbers, row, num_clusters) for row in table], dtype=np.float64).T  # (clusters, columns)
        for table in (np.asarray(values, dtype=np.float64) * used, used)
    )
    draws = np.full((num_resamples, len(used)), np.nan)
    start = 0
    for drawn in _draw_clusters(num_clusters, seed=seed, num_resamples=num_resamples):
        offsets = num_clusters * np.arange(len(drawn))[:, None]
        times = np.bincount((drawn + offsets).ravel(), minlength=drawn.size).reshape(drawn.shape).astype(float)
        draws[start : start + len(drawn)] = _ratio(times @ sums, times @ counts)
        start += len(drawn)
    return ResampledMeans(_ratio(sums.sum(axis=0), counts.sum(axis=0)), draws, counts)


def bootstrap_statistic(
    statistic: Callable[[NDArray[np.intp]], float],
    num_rows: int,
    *,
    seed: int,
    confidence: float = 0.95,
    clusters: Clusters | None = None,
    num_resamples: int = 1000,
) -> Bootstrap:
    """Return any statistic of rows with its percentile interval over resampled rows, or clusters of rows.

    Args:
        statistic: Gets the indices of rows, repeated where they were drawn more than once, and returns a number, or
            nan where they say nothing; such resamples are left out of the interval.
        num_rows: One or more.
        seed: Of the draws.
        confidence: Nominal coverage in (0, 1).
        clusters: Of each row; None where rows are independent.
        num_resamples: How often `statistic` is called, beside once for all rows.
    """
    numbers = _numbered(clusters, num_rows)
    order, sizes = np.argsort(numbers, kind="stable"), np.bincount(numbers)
    drawn = _draw_clusters(len(sizes), seed=seed, num_resamples=num_resamples)
    if len(sizes) == num_rows:  # the common case, in which nothing has to be joined
        resamples = (order[row] for part in drawn for row in part)
    else:
        members = np.split(order, np.cumsum(sizes)[:-1])
        resamples = (np.concatenate([members[cluster] for cluster in row]) for part in drawn for row in part)
    draws = np.array([statistic(rows) for rows in resamples], dtype=np.float64)
    interval = percentile_interval(draws, confidence=confidence) if len(sizes) > 1 else None
    return Bootstrap(float(statistic(np.arange(num_rows))), interval, draws)


def percentile_interval(draws: Values, *, confidence: float) -> Interval | None:
    """Return the middle `confidence` of a bootstrap's draws, those that are nan left out; None where all are."""
    known = draws[~np.isnan(draws)]
    if not len(known):
        return None
    tail = (1 - confidence) / 2
    low, high = np.quantile(known, [tail, 1 - tail])
    return float(low), float(high)


def _draw_clusters(num_clusters: int, *, seed: int, num_resamples: int) -> Iterator[NDArray[np.intp]]:
    """Yield (resamples, clusters) numbers of the drawn clusters, in parts, to bound memory; nothing of no clusters."""
    generator = np.random.default_rng(seed)
    for start in range(0, num_resamples if num_clusters else 0, 100):
        yield generator.integers(num_clusters, size=(min(100, num_resamples - start), num_clusters))


def _ratio(sums: Values, counts: Values) -> Values:
    return np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)


# --- many at once -----------------------------------------------------------------------------------------------


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return Holm's adjusted p-values (Holm 1979): rejecting those up to alpha errs at all with chance alpha at most.

    Whatever the dependence between the tests. The k-th smallest of m is multiplied by m - k + 1, made no smaller
    than the ones before it, and at most 1.

    Args:
        p_values: None where there was nothing to test, which stays None and is not one of m.
    """
    known = sorted((p_value, place) for place, p_value in enumerate(p_values) if p_value is not None)
    ordered = np.array([p_value for p_value, _ in known])
    adjusted = np.minimum(np.maximum.accumulate(ordered * np.arange(len(ordered), 0, -1)), 1.0)
    result: list[float | None] = [None] * len(p_values)
    for (_, place), p_value in zip(known, adjusted, strict=True):
        result[place] = float(p_value)
    return result


def simultaneous_confidence(confidence: float, count: int) -> float:
    """Return the confidence at which `count` independent intervals all hold with chance `confidence` (Sidak 1967).

    Raises:
        ValueError: If `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"simultaneous confidence of {count} intervals")
    return float(confidence ** (1 / count))
