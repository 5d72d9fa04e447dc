from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from tpo.records import Comparison
from tpo.winrate import WinRate, wilson_interval, win_rate, win_rate_by_category


def comparisons(wins: Sequence[float | None], *, category: str = "c") -> list[Comparison]:
    return [
        Comparison(f"p{number}", category, win, None if win is not None else "why", 1.0, 1.0, 1000, 1000)
        for number, win in enumerate(wins)
    ]


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
    expected = WinRate(None, None, 0, num_unscored)
    assert win_rate(comparisons(wins)) == expected
    assert expected.to_dict() == {"rate": None, "interval": None, "num_prompts": 0, "num_unscored": num_unscored}


@pytest.mark.parametrize("confidence", [0.68, 0.95, 0.99])
@pytest.mark.parametrize(("count", "num_wins"), [(1, 0), (1, 1), (4, 1), (60, 33), (805, 804), (10, 10), (7, 0)])
def test_wilson_interval_agrees_with_scipy(count: int, num_wins: int, confidence: float) -> None:
    expected = binomtest(num_wins, count).proportion_ci(confidence, method="wilson")
    found = win_rate(comparisons([1.0] * num_wins + [0.0] * (count - num_wins)), confidence=confidence)
    assert found.interval == pytest.approx((expected.low, expected.high), abs=1e-12)


@given(st.floats(0, 1), st.integers(1, 2000), st.floats(0.5, 0.999))
def test_wilson_interval_holds_the_rate_within_bounds(rate: float, count: int, confidence: float) -> None:
    low, high = wilson_interval(rate, count, confidence=confidence)
    assert 0 <= low <= rate + 1e-12 and rate - 1e-12 <= high <= 1


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


def test_swapping_policy_and_baseline_gives_the_opposite() -> None:
    wins = [1.0, 0.0, 0.5, 1.0, 1.0, 0.0, 1.0]
    found, swapped = win_rate(comparisons(wins)), win_rate(comparisons([1 - win for win in wins]))
    assert found.interval is not None
    assert swapped.rate == pytest.approx(1 - found.rate)
    assert swapped.interval == pytest.approx((1 - found.interval[1], 1 - found.interval[0]))
