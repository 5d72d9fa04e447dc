import json
import math
from collections.abc import Sequence

import numpy as np
import pytest
from made_rows import comparison
from scipy.stats import binomtest

from tpo.results.rate import Rate
from tpo.results.winrate import corrected_by_category, win_rate, win_rate_answered, win_rate_by_category
from tpo.store.records import Comparison


def comparisons(wins: Sequence[float | None], *, category: str = "c") -> list[Comparison]:
    return [comparison(f"p{number}", win, category=category) for number, win in enumerate(wins)]


# --- plain ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wins", "rate", "num_prompts", "num_unscored"),
    [
        pytest.param([1, 1, 0, 0, 0], 0.4, 5, 0, id="wins_and_losses"),
        pytest.param([1, 0.5, 0.5, 0], 0.5, 4, 0, id="ties_are_halves"),
        pytest.param([0.5], 0.5, 1, 0, id="one_tie"),
        pytest.param([1, None, None, 0, 1, 1], 0.75, 4, 2, id="unscored_are_no_losses"),
        pytest.param([1, 1], 1.0, 2, 0, id="all_won"),
    ],
)
def test_rate_and_counts(wins: list[float | None], rate: float, num_prompts: int, num_unscored: int) -> None:
    found = win_rate(comparisons(wins))
    assert (found.rate, found.num_prompts, found.num_unscored) == (rate, num_prompts, num_unscored)


@pytest.mark.parametrize(("wins", "num_unscored"), [([], 0), ([None, None], 2)], ids=["empty", "none_scored"])
def test_without_scored_comparisons_there_is_no_rate(wins: list[None], num_unscored: int) -> None:
    expected = Rate(None, None, 0, num_unscored)
    assert win_rate(comparisons(wins)) == expected
    assert expected.to_dict() == {"rate": None, "interval": None, "num_prompts": 0, "num_unscored": num_unscored}


@pytest.mark.parametrize("confidence", [0.68, 0.95, 0.99])
@pytest.mark.parametrize(("count", "num_wins"), [(1, 0), (1, 1), (4, 1), (60, 33), (805, 804), (10, 10), (7, 0)])
def test_wilson_interval_agrees_with_scipy(count: int, num_wins: int, confidence: float) -> None:
    expected = binomtest(num_wins, count).proportion_ci(confidence, method="wilson")
    found = win_rate(comparisons([1.0] * num_wins + [0.0] * (count - num_wins)), confidence=confidence)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_ties_and_soft_preferences_count_for_what_they_vary() -> None:
    # Ties vary less than wins and losses: 0.45 (0.4)^2 + 0.3 (0.1)^2 + 0.25 (0.6)^2 = 0.165, not 0.24. At this n the
    # interval is as wide as the normal one.
    found = win_rate(comparisons([1.0] * 450 + [0.5] * 300 + [0.0] * 250))
    assert found.rate == 0.6 and found.interval is not None
    low, high = found.interval
    variance = 0.45 * 0.4**2 + 0.3 * 0.1**2 + 0.25 * 0.6**2
    assert high - low == pytest.approx(2 * 1.96 * math.sqrt(variance / 1000), rel=2e-3)
    soft = win_rate(comparisons([0.7] * 500 + [0.5] * 500))
    assert soft.rate == pytest.approx(0.6) and soft.interval is not None
    assert soft.interval[1] - soft.interval[0] == pytest.approx(2 * 1.96 * 0.1 / math.sqrt(1000), rel=0.03)


def test_categories_add_up() -> None:
    rows = [
        *comparisons([1, 0, None], category="writing"),
        *comparisons([1, 0.5], category="maths"),
        *comparisons([None], category="code"),
    ]
    found = win_rate_by_category(rows)
    assert list(found) == ["code", "maths", "writing"]
    assert [(rate.rate, rate.num_prompts, rate.num_unscored) for rate in found.values()] == [
        (None, 0, 1),
        (0.75, 2, 0),
        (0.5, 2, 1),
    ]
    total = win_rate(rows)
    assert sum(rate.num_prompts for rate in found.values()) == total.num_prompts
    assert sum(rate.num_unscored for rate in found.values()) == total.num_unscored


def test_categories_by_hand() -> None:
    rows = [
        *comparisons([1.0] * 10 + [0.5, None], category="writing"),
        *comparisons([1.0, 1.0, 0.0], category="maths"),
        *comparisons([None], category="code"),
        *comparisons([0.5, 0.5], category="law"),
    ]
    found = corrected_by_category(rows, seed=0)
    assert list(found) == ["code", "law", "maths", "writing"]
    assert found["code"] == Rate(None, None, 0, 1)
    # Ten wins without a loss have 2^(1 - 10), two and one have 1; three of the categories have a test.
    assert [gain.p_value for gain in found.values()] == pytest.approx([None, 1.0, 1.0, 2**-9])
    assert [gain.adjusted_p_value for gain in found.values()] == pytest.approx([None, 1.0, 1.0, 3 * 2**-9])
    assert (found["writing"].num_prompts, found["writing"].num_unscored) == (11, 1)
    assert found["writing"].rate == pytest.approx(10.5 / 11)
    assert found["maths"].rate == pytest.approx(2 / 3)
    for confidence, interval in (
        (0.95, found["maths"].interval),
        (0.95 ** (1 / 3), found["maths"].simultaneous_interval),
    ):
        expected = binomtest(2, 3).proportion_ci(confidence, method="wilson")
        assert interval == pytest.approx((expected.low, expected.high))
    for rate in found.values():
        assert Rate.from_dict(json.loads(json.dumps(rate.to_dict(), allow_nan=False))) == rate


def test_tested_categories_have_their_win_rates_and_mirror() -> None:
    generator = np.random.default_rng(0)
    wins = [generator.choice([0.0, 0.1, 0.35, 0.5, 0.6, 0.85, 1.0], size=30).tolist() for _ in range(4)]
    rows = [row for name, won in zip("abcd", wins, strict=True) for row in comparisons(won, category=name)]
    lost = [
        row for name, won in zip("abcd", wins, strict=True) for row in comparisons([1 - w for w in won], category=name)
    ]
    found, again, mirrored = (corrected_by_category(each, seed=3, confidence=0.9) for each in (rows, rows[::-1], lost))
    plain = win_rate_by_category(rows, confidence=0.9)
    for name, rate in found.items():
        assert again[name].p_value == rate.p_value and again[name].rate == pytest.approx(rate.rate)
        assert (rate.rate, rate.interval) == (plain[name].rate, plain[name].interval)
        assert rate.rate is not None and rate.interval is not None and rate.simultaneous_interval is not None
        assert rate.simultaneous_interval[0] < rate.interval[0] < rate.interval[1] < rate.simultaneous_interval[1]
        assert mirrored[name].rate == pytest.approx(1 - rate.rate)
        assert mirrored[name].interval == pytest.approx((1 - rate.interval[1], 1 - rate.interval[0]))
        assert rate.p_value is not None and rate.adjusted_p_value is not None
        assert rate.p_value <= rate.adjusted_p_value <= 1


@pytest.mark.parametrize("count", [0, 1])
def test_categories_of_nothing(count: int) -> None:
    found = corrected_by_category(comparisons([None] * count), seed=0)
    assert [*found.values()] == [Rate(None, None, 0, 1)] * count


# --- controlled for length --------------------------------------------------------------------------------------


def test_swapping_policy_and_baseline_gives_the_opposite() -> None:
    wins = [1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0]
    found, swapped = win_rate(comparisons(wins)), win_rate(comparisons([1 - win for win in wins]))
    assert found.interval is not None
    assert swapped.rate == pytest.approx(1 - found.rate)
    assert swapped.interval == pytest.approx((1 - found.interval[1], 1 - found.interval[0]))


# --- several samples and clusters -------------------------------------------------------------------------------


def test_instructions_made_from_one_instruction_are_one_cluster() -> None:
    wins = np.random.default_rng(1).integers(0, 2, 30).tolist()
    alone = win_rate(comparisons(wins))
    twins = [
        comparison(f"{name}{number}", win, base_id=f"b{number}") for name in "pq" for number, win in enumerate(wins)
    ]
    found = win_rate(twins)
    # Twins that always fare the same tell as much as one of them.
    assert (found.rate, found.num_prompts) == (alone.rate, 60)
    assert found.interval == pytest.approx(alone.interval, abs=1e-12)
    [gain] = corrected_by_category(twins, seed=0).values()
    [alone_gain] = corrected_by_category(comparisons(wins), seed=0).values()
    assert gain.p_value == pytest.approx(alone_gain.p_value)


def test_rate_among_the_answered_weighs_pairs() -> None:
    rows = [
        comparison("a", 0.5, win_answered=0.5, num_answered_pairs=8, num_samples=2),
        comparison("b", 0.125, win_answered=0.25, num_answered_pairs=4, num_samples=2, num_no_response=1),
        comparison("c", 0.0, win_answered=None, num_answered_pairs=0, num_samples=2, num_no_response=2),
        comparison("d", None, num_samples=2, num_no_response=1),
    ]
    found = win_rate_answered(rows)
    assert (found.rate, found.num_prompts, found.num_unscored) == ((8 * 0.5 + 4 * 0.25) / 12, 2, 1)
    # The rate over all pairs is the mean of this one and of the missing, by their numbers of pairs: 0 here.
    assert win_rate(rows[:3]).rate == pytest.approx(found.rate * 12 / 24)
    assert win_rate_answered([rows[2]]) == Rate(None, None, 0, 0)


def test_rate_among_the_answered_is_the_win_rate_where_all_answered() -> None:
    rows = comparisons([1.0, 0.0, 0.5, None, 1.0])
    assert win_rate_answered(rows) == win_rate(rows)
