from collections.abc import Sequence

import pytest

from tpo.evaluate.compare import SampleComparison, compare, samples_by_scores, samples_by_verdicts, summarize
from tpo.judge.responses import visible
from tpo.store.records import Comparison, Completion, Prompt, Response, Score, Verdict

PROMPT = Prompt("p", "Why?", "science", "builtin", "test", (), "p")
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
    judged = samples_by_scores(policy[1], baseline[1])
    tokens = {row.prompt_id: row.num_response_tokens for row in baseline[0]}
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
    assert (found.win, found.unscored_reason, found.num_samples) == (None, "policy: no_thought", 0)


def test_row_holds_category_and_response_lengths() -> None:
    ours, theirs = side(2.0, num_tokens=7), side(1.5, reason="long", num_tokens=9)
    [found] = versus([PROMPT], ours, theirs)
    assert found == Comparison("p", "science", 1.0, None, 1, 2.0, 1.5, 7, 9, len("yes 2.0 None"), len("yes 1.5 long"))
    [found] = versus([PROMPT], silent("empty_response"), theirs)
    assert (found.policy_characters, found.baseline_characters) == (None, len("yes 1.5 long"))


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


def several(*texts: str | None) -> list[Completion]:
    return [
        Completion("p", index, [1], [2], 0, 0, 0, False, "", "hm", text, None if text else "empty", "stop", 3, index, 0)
        for index, text in enumerate(texts)
    ]


def test_wins_of_several_samples_are_averaged() -> None:
    scores = [Score("p", index, score, None, None, 0) for index, score in enumerate([3.0, 1.0, 2.0])]
    scores.append(Score("p", 3, None, "too_long", None, 0))
    judged = samples_by_scores(scores, [Score("p", 0, 2.0, None, None, 0)])
    ours, theirs = several("a", "bb", "ccc", "dddd"), [Response("p", 0, "z", None)]
    [found] = compare([PROMPT], ours, theirs, judged, no_response="loss", baseline_tokens={})
    assert (found.win, found.num_samples, found.policy_score, found.unscored_reason) == (0.5, 3, 2.0, None)
    assert (found.policy_tokens, found.policy_characters) == (1.5, 2.5)
    [lost] = compare([PROMPT], several("a", None), theirs, judged, no_response="loss", baseline_tokens={})
    assert (lost.win, lost.num_samples, lost.policy_characters) == (0.5, 2, 1)
    [fewer] = compare([PROMPT], several("a", None), theirs, judged, no_response="unscored", baseline_tokens={})
    assert (fewer.win, fewer.num_samples) == (1.0, 1)
    [same] = compare([PROMPT], several("z", "z"), theirs, {}, no_response="loss", baseline_tokens={})
    assert (same.win, same.num_samples) == (0.5, 2)


def verdict(first: int, second: int, outcome: float | None, reason: str | None = None) -> Verdict:
    return Verdict("p", first, second, outcome, 1.0, reason, None, 0)


@pytest.mark.parametrize(
    ("verdicts", "expected"),
    [
        pytest.param([verdict(0, 2, 1.0), verdict(2, 0, 0.0)], {0: (1.0, None)}, id="both_orders"),
        pytest.param([verdict(0, 2, 1.0), verdict(2, 0, 1.0)], {0: (0.5, None)}, id="position_decides"),
        pytest.param([verdict(2, 0, 0.25)], {0: (0.75, None)}, id="one_order_soft"),
        pytest.param([verdict(0, 2, None, "cut"), verdict(2, 0, 1.0)], {0: (0.0, None)}, id="one_unscored"),
        pytest.param([verdict(0, 2, None, "cut"), verdict(2, 0, None, "x")], {0: (None, "cut")}, id="none_scored"),
        pytest.param([verdict(0, 1, 1.0), verdict(2, 1, 1.0)], {1: (0.0, None)}, id="samples_among_themselves"),
        pytest.param([], {}, id="nothing_asked"),
    ],
)
def test_verdicts_are_of_the_policys_side(
    verdicts: list[Verdict], expected: dict[int, tuple[float | None, str | None]]
) -> None:
    found = samples_by_verdicts(verdicts, baseline_index=2)
    assert found == {("p", index): SampleComparison(*result) for index, result in expected.items()}


def test_summary_counts_every_prompt() -> None:
    rows = [
        Comparison("a", "maths", 1.0, None, 1, 2.0, 1.0, 5, 5, 9, 9),
        Comparison("b", "maths", 0.5, None, 1, 1.0, 1.0, 5, 5, 9, 9),
        Comparison("c", "code", None, "policy: empty_response", 0, None, 1.0, 0, 5, None, 9),
    ]
    found = summarize(rows, confidence=0.95, seed=0)
    for rate in (found["win_rate"], found["win_rate_length_controlled"]):
        assert (rate["rate"], rate["num_prompts"], rate["num_unscored"]) == (0.75, 2, 1)
    assert found["win_rate_length_controlled"]["estimator"] == "fitted"
    assert found["categories"]["code"] == {"rate": None, "interval": None, "num_prompts": 0, "num_unscored": 1}
    assert found["categories"]["maths"]["rate"] == 0.75
    wide = summarize(rows, confidence=0.99, seed=0)["win_rate"]["interval"]
    assert wide[0] < found["win_rate"]["interval"][0] and wide[1] > found["win_rate"]["interval"][1]
