from collections.abc import Sequence

import pytest
from made_rows import comparison

from tpo.evaluate.compare import Judged, compare, judged_by_scores, judged_by_verdicts, summarize
from tpo.judge.responses import visible
from tpo.store.records import Comparison, Completion, Prompt, Response, Score, Verdict

PROMPT = Prompt("p", "Why?", "science", "builtin", "test", (), "b")
Side = tuple[list[Completion], list[Score]]


def side(score: float | None, *, reason: str | None = None, num_tokens: int = 5, prompt_id: str = "p") -> Side:
    text = f"yes {score} {reason}"
    row = Completion(prompt_id, 0, [1], [2], 0, 0, 0, False, text, "hm", text, None, "stop", 3, num_tokens, 0)
    return [row], [Score(prompt_id, 0, score, reason, None, 0)]


def silent(reason: str) -> Side:
    """A completion without a response, as the split and the judge leave it."""
    row = Completion("p", 0, [1], [2], 0, 0, 0, False, "yes", None, None, reason, "stop", 0, 0, 0)
    return [row], [Score("p", 0, None, reason, None, 0)]


def versus(prompts: Sequence[Prompt], policy: Side, baseline: Side, *, no_response: str = "loss") -> list[Comparison]:
    judged = judged_by_scores(policy[1], baseline[1])
    tokens = {(row.prompt_id, row.sample_index): row.num_response_tokens for row in baseline[0]}
    theirs = list(visible(baseline[0]))
    return compare(prompts, policy[0], theirs, judged, no_response=no_response, baseline_tokens=tokens)


@pytest.mark.parametrize("no_response", ["loss", "unscored"])
@pytest.mark.parametrize(
    ("policy", "baseline", "win", "reason"),
    [
        pytest.param(side(2.0), side(1.0), 1.0, None, id="win"),
        pytest.param(side(1.0), side(1.0), 0.5, None, id="tie"),
        pytest.param(side(-2.0), side(1.0), 0.0, None, id="loss"),
        pytest.param(side(0.0), side(-1.0), 1.0, None, id="zero_is_a_score"),
        pytest.param(side(1.0), side(0.0), 1.0, None, id="zero_of_the_baseline_is_a_score"),
        # A response that the judge could not score is missing, whatever becomes of missing responses.
        pytest.param(side(None, reason="too_long"), side(1.0), None, "policy: too_long", id="policy"),
        pytest.param(side(1.0), side(None, reason="too_long"), None, "baseline: too_long", id="baseline"),
        pytest.param(side(None, reason="a"), side(None, reason="b"), None, "policy: a", id="both"),
    ],
)
def test_compare(policy: Side, baseline: Side, win: float | None, reason: str | None, no_response: str) -> None:
    [found] = versus([PROMPT], policy, baseline, no_response=no_response)
    assert (found.win, found.unscored_reason) == (win, reason)
    assert (found.policy_score, found.baseline_score) == (policy[1][0].score, baseline[1][0].score)


@pytest.mark.parametrize(
    ("policy", "baseline", "win", "reason"),
    [
        pytest.param(silent("empty_response"), side(-9.0), 0.0, "policy: empty_response", id="policy"),
        pytest.param(side(-9.0), silent("empty_response"), 1.0, "baseline: empty_response", id="baseline"),
        pytest.param(silent("thought_truncated"), silent("b"), 0.5, "policy: thought_truncated", id="both"),
    ],
)
def test_missing_response_is_a_loss_or_unscored(policy: Side, baseline: Side, win: float, reason: str) -> None:
    [lost] = versus([PROMPT], policy, baseline, no_response="loss")
    [unscored] = versus([PROMPT], policy, baseline, no_response="unscored")
    assert (lost.win, lost.unscored_reason) == (win, None)
    assert (unscored.win, unscored.unscored_reason) == (None, reason)


@pytest.mark.parametrize("no_response", ["loss", "unscored"])
def test_a_sample_without_a_thought_to_intervene_on_is_no_loss(no_response: str) -> None:
    [found] = versus([PROMPT], silent("no_thought"), side(1.0), no_response=no_response)
    assert (found.win, found.unscored_reason, found.num_pairs) == (None, "policy: no_thought", 0)
    assert (found.num_samples, found.num_no_response) == (0, 0), "nobody was asked"


def test_row_holds_where_it_belongs_and_response_lengths() -> None:
    ours, theirs = side(2.0, num_tokens=7), side(1.5, reason="long", num_tokens=9)
    [found] = versus([PROMPT], ours, theirs)
    assert found == Comparison(
        prompt_id="p",
        base_id="b",
        category="science",
        win=1.0,
        unscored_reason=None,
        num_pairs=1,
        win_answered=1.0,
        num_answered_pairs=1,
        num_samples=1,
        num_no_response=0,
        policy_score=2.0,
        baseline_score=1.5,
        policy_tokens=7,
        baseline_tokens=9,
        policy_characters=len("yes 2.0 None"),
        baseline_characters=len("yes 1.5 long"),
    )
    [found] = versus([PROMPT], silent("empty_response"), theirs)
    assert (found.policy_characters, found.policy_tokens, found.baseline_characters) == (
        None,
        None,
        len("yes 1.5 long"),
    )


def test_rows_are_matched_by_prompt_not_by_position() -> None:
    prompts = [PROMPT, Prompt("q", "How?", "maths", "builtin", "test", (), "q")]
    ours = [side(2.0, prompt_id="p"), side(0.0, prompt_id="q")]
    theirs = [side(1.0, prompt_id="q"), side(1.0, prompt_id="p")]
    merged: list[Side] = [
        ([rows[0] for rows, _ in sides], [scores[0] for _, scores in sides[::-1]]) for sides in (ours, theirs)
    ]
    assert [(row.prompt_id, row.win) for row in versus(prompts, *merged)] == [
        ("p", 1.0),
        ("q", 0.0),
    ]


def test_prompts_that_were_not_answered_are_an_error() -> None:
    with pytest.raises(ValueError):
        versus([PROMPT, Prompt("q", "How?", "maths", "builtin", "test", (), "q")], side(1.0), side(1.0))


# --- several samples --------------------------------------------------------------------------------------------


def several(*texts: str | None) -> list[Completion]:
    return [
        Completion("p", index, [1], [2], 0, 0, 0, False, "", "hm", text, None if text else "empty", "stop", 3, index, 0)
        for index, text in enumerate(texts)
    ]


def responses(*texts: str | None) -> list[Response]:
    return [Response("p", index, text, None if text else "empty") for index, text in enumerate(texts)]


def scores(*values: float | None) -> list[Score]:
    return [
        Score("p", index, value, "too_long" if value is None else None, None, 0) for index, value in enumerate(values)
    ]


def averaged(
    ours: list[Completion], theirs: list[Response], judged: Judged, *, no_response: str = "loss"
) -> Comparison:
    tokens = {(row.prompt_id, row.sample_index): 10 * (row.sample_index + 1) for row in theirs}
    [found] = compare([PROMPT], ours, theirs, judged, no_response=no_response, baseline_tokens=tokens)
    return found


def test_win_is_the_mean_over_all_pairs() -> None:
    # By hand: 3 beats 2 and 1; 2 ties 2 and beats 1; 0 loses to both: (2 + 1.5 + 0) / 6.
    judged = judged_by_scores(scores(3.0, 2.0, 0.0), scores(2.0, 1.0))
    found = averaged(several("a", "bb", "ccc"), responses("x", "yyy"), judged)
    assert (found.win, found.num_pairs, found.unscored_reason) == (3.5 / 6, 6, None)
    assert found.policy_score == pytest.approx(5 / 3) and found.baseline_score == 1.5
    assert (found.policy_tokens, found.policy_characters) == (1, 2)
    assert (found.baseline_tokens, found.baseline_characters) == (15, 2)
    # Judged together, the baseline's samples are numbered on: the same.
    both = scores(3.0, 2.0, 0.0, 2.0, 1.0)
    assert averaged(
        several("a", "bb", "ccc"), responses("x", "yyy"), judged_by_scores(both, both, baseline_start=3)
    ) == (found)


def test_one_lucky_draw_of_the_baseline_does_not_decide() -> None:
    # The fault that this design is against: with the first draw alone the policy loses, against four it is even.
    judged = judged_by_scores(scores(1.0), scores(2.0, 0.0, 2.0, 0.0))
    assert averaged(several("a"), responses("w", "x", "y", "z"), judged).win == 0.5


def test_unscored_pairs_are_left_out_and_missing_responses_are_not() -> None:
    judged = judged_by_scores(scores(3.0, None, None), scores(2.0, None))
    ours = several("a", "b", None)
    lost = averaged(ours, responses("x", "y"), judged)
    # Scored are sample 0 against 0, a win, and the missing sample against both, two losses.
    assert (lost.win, lost.num_pairs) == (1 / 3, 3)
    assert (lost.win_answered, lost.num_answered_pairs) == (1.0, 1)
    assert (lost.num_samples, lost.num_no_response) == (3, 1)
    left = averaged(ours, responses("x", "y"), judged, no_response="unscored")
    assert (left.win, left.num_pairs, left.win_answered, left.num_no_response) == (1.0, 1, 1.0, 1)


def test_equal_texts_are_ties_whatever_a_judge_says_and_need_none() -> None:
    judged = judged_by_scores(scores(3.0), scores(2.0))
    assert averaged(several("z"), responses("z"), judged).win == 0.5
    asked_nothing = judged_by_verdicts([], baseline_start=2)
    found = averaged(several("z", "y"), responses("z", "y"), asked_nothing)
    assert (found.win, found.num_pairs) == (0.5, 2)


def verdict(first: int, second: int, outcome: float | None, reason: str | None = None) -> Verdict:
    return Verdict("p", first, second, outcome, 1.0, reason, None, 0)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        pytest.param([verdict(0, 2, 1.0), verdict(2, 0, 0.0)], {(0, 0): (1.0, None)}, id="both_orders"),
        pytest.param([verdict(0, 2, 1.0), verdict(2, 0, 1.0)], {(0, 0): (0.5, None)}, id="position_decides"),
        pytest.param([verdict(2, 0, 0.25)], {(0, 0): (0.75, None)}, id="one_order_soft"),
        pytest.param([verdict(0, 2, None, "cut"), verdict(2, 0, 1.0)], {(0, 0): (0.0, None)}, id="one_unscored"),
        pytest.param([verdict(0, 2, None, "cut"), verdict(2, 0, None, "x")], {(0, 0): (None, "cut")}, id="none_scored"),
        pytest.param([verdict(3, 1, 1.0)], {(1, 1): (0.0, None)}, id="second_of_each"),
        pytest.param([], {}, id="nothing_asked"),
    ],
)
def test_verdicts_are_of_the_policys_side(
    verdicts: list[Verdict], expected: dict[tuple[int, int], tuple[float | None, str | None]]
) -> None:
    found = judged_by_verdicts(verdicts, baseline_start=2)
    assert found.outcomes == {("p", *indices): result for indices, result in expected.items()}


@pytest.mark.parametrize("indices", [(0, 1), (2, 3)])
def test_verdicts_on_one_side_are_an_error(indices: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="prompt p: a verdict on samples"):
        judged_by_verdicts([verdict(*indices, 1.0)], baseline_start=2)


def test_of_verdicts_matched_pairs_count() -> None:
    # Sample 0 meets 0, 1 meets 1, 2 meets 0 again.
    judged = judged_by_verdicts([verdict(0, 3, 1.0), verdict(1, 4, 0.0), verdict(2, 3, 1.0)], baseline_start=3)
    found = averaged(several("a", "b", "c"), responses("x", "y"), judged)
    assert (found.win, found.num_pairs, found.policy_score, found.baseline_score) == (2 / 3, 3, None, None)
    with pytest.raises(KeyError):
        averaged(several("a", "b", "c", "d"), responses("x", "y"), judged)


# --- summary ----------------------------------------------------------------------------------------------------


def test_summary_counts_every_prompt() -> None:
    rows = [
        comparison("a", 1.0, category="maths", policy_score=2.0),
        comparison("b", 0.5, category="maths"),
        comparison(
            *("c", None),
            category="code",
            policy_score=None,
            policy_characters=None,
            num_no_response=1,
        ),
    ]
    found = summarize(rows, confidence=0.95, seed=0)
    for rate in (found["win_rate"], found["win_rate_length_controlled"]):
        assert (rate["rate"], rate["num_prompts"], rate["num_unscored"]) == (0.75, 2, 1)
    assert found["win_rate_length_controlled"]["estimator"] == "fitted"
    assert (found["num_answers"], found["num_no_response"], found["mean_score"]) == (3, 1, 1.5)
    answered = found["win_rate_answered"]
    assert (answered["rate"], answered["num_prompts"], answered["num_unscored"]) == (0.75, 2, 0)
    assert found["categories"]["code"] == {"rate": None, "interval": None, "num_prompts": 0, "num_unscored": 1}
    assert found["categories"]["maths"]["rate"] == 0.75
    wide = summarize(rows, confidence=0.99, seed=0)["win_rate"]["interval"]
    assert wide[0] < found["win_rate"]["interval"][0] and wide[1] > found["win_rate"]["interval"][1]
