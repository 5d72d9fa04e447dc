import pytest
from msgspec.structs import replace

from tpo.judge.select import Selection, best_epoch, only_epoch
from tpo.store.records import Completion, Score

ANSWER = Completion("p", 0, [1], [2], 0, 0, 0, False, "yes", "hm", "yes", None, "stop", 3, 1, 0)
MISSING = "empty_response"


def scores(*values: float | str | None) -> list[Score]:
    """Scores; a text is the reason for a missing response, None an unscored one."""
    return [
        Score(f"p{number}", 0, value, None, None, 0)
        if isinstance(value, float | int)
        else Score(f"p{number}", 0, None, value or "no_verdict", None, 0)
        for number, value in enumerate(values)
    ]


def answers(rows: list[Score]) -> list[Completion]:
    return [
        replace(
            ANSWER,
            prompt_id=row.prompt_id,
            sample_index=row.sample_index,
            response=None if row.unscored_reason == MISSING else "yes",
            split_error=MISSING if row.unscored_reason == MISSING else None,
        )
        for row in rows
    ]


def select(found: dict[int, list[Score]]) -> Selection:
    return best_epoch(found, {epoch: answers(rows) for epoch, rows in found.items()})


@pytest.mark.parametrize(
    ("found", "epoch", "means", "num_responses"),
    [
        pytest.param({1: scores(1, 2), 2: scores(2, 3)}, 2, {1: 1.5, 2: 2.5}, {1: 2, 2: 2}, id="highest_mean"),
        pytest.param(
            {1: scores(-3), 2: scores(-2), 3: scores(-9)}, 2, {1: -3, 2: -2, 3: -9}, {1: 1, 2: 1, 3: 1}, id="middle"
        ),
        pytest.param({1: scores(1, 3), 2: scores(2, 2)}, 1, {1: 2, 2: 2}, {1: 2, 2: 2}, id="tie_to_the_earlier"),
        pytest.param(
            {3: scores(2), 1: scores(2), 2: scores(2)}, 1, {1: 2, 2: 2, 3: 2}, {1: 1, 2: 1, 3: 1}, id="any_order"
        ),
        # Over its own responses epoch 2 would win with a mean of 9, because it failed at the hard instruction; it
        # takes the lowest score, 1.
        pytest.param(
            {1: scores(9.5, 1), 2: scores(9, MISSING)}, 1, {1: 5.25, 2: 5.0}, {1: 2, 2: 1}, id="missing_is_lowest"
        ),
        # What a judge could not score says nothing of the epoch.
        pytest.param(
            {1: scores(9.5, 1), 2: scores(9, None)}, 1, {1: 9.5, 2: 9}, {1: 2, 2: 2}, id="unscored_is_left_out"
        ),
        pytest.param({1: scores(1, None), 2: scores(None, 1)}, 2, {}, {1: 2, 2: 2}, id="none_shared"),
        pytest.param(
            {1: scores(5), 2: scores(MISSING), 3: scores(MISSING)},
            *(1, {1: 5, 2: 5, 3: 5}, {1: 1, 2: 0, 3: 0}),
            id="lowest_of_one",
        ),
        pytest.param(
            {1: scores(5, MISSING), 2: scores(5, 5)}, 2, {1: 5, 2: 5}, {1: 1, 2: 2}, id="of_equal_means_more_responses"
        ),
        pytest.param({1: scores(MISSING), 2: scores(MISSING)}, 2, {}, {1: 0, 2: 0}, id="nothing_answered"),
        pytest.param({4: scores(0.0, None)}, 4, {4: 0}, {4: 2}, id="one_epoch"),
    ],
)
def test_best_epoch(
    found: dict[int, list[Score]], epoch: int, means: dict[int, float], num_responses: dict[int, int]
) -> None:
    assert select(found) == Selection(epoch, means, num_responses, len(next(iter(found.values()))))


def test_an_epoch_that_hardly_answers_is_not_chosen() -> None:
    # 3 of 20 at 0.60 against 20 of 20 at 0.50: on the three that both answered, the first is the better one.
    quiet = scores(0.6, 0.6, 0.6, *[MISSING] * 17)
    found = select({1: scores(*[0.5] * 20), 2: quiet, 3: scores(*[0.55] * 10, *[0.4] * 10)})
    assert (found.epoch, found.num_responses, found.num_completions) == (1, {1: 20, 2: 3, 3: 20}, 20)
    assert found.mean_scores == pytest.approx({1: 0.5, 2: (3 * 0.6 + 17 * 0.4) / 20, 3: 0.475})


def test_samples_of_one_prompt_count_separately() -> None:
    first = [Score("p", 0, 1.0, None, None, 0), Score("p", 1, 5.0, None, None, 0)]
    second = [Score("p", 1, 4.0, None, None, 0), Score("p", 0, 1.5, None, None, 0)]
    assert select({1: first, 2: second}) == Selection(1, {1: 3.0, 2: 2.75}, {1: 2, 2: 2}, 2)


def test_an_epoch_without_others_is_selected_by_nothing() -> None:
    assert only_epoch(3) == Selection(3, {}, {}, 0)
