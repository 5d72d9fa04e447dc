"""Win rates at equal length against scikit-learn, hand values and simulations; test_alpaca_eval has published ones."""

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_rows import comparison
from sklearn.linear_model import LogisticRegression

from tpo.evaluate.length_control import (
    estimate_length_controlled,
    length_controlled_rate,
    length_controlled_win_rate,
)
from tpo.results.rate import Rate
from tpo.results.stats import wilson_interval
from tpo.store.records import Comparison

SLOPES = [None, 1.1]
slopes = pytest.mark.parametrize("slope", SLOPES, ids=["fitted", "fixed"])


def comparisons(wins: Sequence[float | None], gaps: Sequence[int] | None = None) -> list[Comparison]:
    """Comparisons with the given wins; a gap is policy characters minus baseline characters."""
    return [
        comparison(f"p{number}", win, policy_characters=1000.0 + gap, baseline_characters=1000.0)
        for number, (win, gap) in enumerate(zip(wins, gaps or [0] * len(wins), strict=True))
    ]


def simulate(count: int, *, intercept: float, slope: float, seed: int) -> tuple[list[float], list[int]]:
    """Wins from the documented model, a tenth of them turned into ties."""
    generator = np.random.default_rng(seed)
    gaps = generator.normal(40, 60, size=count).round()
    chance = 1 / (1 + np.exp(-(intercept + slope * np.tanh(gaps / gaps.std()))))
    wins = (generator.random(count) < chance).astype(float)
    wins[generator.random(count) < 0.1] = 0.5
    return wins.tolist(), gaps.astype(int).tolist()


def soft(count: int, *, intercept: float, slope: float, shift: float, seed: int) -> tuple[list[float], list[float]]:
    """Probabilities exactly as the model has them, for responses that are mostly `shift` longer."""
    gaps = np.random.default_rng(seed).normal(shift, 300, size=count)
    return (1 / (1 + np.exp(-(intercept + slope * np.tanh(gaps / gaps.std()))))).tolist(), gaps.tolist()


# --- rates ------------------------------------------------------------------------------------------------------


def sklearn_rate(wins: Sequence[float], gaps: Sequence[float]) -> float:
    """The fitted model by scikit-learn: a win of w is w wins and 1 - w losses; C=1 is a ridge of weight 1 on b."""
    features = np.tanh(np.array(gaps) / np.std(gaps))[:, None]
    model = LogisticRegression(C=1.0, tol=1e-12, max_iter=10_000)
    weights = np.concatenate([wins, 1 - np.array(wins)])
    labels = np.repeat([1, 0], len(wins))
    model.fit(np.concatenate([features, features]), labels, sample_weight=weights)
    return float(model.predict_proba([[0.0]])[0, 1])


SEPARABLE = ([1.0, 1.0, 1.0, 0.0, 0.0], [50, 40, 10, -10, -60])
LONGER_LOSES = ([0.0, 0.0, 1.0, 1.0, 0.5], [500, 400, -10, -500, 3])
ONE_WIN = ([1.0] + [0.0] * 59, [300] + list(range(-30, 29)))


@pytest.mark.parametrize(
    ("wins", "gaps"),
    [
        *(
            pytest.param(*simulate(200, intercept=a, slope=b, seed=seed), id=f"a={a},b={b}")
            for seed, (a, b) in enumerate([(0.0, 0.0), (-0.5, 2.0), (1.5, -1.0), (-2.0, 0.5)])
        ),
        pytest.param(*soft(200, intercept=-1, slope=2, shift=-300, seed=4), id="soft"),
        pytest.param(*SEPARABLE, id="separable"),
        pytest.param(*LONGER_LOSES, id="longer_loses"),
        pytest.param(*ONE_WIN, id="one_win"),
    ],
)
def test_fitted_rate_agrees_with_sklearn(wins: list[float], gaps: list[float]) -> None:
    assert length_controlled_rate(wins, gaps) == pytest.approx(sklearn_rate(wins, gaps), abs=2e-5)


def test_fitted_rate_recovers_the_intercept() -> None:
    wins, gaps = simulate(20_000, intercept=-0.6, slope=1.5, seed=1)
    # Ties pull the fitted odds toward 1, so only the wins and losses hold the intercept that made them.
    kept = [(win, gap) for win, gap in zip(wins, gaps, strict=True) if win != 0.5]
    kept_wins, kept_gaps = zip(*kept, strict=True)
    expected = 1 / (1 + math.exp(0.6))
    found = length_controlled_rate(kept_wins, kept_gaps)
    assert found == pytest.approx(expected, abs=0.015)  # three standard errors
    assert np.mean(kept_wins) > expected + 0.1, "the data hold no length effect to control"


@given(intercept=st.floats(-4, 4), slope=st.floats(-3, 3), shift=st.floats(-900, 900), seed=st.integers(0, 1000))
def test_fixed_slope_recovers_the_intercept_where_it_is_the_true_one(
    intercept: float, slope: float, shift: float, seed: int
) -> None:
    wins, gaps = soft(50, intercept=intercept, slope=slope, shift=shift, seed=seed)
    assert length_controlled_rate(wins, gaps, slope=slope) == pytest.approx(1 / (1 + math.exp(-intercept)), abs=1e-9)


@pytest.mark.parametrize(
    ("wins", "rate"),
    # Gaps of -1 and 1 have spread 1, so the features are -tanh(1) and tanh(1), and this slope makes odds o at equal
    # length o / 3 and 3 o there.
    [
        pytest.param([0, 1], 1 / 2, id="odds_1/3_and_3:_one_win_in_two"),
        pytest.param([0.25, 0.75], 1 / 2, id="odds_1/3_and_3"),
        pytest.param([0.5, 0.9], 3 / 4, id="odds_1_and_9"),
        pytest.param([0.1, 0.5], 1 / 4, id="odds_1/9_and_1"),
        pytest.param([0.7, 0.7], 3 / 4, id="only_the_mean_counts"),
    ],
)
def test_fixed_slope_by_hand(wins: list[float], rate: float) -> None:
    slope = math.log(3) / math.tanh(1)
    assert length_controlled_rate(wins, [-1, 1], slope=slope) == pytest.approx(rate, abs=1e-9)


@slopes
def test_unit_and_order_do_not_matter(slope: float | None) -> None:
    wins, gaps = simulate(60, intercept=0.3, slope=1.0, seed=8)
    found = length_controlled_rate(wins, gaps, slope=slope)
    assert length_controlled_rate(wins, 0.25 * np.array(gaps), slope=slope) == pytest.approx(found, abs=1e-5)
    assert length_controlled_rate(wins[::-1], gaps[::-1], slope=slope) == pytest.approx(found, abs=1e-5)


@slopes
@pytest.mark.parametrize("gap", [0, 37, -900])
def test_equal_length_differences_give_the_plain_rate(gap: int, slope: float | None) -> None:
    wins = [1.0, 0.5, 0.0, 0.0, 1.0, 1.0, 0.0]
    assert length_controlled_rate(wins, [gap] * len(wins), slope=slope) == 0.5


@slopes
@pytest.mark.parametrize("win", [0.0, 1.0])
def test_all_won_or_lost_is_so_at_any_length(win: float, slope: float | None) -> None:
    found = estimate_length_controlled([win] * 9, range(9), seed=0, slope=slope)
    assert found.rate == win
    assert found.interval == wilson_interval(win, 9, confidence=0.95)


def test_slope_of_zero_controls_nothing() -> None:
    wins, gaps = simulate(60, intercept=0.3, slope=1.0, seed=8)
    assert length_controlled_rate(wins, gaps, slope=0.0) == pytest.approx(np.mean(wins), abs=1e-12)


def test_equal_soft_wins_of_shorter_responses_are_worth_more_at_equal_length() -> None:
    wins, gaps = [0.5] * 5, [-1, -2, -3, -4, -5]
    assert length_controlled_rate(wins, gaps) == 0.5  # fitted: length explains nothing
    assert length_controlled_rate(wins, gaps, slope=1.0) > 0.6


# --- estimates --------------------------------------------------------------------------------------------------


@slopes
@pytest.mark.parametrize(
    ("wins", "rate", "num_prompts", "num_unscored"),
    [
        pytest.param([1, 1, 0, 0, 0], 0.4, 5, 0, id="wins_and_losses"),
        pytest.param([1, 0.5, 0.5, 0], 0.5, 4, 0, id="ties_are_halves"),
        pytest.param([0.5], 0.5, 1, 0, id="one_tie"),
        pytest.param([1, None, None, 0, 1, 1], 0.75, 4, 2, id="unscored_are_no_losses"),
        pytest.param([1, 1], 1.0, 2, 0, id="all_won"),
        pytest.param([], None, 0, 0, id="empty"),
        pytest.param([None, None], None, 0, 2, id="none_scored"),
    ],
)
def test_counts_and_name_of_the_estimator(
    wins: list[float | None], rate: float | None, num_prompts: int, num_unscored: int, slope: float | None
) -> None:
    found = length_controlled_win_rate(comparisons(wins), seed=0, slope=slope, num_resamples=5)
    name = "fitted" if slope is None else "slope fixed at 1.1"
    assert replace(found, interval=None) == Rate(rate, None, num_prompts, num_unscored, estimator=name)
    assert (found.interval is None) == (rate is None)
    edges = None if found.interval is None else list(found.interval)
    assert found.to_dict() == {
        "rate": rate,
        "interval": edges,
        "num_prompts": num_prompts,
        "num_unscored": num_unscored,
        "estimator": name,
    }


def test_comparisons_are_measured_in_characters_and_without_a_response_as_equally_long() -> None:
    rows = comparisons([1.0, 0.0, 1.0], [50, -20, 400])
    silent = [*rows[:2], comparison("p2", 1.0, policy_characters=None, baseline_characters=700.0)]
    found = length_controlled_win_rate(silent, seed=0, num_resamples=5)
    assert found.rate == length_controlled_rate([1.0, 0.0, 1.0], [50, -20, 0])


@slopes
def test_bootstrap_is_decided_by_the_seed(slope: float | None) -> None:
    wins, gaps = simulate(60, intercept=0, slope=1, seed=2)
    first, again, other = (
        estimate_length_controlled(wins, gaps, seed=seed, slope=slope, num_resamples=50) for seed in (3, 3, 4)
    )
    assert first == again and first.rate == other.rate and first.interval != other.interval


@slopes
def test_bootstrap_interval_is_about_as_wide_as_theory_says(slope: float | None) -> None:
    # Without a length effect the fitted estimate's standard error is close to the plain one, sqrt(p (1 - p) / n); so is
    # the other's, since lengths around those of the baseline hardly move it.
    generator = np.random.default_rng(0)
    wins = (generator.random(400) < 0.3).astype(float).tolist()
    gaps = generator.normal(0, 50, size=400).tolist()
    found = estimate_length_controlled(wins, gaps, seed=0, slope=slope, confidence=0.9, num_resamples=400)
    assert found.rate is not None and found.interval is not None
    low, high = found.interval
    assert low < found.rate < high
    expected = 2 * 1.645 * math.sqrt(found.rate * (1 - found.rate) / 400)
    assert high - low == pytest.approx(expected, rel=0.25)


@slopes
def test_swapping_policy_and_baseline_gives_the_opposite(slope: float | None) -> None:
    wins, gaps = simulate(80, intercept=0.4, slope=1.0, seed=5)
    found = estimate_length_controlled(wins, gaps, seed=0, slope=slope, num_resamples=50)
    swapped = estimate_length_controlled(
        [1 - win for win in wins], [-gap for gap in gaps], seed=0, slope=slope, num_resamples=50
    )
    assert found.interval is not None
    assert swapped.rate == pytest.approx(1 - found.rate, abs=1e-5)
    assert swapped.interval == pytest.approx((1 - found.interval[1], 1 - found.interval[0]), abs=1e-4)


@slopes
def test_unscored_comparisons_do_not_change_the_estimate(slope: float | None) -> None:
    wins, gaps = simulate(40, intercept=0, slope=1, seed=6)
    how = {"seed": 0, "slope": slope, "num_resamples": 20}
    alone = estimate_length_controlled(wins, gaps, **how)
    assert estimate_length_controlled([*wins, None, None], [*gaps, 9000, -1], **how) == replace(alone, num_unscored=2)
