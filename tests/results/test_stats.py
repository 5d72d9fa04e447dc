import functools
import itertools
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats as scipy_stats
from scipy.optimize import brentq

import tpo.results.stats
from tpo.results.rate import Rate
from tpo.results.stats import (
    bootstrap_statistic,
    cluster_bootstrap,
    holm,
    mean_interval,
    paired_difference,
    percentile_interval,
    sign_flip_test,
    simultaneous_confidence,
    student_interval,
    wilson_interval,
)

WINS = st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.9, 1.0]), min_size=1, max_size=30)
CLUSTERED = st.lists(st.tuples(st.floats(0, 1), st.sampled_from("abcdef")), min_size=1, max_size=30)

# --- one mean ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("confidence", [0.68, 0.95, 0.99])
@pytest.mark.parametrize(("count", "num_wins"), [(1, 0), (1, 1), (4, 1), (60, 33), (805, 804), (10, 10), (7, 0)])
def test_wins_and_losses_have_scipys_wilson_interval(count: int, num_wins: int, confidence: float) -> None:
    expected = scipy_stats.binomtest(num_wins, count).proportion_ci(confidence, method="wilson")
    assert wilson_interval(num_wins / count, count, confidence=confidence) == pytest.approx(expected, abs=1e-12)
    wins = [1.0] * num_wins + [0.0] * (count - num_wins)
    assert mean_interval(wins, confidence=confidence) == pytest.approx(expected, abs=1e-12)


@given(st.floats(0, 1), st.floats(0.5, 2000), st.floats(0.5, 0.999))
def test_wilson_interval_holds_the_rate_within_bounds(rate: float, count: float, confidence: float) -> None:
    low, high = wilson_interval(rate, count, confidence=confidence)
    assert 0 <= low <= rate + 1e-12 and rate - 1e-12 <= high <= 1


def double_sum(values: Sequence[float], clusters: Sequence[Any], *, center: float) -> float:
    """The sum of products of deviations over all pairs of rows in the same cluster."""
    rows = list(zip(values, clusters, strict=True))
    return sum((one - center) * (other - center) for one, own in rows for other, their in rows if own == their)


CASES = [
    pytest.param([1, 0.5, 0, 0.5, 0.5, 1, 1], [*range(7)], id="ties"),
    pytest.param([0.91, 0.87, 0.3, 0.64], [*range(4)], id="soft"),
    pytest.param([1, 1, 0, 0.5, 0, 0, 1, 1], [*"aabbbcdd"], id="clusters"),
    pytest.param([0.5, 1, 1, 0.5], [*"abab"], id="scattered_clusters"),
]


@pytest.mark.parametrize(("values", "clusters"), CASES)
def test_mean_interval_inverts_the_score_test(values: list[float], clusters: list[Any]) -> None:
    # The edges are where (mean - p)^2 = z^2 p (1 - p) / n_eff; n_eff is as documented, by the double sum.
    mean, z = sum(values) / len(values), 1.6448536269514722
    squared_sizes = double_sum([1] * len(values), clusters, center=0)
    deviation = double_sum(values, range(len(values)), center=mean) ** 0.5 / len(values) ** 0.5
    added = 2 * max(0.1, min(0.5, 2 * deviation)) ** 2 * squared_sizes / len(set(clusters))
    spread = (double_sum(values, clusters, center=mean) + added) / (mean * (1 - mean) * squared_sizes + added)
    effective = len(values) ** 2 / squared_sizes / spread

    def excess(rate: float) -> float:
        return (mean - rate) ** 2 - z**2 * rate * (1 - rate) / effective

    expected = (brentq(excess, 0, mean), brentq(excess, mean, 1))
    assert mean_interval(values, confidence=0.9, clusters=clusters) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("count", [1, 3, 60])
@pytest.mark.parametrize("value", [0.0, 0.3, 0.5, 1.0])
def test_equal_values_have_a_width(value: float, count: int) -> None:
    low, high = mean_interval([value] * count, confidence=0.95)
    assert high - low > 0.5 / count
    wilson = wilson_interval(value, count, confidence=0.95)
    assert wilson[0] <= low <= value <= high <= wilson[1]
    if value in (0, 1):
        assert (low, high) == wilson


def test_three_ties_are_worth_seven_and_a_half_trials() -> None:
    # d = (0 + 1/2) / (3/4 + 1/2)
    assert mean_interval([0.5] * 3, confidence=0.95) == pytest.approx(wilson_interval(0.5, 7.5, confidence=0.95))
    assert mean_interval([0.5] * 3, confidence=0.95) == pytest.approx((0.209, 0.791), abs=1e-3)


def test_means_over_many_pairs_are_not_taken_for_wins_and_losses() -> None:
    # 60 means within a quarter of one half: the interval is hardly wider than the normal one, where two more wins and
    # losses would have made it a fifth wider.
    values = 0.5 + 0.25 * np.sin(np.arange(60))
    low, high = mean_interval(values, confidence=0.95)
    half = scipy_stats.norm.ppf(0.975) * scipy_stats.sem(values)
    assert 1.0 < (high - low) / (2 * half) < 1.05


def test_many_values_have_the_normal_interval() -> None:
    values = np.random.default_rng(0).choice([0, 0.5, 1], size=20_000, p=[0.2, 0.5, 0.3])
    z = scipy_stats.norm.ppf(0.975) * scipy_stats.sem(values)
    expected = (values.mean() - z, values.mean() + z)
    assert mean_interval(values, confidence=0.95) == pytest.approx(expected, abs=1e-5)


@given(CLUSTERED, st.randoms(use_true_random=False))
def test_mean_interval_properties(rows: list[tuple[float, str]], random: Any) -> None:
    def interval(rows: Sequence[tuple[float, Any]], confidence: float = 0.9) -> Any:
        values, clusters = zip(*rows, strict=True)
        return pytest.approx(mean_interval(values, confidence=confidence, clusters=clusters), abs=1e-9)

    low, high = interval(rows).expected
    mean = sum(value for value, _ in rows) / len(rows)
    assert 0 <= low <= mean + 1e-9 and mean - 1e-9 <= high <= 1
    assert interval([(1 - value, name) for value, name in rows]) == (1 - high, 1 - low)
    assert interval(random.sample(rows, len(rows))) == (low, high)
    assert interval([(value, "xyzuvw"["abcdef".index(name)]) for value, name in rows]) == (low, high)
    assert interval(rows * 2) == (low, high), "each row doubled inside its cluster"
    wider = interval(rows, 0.99).expected
    assert wider[0] <= low + 1e-9 and high - 1e-9 <= wider[1]


@given(WINS)
def test_independent_values_vary_at_most_as_wins_and_losses(values: list[float]) -> None:
    low, high = mean_interval(values, confidence=0.95)
    wilson = wilson_interval(min(1.0, sum(values) / len(values)), len(values), confidence=0.95)
    assert wilson[0] - 1e-9 <= low and high <= wilson[1] + 1e-9
    assert (low, high) == mean_interval(values, confidence=0.95, clusters=[*range(len(values))])


@pytest.mark.parametrize("values", [[], [0.5, 1.01], [-0.1], [0.5, math.nan]])
def test_values_outside_the_unit_interval_are_an_error(values: list[float]) -> None:
    with pytest.raises(ValueError, match=r"\[0, 1\]"):
        mean_interval(values, confidence=0.95)


def test_student_interval_agrees_with_scipy() -> None:
    values = np.random.default_rng(0).normal(3, 5, size=57)
    expected = scipy_stats.ttest_1samp(values, 0).confidence_interval(0.9)
    assert student_interval(values, confidence=0.9) == pytest.approx((expected.low, expected.high))
    with pytest.raises(ValueError, match="two clusters or more, not 1"):
        student_interval([1.0], confidence=0.9)


def test_clusters_must_be_as_many_as_the_values() -> None:
    with pytest.raises(ValueError, match="2 clusters for 3 rows"):
        mean_interval([1, 0, 1], confidence=0.9, clusters=["a", "b"])


# --- sign flips -------------------------------------------------------------------------------------------------

#: Darwin's cross- and self-fertilized maize, in eighths of an inch (Fisher 1935, The Design of Experiments).
DARWIN = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]


def test_fishers_own_example() -> None:
    # Of 32,768 patterns 863 have a sum of 314 or more, so 1,726 are as far from 0: 5.267 %.
    assert sign_flip_test(DARWIN, seed=0) == pytest.approx(1726 / 32768, abs=1e-12)


@pytest.mark.parametrize("num_zeros", [0, 5])
@pytest.mark.parametrize(("num_wins", "num_losses"), [(0, 1), (3, 3), (9, 1), (10, 0), (120, 80), (430, 375)])
def test_wins_and_losses_have_the_exact_sign_test(num_wins: int, num_losses: int, num_zeros: int) -> None:
    differences = [0.5] * num_wins + [-0.5] * num_losses + [0.0] * num_zeros
    expected = scipy_stats.binomtest(num_wins, num_wins + num_losses).pvalue
    assert sign_flip_test(differences, seed=0) == pytest.approx(expected, rel=1e-9)


@given(st.lists(st.sampled_from([-0.7, -0.5, -0.1, 0.0, 0.1, 0.2, 0.3, 0.5]), min_size=2, max_size=9))
@settings(max_examples=40, deadline=None)
def test_sign_flips_agree_with_every_pattern_and_with_scipy(differences: list[float]) -> None:
    found = sign_flip_test(differences, seed=0)
    patterns = np.array([*itertools.product([1, -1], repeat=len(differences))])
    totals = np.abs(patterns @ np.array(differences))
    assert found == pytest.approx((totals >= abs(sum(differences)) - 1e-9).mean(), abs=1e-12)
    expected = scipy_stats.permutation_test(
        (differences,), lambda x, axis: np.round(x.sum(axis=axis), 9), permutation_type="samples", n_resamples=np.inf
    )
    assert found == pytest.approx(expected.pvalue, abs=1e-12)
    assert sign_flip_test([-7 * value for value in differences[::-1]], seed=1) == pytest.approx(found)


def test_random_flips_come_near_the_exact_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpo.results.stats, "MAX_ENUMERATED", 0)
    exact = 1726 / 32768
    found = [sign_flip_test(DARWIN, seed=seed, num_flips=20_500) for seed in (0, 0, 1)]
    assert found[0] == found[1] != found[2]
    for p_value in found:
        assert p_value == pytest.approx(exact, abs=3.5 * math.sqrt(exact * (1 - exact) / 20_500))


def test_random_flips_are_never_sure() -> None:
    differences = np.linspace(1, 2, 40)  # all of different sizes, all positive: 2 patterns of 2^40 are as extreme
    assert sign_flip_test(differences, seed=0, num_flips=1999) == 1 / 2000


@pytest.mark.parametrize("differences", [[], [0.0], [0.0] * 40])
def test_no_difference_has_p_value_one(differences: list[float]) -> None:
    assert sign_flip_test(differences, seed=0) == 1.0


def test_clusters_flip_together() -> None:
    values, clusters = [0.3, -0.1, 0.4, 0.4, -0.2, 0.1, 0.2, -0.3], [*"aabbbcdd"]
    sums = [0.2, 0.6, 0.1, -0.1]
    assert sign_flip_test(values, seed=0, clusters=clusters) == pytest.approx(sign_flip_test(sums, seed=0))
    # A cluster that adds up to nothing is none, although 0.1 + 0.2 - 0.3 is not 0 in floating point.
    assert sign_flip_test([0.1, 0.2, -0.3, 1.0], seed=0, clusters=[*"aaab"]) == 1.0


# --- pairs ------------------------------------------------------------------------------------------------------


def test_unbounded_difference_is_the_paired_t_test() -> None:
    generator = np.random.default_rng(2)
    first, second = generator.normal(5, 2, size=(2, 12)).tolist()
    found = paired_difference(first, second, seed=0, confidence=0.9, is_bounded=False)
    expected = scipy_stats.ttest_rel(first, second).confidence_interval(0.9)
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.rate == pytest.approx(np.mean(first) - np.mean(second))
    flips = scipy_stats.permutation_test(
        (first, second), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples", n_resamples=np.inf
    )
    assert found.p_value == pytest.approx(flips.pvalue, abs=1e-12)
    assert (found.num_prompts, found.num_unscored) == (12, 0)


def test_correct_answers_have_mcnemars_exact_test() -> None:
    # Of 100 instructions both answer 60, neither 20, only the first 15, only the second 5.
    first, second = [1] * 60 + [0] * 20 + [1] * 15 + [0] * 5, [1] * 60 + [0] * 20 + [0] * 15 + [1] * 5
    found = paired_difference(first, second, seed=0)
    assert found.rate == pytest.approx(0.1)
    assert found.p_value == pytest.approx(scipy_stats.binomtest(15, 20).pvalue)
    error = math.sqrt((15 + 5 - 100 * 0.1**2) / 100**2)
    assert found.interval == pytest.approx((0.1 - 1.96 * error, 0.1 + 1.96 * error), abs=0.01)
    assert found.interval is not None and found.interval[0] > 0


def test_unbounded_difference_by_hand() -> None:
    found = paired_difference([3.0, 1.0, None, 2.0], [1.0, 2.0, 5.0, None], seed=0, is_bounded=False)
    # Differences 2 and -1, mean 0.5, standard error 1.5: sums of all four sign patterns are 1, 3, -1 and -3.
    half = scipy_stats.t.ppf(0.975, 1) * 1.5
    assert found.interval == pytest.approx((0.5 - half, 0.5 + half))
    assert found == Rate(0.5, found.interval, 2, 2, p_value=1.0)
    assert Rate.from_dict(json.loads(json.dumps(found.to_dict()))) == found


@given(st.lists(st.tuples(st.sampled_from([0, 0.5, 1, None]), st.sampled_from([0, 0.5, 1]))))
@settings(deadline=None)
def test_swapping_sides_mirrors_the_difference(rows: list[tuple[float | None, float]]) -> None:
    first, second = zip(*rows, strict=True) if rows else ((), ())
    found = paired_difference(first, second, seed=0)
    mirrored = paired_difference(second, first, seed=0)
    assert found.num_unscored == first.count(None)
    if found.rate is None or found.interval is None:
        assert found == mirrored == Rate(None, None, 0, len(rows))
        return
    assert mirrored.rate == -found.rate and mirrored.p_value == pytest.approx(found.p_value)
    assert mirrored.interval == pytest.approx((-found.interval[1], -found.interval[0]))
    assert -1 <= found.interval[0] <= found.rate + 1e-9 and found.rate - 1e-9 <= found.interval[1] <= 1
    assert found.interval[0] < found.interval[1]


def test_equal_values_differ_by_nothing_with_a_width() -> None:
    found = paired_difference([0.5, 1, 0], [0.5, 1, 0], seed=0)
    assert (found.rate, found.p_value) == (0.0, 1.0)
    assert found.interval == pytest.approx((-0.582, 0.582), abs=1e-3)
    assert paired_difference([3.0], [2.0], seed=0, is_bounded=False).interval is None


@pytest.mark.parametrize(("first", "second"), [([1.5], [0.5]), ([0.2], [-1.0])])
def test_values_out_of_bounds_are_an_error(first: list[float], second: list[float]) -> None:
    with pytest.raises(ValueError, match="is_bounded=False"):
        paired_difference(first, second, seed=0)
    with pytest.raises(ValueError, match="zip"):
        paired_difference(first, [*second, 1.0], seed=0)


# --- bootstrap --------------------------------------------------------------------------------------------------


def test_bootstrap_agrees_with_scipy() -> None:
    values = np.random.default_rng(3).exponential(size=80)
    found = bootstrap_statistic(lambda rows: float(np.median(values[rows])), 80, seed=0, num_resamples=4000)
    expected = scipy_stats.bootstrap(
        (values,), np.median, method="percentile", n_resamples=4000, rng=np.random.default_rng(1)
    )
    assert found.estimate == np.median(values) and len(found.draws) == 4000
    assert found.draws.std() == pytest.approx(expected.standard_error, rel=0.06)
    assert found.interval == pytest.approx(expected.confidence_interval, abs=0.2 * expected.standard_error)


@pytest.mark.parametrize("num_resamples", [7, 250])
def test_both_bootstraps_draw_the_same_rows(num_resamples: int) -> None:
    generator = np.random.default_rng(4)
    values, is_used = generator.random((2, 40)), generator.random((2, 40)) < 0.7
    found = cluster_bootstrap(values, is_used, range(40), seed=5, num_resamples=num_resamples)
    for column in (0, 1):

        def mean(rows: Any, column: int = column) -> float:
            return float(values[column, rows][is_used[column, rows]].mean())

        other = bootstrap_statistic(mean, 40, seed=5, num_resamples=num_resamples)
        assert found.means[column] == pytest.approx(other.estimate)
        assert found.draws[:, column] == pytest.approx(other.draws)
    assert found.counts.sum(axis=0) == pytest.approx(is_used.sum(axis=1))


def test_bootstrap_of_clusters_is_that_of_their_sums() -> None:
    # Clusters of four values: the mean of all is the mean of the clusters' means, which are drawn whole.
    generator = np.random.default_rng(6)
    clusters = np.repeat(np.arange(150), 4)
    values = (generator.random(600) < generator.random(150)[clusters]).astype(float)
    found = cluster_bootstrap([values], [np.full(600, True)], clusters.tolist(), seed=0, num_resamples=3000)
    means = values.reshape(150, 4).mean(axis=1)
    other = bootstrap_statistic(lambda rows: float(means[rows].mean()), 150, seed=0, num_resamples=3000)
    assert found.draws[:, 0] == pytest.approx(other.draws)
    assert other.draws.std() == pytest.approx(scipy_stats.sem(means), rel=0.05)
    assert other.draws.std() > 1.2 * scipy_stats.sem(values), "whole clusters vary more than their values would"
    scattered = np.random.default_rng(7).permutation(600)
    rows = values[scattered]
    joined = bootstrap_statistic(
        *(lambda chosen: float(rows[chosen].mean()), 600),
        seed=0,
        clusters=clusters[scattered].tolist(),
        num_resamples=3000,
    )
    assert joined.draws == pytest.approx(other.draws), "any statistic of rows, whole clusters of which are drawn"


def test_bootstrap_is_decided_by_the_seed() -> None:
    values = np.arange(9.0) ** 2
    one, again, other = (
        bootstrap_statistic(lambda rows: float(values[rows].mean()), 9, seed=seed, num_resamples=150)
        for seed in (1, 1, 2)
    )
    assert one.interval == again.interval != other.interval and one.estimate == other.estimate


def test_resamples_that_say_nothing_are_left_out() -> None:
    assert percentile_interval(np.array([math.nan, 1.0, 3.0, math.nan, 2.0]), confidence=0.5) == (1.5, 2.5)
    assert percentile_interval(np.array([math.nan]), confidence=0.5) is None
    assert bootstrap_statistic(len, 1, seed=0).interval is None
    empty = cluster_bootstrap(np.zeros((1, 0)), np.zeros((1, 0)), [], seed=0, num_resamples=3)
    assert np.isnan(empty.means).all() and np.isnan(empty.draws).all()


# --- many at once -----------------------------------------------------------------------------------------------


@given(st.lists(st.one_of(st.none(), st.floats(0, 1)), max_size=7))
def test_holm_is_the_closed_test_by_bonferroni(p_values: list[float | None]) -> None:
    # A hypothesis is rejected where Bonferroni rejects every set of hypotheses that it belongs to.
    places = [place for place, p_value in enumerate(p_values) if p_value is not None]
    expected: list[float | None] = [None] * len(p_values)
    for place in places:
        sets = [one for size in range(len(places) + 1) for one in itertools.combinations(places, size) if place in one]
        expected[place] = max(min(1.0, len(one) * min(p_values[other] for other in one)) for one in sets)
    assert holm(p_values) == pytest.approx(expected)


def test_holm_by_hand() -> None:
    assert holm([0.01, None, 0.04, 0.03, 0.005]) == pytest.approx([0.03, None, 0.06, 0.06, 0.02])
    assert holm([]) == [] and holm([None]) == [None] and holm([0.6, 0.7]) == [1.0, 1.0]


def test_holm_rejects_three_of_benjamini_and_hochbergs_fifteen() -> None:
    # Benjamini & Hochberg 1995, section 4: Bonferroni's correction at 5 % rejects three of their 15 hypotheses.
    ordered = [0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344]
    ordered += [0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0]
    assert sum(p_value <= 0.05 for p_value in holm(ordered) if p_value is not None) == 3


def test_simultaneous_confidence_is_the_root() -> None:
    assert simultaneous_confidence(0.95, 1) == 0.95
    assert simultaneous_confidence(0.95, 20) == pytest.approx(0.997438621)
    assert simultaneous_confidence(0.9, 7) ** 7 == pytest.approx(0.9)
    with pytest.raises(ValueError, match="0 intervals"):
        simultaneous_confidence(0.95, 0)


# --- what the intervals promise ---------------------------------------------------------------------------------

NUM_EXPERIMENTS = 1000
JOINT = simultaneous_confidence(0.95, 20)


@functools.cache
def interval_of(num_losses: int, num_ties: int, num_wins: int, confidence: float) -> tuple[float, float]:
    return mean_interval([0.0] * num_losses + [0.5] * num_ties + [1.0] * num_wins, confidence=confidence)


@functools.cache
def p_value_of(num_losses: int, num_ties: int, num_wins: int) -> float:
    return sign_flip_test([-0.5] * num_losses + [0.0] * num_ties + [0.5] * num_wins, seed=0)


def simulate(rates: Sequence[float], num_ties: float, count: int, *, seed: int) -> list[list[tuple[int, int, int]]]:
    """How many losses, ties and wins: (experiments, categories), `num_ties` being the chance of a tie."""
    generator = np.random.default_rng(seed)
    chances = [[1 - rate - num_ties / 2, num_ties, rate - num_ties / 2] for rate in rates]
    drawn = [generator.multinomial(count, chance, size=NUM_EXPERIMENTS) for chance in chances]
    return [[tuple(row) for row in experiment] for experiment in np.stack(drawn, axis=1).tolist()]


@pytest.mark.parametrize(("num_ties", "count"), [(0.0, 200), (0.3, 200), (0.6, 200), (0.1, 40)])
def test_intervals_hold_the_true_win_rate(num_ties: float, count: int) -> None:
    rates = np.linspace(0.3, 0.7, 20).round(6).tolist()
    experiments = simulate(rates, num_ties, count, seed=1)
    held = np.array(
        [
            [low <= rate <= high for rate, (low, high) in zip(rates, found, strict=True)]
            for found in ([interval_of(*row, 0.95) for row in experiment] for experiment in experiments)
        ]
    )
    assert 0.94 <= held.mean() <= 0.965, "per category, pooled: 20,000 intervals"
    assert held.mean(axis=0).min() >= 0.925 and held.mean(axis=0).max() <= 0.975, "1,000 each: the error is 0.007"
    overall = [interval_of(*(sum(kind) for kind in zip(*experiment, strict=True)), 0.95) for experiment in experiments]
    assert 0.93 <= np.mean([low <= 0.5 <= high for low, high in overall]) <= 0.97


@pytest.mark.parametrize(("num_ties", "count"), [(0.0, 200), (0.3, 200), (0.6, 200), (0.3, 40), (0.0, 10)])
def test_twenty_null_categories_are_left_alone(num_ties: float, count: int) -> None:
    experiments = simulate([0.5] * 20, num_ties, count, seed=2)
    p_values = np.array([[p_value_of(*row) for row in experiment] for experiment in experiments])
    adjusted = np.array([holm(row) for row in p_values.tolist()])
    edges = np.array([[interval_of(*row, JOINT) for row in experiment] for experiment in experiments])
    is_excluded = (edges[..., 0] > 0.5) | (edges[..., 1] < 0.5)
    limit = 0.05 + 2 * math.sqrt(0.05 * 0.95 / NUM_EXPERIMENTS)  # two standard errors of the simulation
    assert (adjusted <= 0.05).any(axis=1).mean() <= limit
    assert is_excluded.any(axis=1).mean() <= limit
    if count > 10:
        assert (p_values <= 0.05).any(axis=1).mean() > 0.3, "without the correction there is something to correct"
