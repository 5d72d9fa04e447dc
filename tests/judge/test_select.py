import pytest

from tpo.judge.select import Selection, best_epoch
from tpo.store.records import Score


def scores(*values: float | None) -> list[Score]:
    return [
        Score(f"p{number}", 0, value, None if value is not None else "why", None, 0)
        for number, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        pytest.param({1: scores(1, 2), 2: scores(2, 3)}, Selection(2, {1: 1.5, 2: 2.5}, 2), id="highest_mean"),
        pytest.param(
            {1: scores(-3), 2: scores(-2), 3: scores(-9)}, Selection(2, {1: -3, 2: -2, 3: -9}, 1), id="middle"
        ),
        pytest.param({1: scores(1, 3), 2: scores(2, 2)}, Selection(1, {1: 2, 2: 2}, 2), id="tie_to_the_earlier"),
        pytest.param({3: scores(2), 1: scores(2), 2: scores(2)}, Selection(1, {1: 2, 2: 2, 3: 2}, 1), id="any_order"),
        # Over its own responses epoch 2 would win with a mean of 9, because it failed at the hard instruction.
        pytest.param({1: scores(9.5, 1), 2: scores(9, None)}, Selection(1, {1: 9.5, 2: 9}, 1), id="shared_only"),
        pytest.param({1: scores(1, None), 2: scores(None, 1)}, Selection(2, {}, 0), id="none_shared"),
        pytest.param({1: scores(5), 2: [], 3: []}, Selection(3, {}, 0), id="no_scores_at_an_epoch"),
        pytest.param({4: scores(0.0, None)}, Selection(4, {4: 0}, 1), id="one_epoch"),
    ],
)
def test_best_epoch(found: dict[int, list[Score]], expected: Selection) -> None:
    assert best_epoch(found) == expected


def test_samples_of_one_prompt_count_separately() -> None:
    first = [Score("p", 0, 1.0, None, None, 0), Score("p", 1, 5.0, None, None, 0)]
    second = [Score("p", 1, 4.0, None, None, 0), Score("p", 0, 1.5, None, None, 0)]
    assert best_epoch({1: first, 2: second}) == Selection(1, {1: 3.0, 2: 2.75}, 2)
