"""What training changed: paired by instruction, clustered by the instruction that it was made from."""

import json
import math

import numpy as np
import pytest
from made_rows import comparison
from scipy.stats import t, ttest_rel

from tpo.results.change import agreement, compared_change, null_control, paired_change, second_judge
from tpo.results.rate import Rate
from tpo.results.stats import mean_interval, paired_difference, student_interval
from tpo.store.records import Comparison

BASES = {"a1": "a", "a2": "a", "b1": "b", "b2": "b", "c1": "c"}


def test_change_by_hand() -> None:
    first = {"a1": 0.0, "a2": 0.5, "b1": 1.0, "b2": None, "c1": 0.5}
    last = {"a1": 1.0, "a2": 1.0, "b1": None, "b2": 0.0, "c1": 0.5}
    found = paired_change(first, last, BASES, confidence=0.95)
    assert (found.rate, found.num_prompts, found.num_unscored) == (0.5, 3, 2)  # (1 + 0.5 + 0) / 3
    low, high = mean_interval([1.0, 0.75, 0.5], confidence=0.95, clusters=["a", "a", "c"])
    assert found.interval == pytest.approx((2 * low - 1, 2 * high - 1))
    assert found.p_value == 1.0  # one cluster differs, and its opposite is as likely
    assert Rate.from_dict(json.loads(json.dumps(found.to_dict()))) == found


def test_order_of_the_instructions_does_not_matter_and_swapping_gives_the_opposite() -> None:
    generator = np.random.default_rng(0)
    names = [f"p{number}" for number in range(40)]
    clusters = {name: name[:-1] for name in names}
    first, last = (dict(zip(names, generator.choice([0, 0.25, 0.5, 1], 40).tolist(), strict=True)) for _ in "ab")
    found = paired_change(first, last, clusters, confidence=0.9)
    again = paired_change(dict(reversed(first.items())), last, clusters, confidence=0.9)
    swapped = paired_change(last, first, clusters, confidence=0.9)
    assert again == found
    assert found.rate is not None and found.interval is not None and swapped.rate == pytest.approx(-found.rate)
    assert swapped.interval == pytest.approx((-found.interval[1], -found.interval[0]))
    assert swapped.p_value == found.p_value


def test_instructions_must_be_the_same() -> None:
    with pytest.raises(ValueError, match="2 instructions have a value on one side only"):
        paired_change({"a1": 0.0}, {"a2": 1.0}, BASES, confidence=0.95)


def test_unbounded_change_is_students_paired_interval() -> None:
    first = {"a1": -3.0, "b1": 2.0, "c1": 7.5}
    last = {"a1": -1.0, "b1": 2.5, "c1": 9.0}
    found = paired_change(first, last, BASES, confidence=0.95, is_bounded=False)
    expected = ttest_rel(list(last.values()), list(first.values())).confidence_interval(0.95)
    assert found.interval == pytest.approx((expected.low, expected.high))


def test_students_interval_of_clusters_is_that_of_their_sums() -> None:
    # Twins tell as much as one of them: the interval of the doubled rows is that of the rows.
    values = [1.0, -2.0, 0.5, 4.0]
    alone = student_interval(values, confidence=0.95)
    assert student_interval([*values, *values], confidence=0.95, clusters=[0, 1, 2, 3] * 2) == pytest.approx(alone)
    # Unequal clusters against the double sum over pairs of rows of one cluster.
    rows, names = np.array([3.0, 1.0, 5.0, -1.0, 2.0]), ["x", "x", "y", "z", "z"]
    residuals = rows - rows.mean()
    double = sum(residuals[i] * residuals[j] for i in range(5) for j in range(5) if names[i] == names[j])
    half = math.sqrt(3 / 2 * double) / 5 * float(t.ppf(0.975, 2))
    assert student_interval(rows, confidence=0.95, clusters=names) == pytest.approx((2 - half, 2 + half))
    with pytest.raises(ValueError, match="two clusters or more, not 1"):
        student_interval([1.0, 2.0], confidence=0.95, clusters=["a", "a"])


def test_a_single_cluster_has_no_students_interval() -> None:
    found = paired_difference([1.0, 5.0], [0.0, 0.0], seed=0, is_bounded=False, clusters=["a", "a"])
    assert (found.rate, found.interval, found.p_value) == (3.0, None, 1.0)


def test_twins_widen_the_interval_of_a_change() -> None:
    first = {f"p{number}": float(number % 2) for number in range(40)}
    last = {f"p{number}": float(number % 4 < 3) for number in range(40)}
    alone = paired_change(first, last, {name: name for name in first}, confidence=0.95)
    twins = paired_change(first, last, {f"p{number}": str(number // 4) for number in range(40)}, confidence=0.95)
    # Every four of one cluster sum to the same: together they vary less than apart, and the interval says so.
    assert twins.rate == alone.rate and twins.interval is not None and alone.interval is not None
    pairs = paired_change(
        first, last, {f"p{number}": str(number % 20 // 2 * 2 + number % 2) for number in range(40)}, confidence=0.95
    )
    assert pairs.interval is not None
    assert pairs.interval[1] - pairs.interval[0] > alone.interval[1] - alone.interval[0]


UNTRAINED = [
    comparison("a1", 0.0, base_id="a", policy_score=-1.0, policy_tokens=50.0),
    comparison("a2", 0.5, base_id="a", policy_score=None, policy_tokens=None),
    comparison("b1", 0.5, base_id="b", policy_score=3.0, policy_tokens=40.0),
]
TRAINED = [
    comparison("b1", 1.0, base_id="b", policy_score=2.0, policy_tokens=60.0),
    comparison("a1", 0.75, base_id="a", policy_score=1.0, policy_tokens=40.0),
    comparison("a2", None, base_id="a", policy_score=5.0, policy_tokens=10.0),
]


def test_change_of_comparisons_is_of_wins_scores_and_tokens() -> None:
    found = compared_change(UNTRAINED, TRAINED, confidence=0.95, seed=0)
    rows = {name: (rate.rate, rate.num_prompts, rate.num_unscored) for name, rate in found.items()}
    assert rows == {"win_rate": (0.625, 2, 1), "score": (0.5, 2, 1), "response_tokens": (5.0, 2, 1)}
    low, high = found["response_tokens"].interval or (0, 0)
    assert low < 5 < high and high - low > 100, "in tokens: two clusters, +20 and -10"


def test_null_control_is_one_half_and_no_gap() -> None:
    rows = [comparison("a1", 0.25, policy_score=1.0, baseline_score=2.0), comparison("b1", 0.75, baseline_score=None)]
    found = null_control(rows, confidence=0.95)
    assert found["win_rate"]["rate"] == 0.5
    assert (found["score"]["rate"], found["score"]["num_prompts"], found["score"]["num_unscored"]) == (-1.0, 1, 1)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param([1.0, 0.0, 0.75], [0.75, 0.25, 1.0], (1.0, 3, 0), id="same_side"),
        pytest.param([1.0, 0.0], [0.25, 0.75], (0.0, 2, 0), id="other_side"),
        pytest.param([0.5, 1.0, 0.5], [1.0, 0.5, 0.5], (0.5, 3, 0), id="ties_are_halves"),
        pytest.param([1.0, None, 0.0], [1.0, 1.0, None], (1.0, 1, 2), id="unscored_are_counted"),
        pytest.param([None], [1.0], (None, 0, 1), id="nothing_scored"),
    ],
)
def test_agreement_of_two_judges(
    first: list[float | None], second: list[float | None], expected: tuple[float | None, int, int]
) -> None:
    def rows(wins: list[float | None]) -> list[Comparison]:
        return [comparison(f"p{number}", win) for number, win in enumerate(wins)]

    found = agreement(rows(first), rows(second)[::-1], confidence=0.95)
    assert (found.rate, found.num_prompts, found.num_unscored) == expected
    assert (found.interval is None) == (expected[0] is None)


def test_second_judge_has_a_change_where_something_was_trained() -> None:
    found = second_judge("length", TRAINED, UNTRAINED, confidence=0.95)
    assert (found["judge"], found["change"], found["win_rate"]["rate"]) == ("length", None, 1 / 3)
    assert found["agreement"]["rate"] == 0.25  # b1: a tie; a1: opposite sides; a2 is unscored
    trained = second_judge("length", UNTRAINED, TRAINED, untrained=UNTRAINED, confidence=0.95)
    assert trained["change"]["rate"] == 0.625
