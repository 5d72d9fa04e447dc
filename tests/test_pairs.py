import itertools
import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpo.config.kinds import kinds
from tpo.pairs.build import DROP_REASONS, build_pairs, count_drops, judged_groups
from tpo.pairs.length import length_controlled, normalized, response_length
from tpo.pairs.rule import Candidate, Choice, PairsRule
from tpo.pairs.rules.best_worst import BestWorstPairs
from tpo.pairs.rules.mean_minus_2sd import MeanMinus2SdPairs
from tpo.store.records import Completion, Pair, Score

SETTINGS = BestWorstPairs(
    length_penalty=0.0, length_unit="tokens", min_margin=0.0, max_tokens=100, truncated_responses="keep"
)


def completion(index: int, *, prompt_id: str = "p", **changes: Any) -> Completion:
    text = f"response {index}"
    row = {
        "prompt_id": prompt_id,
        "sample_index": index,
        "prompt_ids": [1, 2, 3],
        "completion_ids": [10 + index, 11 + index],
        "forced_start": index,
        "forced_stop": index + 1,
        "response_start": index + 2,
        "is_prefilled": True,
        "completion": f"thought {index} <R> {changes.get('response', text)}",
        "thought": f"thought {index}",
        "response": text,
        "split_error": None,
        "finish_reason": "stop",
        "num_thought_tokens": 2,
        "num_response_tokens": 5,
        "seed": 0,
    }
    return Completion(**{**row, **changes})


class Pairs(NamedTuple):
    pairs: list[Pair]
    drops: dict[str, int]


def pairs_of(rows: list[Completion], scores: list[Score], rule: PairsRule) -> Pairs:
    outcomes = list(build_pairs(rows, scores, rule))
    pairs = [outcome for outcome in outcomes if isinstance(outcome, Pair)]
    return Pairs(pairs, count_drops(outcome for outcome in outcomes if isinstance(outcome, str)))


def build(
    scores: list[float | None],
    lengths: list[int] | None = None,
    *,
    changes: dict[int, Any] | None = None,
    rule: PairsRule = SETTINGS,
    **settings: Any,
) -> Pairs:
    """Pairs of one prompt from its scores and response lengths."""
    rows = [
        completion(
            index, **{"num_response_tokens": (lengths or [5] * len(scores))[index], **(changes or {}).get(index, {})}
        )
        for index in range(len(scores))
    ]
    judged = [
        Score("p", index, score, None if score is not None else "why", None, 0) for index, score in enumerate(scores)
    ]
    return pairs_of(rows, judged, replace(rule, **settings))


# --- length control, "Thinking LLMs" section 2.3 ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("scores", "lengths", "penalty", "expected"),
    [
        # Standard deviations are 1 and 10, means 2 and 20.
        pytest.param([1, 1, 3, 3], [10, 30, 10, 30], 0.0, [-1, -1, 1, 1], id="rho_0_ignores_length"),
        pytest.param([1, 1, 3, 3], [10, 30, 10, 30], 0.25, [-0.75, -1.25, 1.25, 0.75], id="rho_quarter"),
        pytest.param([1, 1, 3, 3], [10, 30, 10, 30], 2.0, [1, -3, 3, -1], id="rho_2"),
        # Mean 2, population variance 2/3 (the sample's would be 1).
        pytest.param([1, 2, 3], [7, 7, 7], 0.5, [-(1.5**0.5), 0, 1.5**0.5], id="equal_lengths_do_not_matter"),
        pytest.param([4, 4, 4], [1, 2, 3], 1.0, [1.5**0.5, 0, -(1.5**0.5)], id="equal_scores_leave_length"),
        pytest.param([4, 4], [3, 3], 1.0, [0, 0], id="zero_variance"),
        pytest.param([0.1 + 0.2, 0.3], [3, 3], 1.0, [0, 0], id="equal_but_for_rounding"),
        pytest.param([5], [3], 1.0, [0], id="single"),
    ],
)
def test_length_controlled_by_hand(
    scores: list[float], lengths: list[float], penalty: float, expected: list[float]
) -> None:
    found = length_controlled(np.array(scores, float), np.array(lengths, float), length_penalty=penalty)
    assert found == pytest.approx(expected, abs=1e-12)


finite = st.floats(-100, 100).map(lambda value: round(value, 3))


@given(st.lists(st.tuples(finite, st.integers(1, 500)), min_size=2, max_size=8), st.floats(0, 2), st.floats(0.5, 9))
def test_units_and_offsets_of_scores_and_lengths_do_not_matter(
    rows: list[tuple[float, int]], penalty: float, scale: float
) -> None:
    scores, lengths = (np.array(column, dtype=float) for column in zip(*rows, strict=True))
    plain = length_controlled(scores, lengths, length_penalty=penalty)
    moved = length_controlled(scale * scores + 3, 4 * lengths - 1, length_penalty=penalty)
    assert moved == pytest.approx(plain, abs=1e-6)


def test_pair_by_hand() -> None:
    [pair], drops = build([1, 1, 3, 3], [10, 30, 10, 30], length_penalty=0.25)
    assert set(drops) == set(DROP_REASONS) and sum(drops.values()) == 0
    assert (pair.chosen_index, pair.rejected_index) == (2, 1)
    assert pair.margin == pytest.approx(2.5)
    assert (pair.chosen_score, pair.rejected_score) == (3, 1)  # the judge's, before length control
    assert (pair.chosen_length, pair.rejected_length) == (10, 30)
    assert (pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) == ([1, 2, 3], [12, 13], [11, 12])
    assert (pair.chosen_forced, pair.rejected_forced) == ([2, 3], [1, 2])
    assert (pair.chosen_response_start, pair.rejected_response_start) == (4, 3)
    assert (pair.chosen, pair.rejected) == ("thought 2 <R> response 2", "thought 1 <R> response 1")


# N(score) is 0.64, 0.77 and -1.41; N(length) is -1.22, 1.22 and 0.
@pytest.mark.parametrize(("penalty", "chosen"), [(0.0, 1), (0.04, 1), (0.06, 0), (0.5, 0)])
def test_length_decides_between_two_good_responses(penalty: float, chosen: int) -> None:
    [pair], _ = build([3, 3.2, 0], [10, 30, 20], length_penalty=penalty)
    assert (pair.chosen_index, pair.rejected_index) == (chosen, 2)


@pytest.mark.parametrize(("penalty", "reason"), [(0.5, None), (1.0, "tied"), (2.0, "not_preferred")])
def test_length_does_not_turn_the_judges_preference(penalty: float, reason: str | None) -> None:
    pairs, drops = build([1, 3], [10, 30], length_penalty=penalty)
    assert [pair.chosen_index for pair in pairs] == ([] if reason else [1])
    assert [name for name, count in drops.items() if count] == ([reason] if reason else [])


@pytest.mark.parametrize("penalty", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("score", [0.0, 4.0, 0.1 + 0.2])
def test_equal_scores_make_no_pair_by_length(penalty: float, score: float) -> None:
    scores = [score, score, 0.3 if score == 0.1 + 0.2 else score]  # equal but for rounding
    assert build(scores, [10, 30, 70], length_penalty=penalty).drops["tied"] == 1


# Scores of 4, 4 and 0, of which a long response has one 4: N(score) is 0.71, 0.71 and -1.41, N(length) -0.71, 1.41 and
# -0.71. With a penalty of 2 the long one is the worst (-2.12), and the best has an equal score; of 3.9 it has a higher
# one.
@pytest.mark.parametrize("other", [4.0, 3.9])
def test_two_responses_that_the_judge_does_not_tell_apart_as_chosen_are_no_pair(other: float) -> None:
    pairs, drops = build([other, 4, 0], [10, 100, 10], length_penalty=2.0)
    assert pairs == [] and drops["not_preferred"] == 1
    [pair], _ = build([other, 4, 0], [10, 100, 10], length_penalty=0.5)
    assert (pair.chosen_index, pair.rejected_index) == (0, 2), "the shorter of two good ones against the bad one"


def test_among_equals_of_one_length_the_lowest_index_is_taken_in_any_order_of_rows() -> None:
    [pair], _ = build([1, 5, 1, 5])
    assert (pair.chosen_index, pair.rejected_index) == (1, 0)
    rows, scores = to_rows([[{"score": score} for score in (1.0, 5.0, 1.0, 5.0)]])
    [reversed_pair] = pairs_of(rows[::-1], scores, SETTINGS).pairs
    assert (reversed_pair.chosen_index, reversed_pair.rejected_index) == (1, 0)


@pytest.mark.parametrize("rule", ["best_worst", "mean_minus_2sd"])
@pytest.mark.parametrize(
    ("scores", "lengths", "expected"),
    [
        pytest.param([1, 1, 0, 0], [10, 40, 90, 43], (1, 3), id="both_ends"),
        pytest.param([1, 0, 0], [40, 10, 60], (0, 2), id="longer_and_shorter"),
        pytest.param([1, 0, 0], [40, 60, 20], (0, 1), id="equally_far"),
        pytest.param([1, 1, 0.5, 0], [10, 40, 40, 11], (0, 3), id="not_between_the_ends"),
        pytest.param([0.1 + 0.2, 0.3, 0, 0], [90, 20, 30, 25], (1, 3), id="equal_but_for_rounding"),
    ],
)
def test_among_equals_those_closest_in_length_are_taken(
    rule: str, scores: list[float | None], lengths: list[int], expected: tuple[int, int]
) -> None:
    settings = {"best_worst": SETTINGS, "mean_minus_2sd": MEAN_MINUS_2SD}[rule]
    [pair], _ = build(scores, lengths, rule=settings, length_penalty=0.0)
    assert (pair.chosen_index, pair.rejected_index) == expected


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 200)), min_size=2, max_size=8).filter(
        lambda rows: len({score for score, _ in rows}) > 1
    )
)
def test_no_other_pair_of_best_and_worst_is_closer_in_length(rows: list[tuple[float, int]]) -> None:
    scores, lengths = zip(*rows, strict=True)
    [pair], _ = build(list(scores), list(lengths))
    assert (pair.chosen_score, pair.rejected_score) == (max(scores), min(scores))
    gaps = [
        abs(one - other)
        for (score, one), (other_score, other) in itertools.product(rows, rows)
        if score == max(scores) and other_score == min(scores)
    ]
    assert abs(pair.chosen_length - pair.rejected_length) == min(gaps)


@pytest.mark.parametrize(("unit", "expected"), [("tokens", 5.0), ("characters", 14.0), ("words", 3.0)])
def test_length_units(unit: str, expected: float) -> None:
    assert response_length(completion(0, response="Six  legs, yes"), unit) == expected


def test_length_unit_decides() -> None:
    changes = {0: {"response": "one two three"}, 1: {"response": "incomprehensibilities"}, 2: {"response": "a b"}}
    chosen = {
        unit: build([4, 4, 0], [9, 1, 5], changes=changes, length_penalty=0.5, length_unit=unit).pairs[0].chosen_index
        for unit in ("tokens", "characters", "words")
    }
    assert chosen == {"tokens": 1, "characters": 0, "words": 1}


def test_unknown_length_unit_is_refused() -> None:
    with pytest.raises(ValueError, match="lines"):
        build([1, 2], length_unit="lines")


# --- instructions without a pair --------------------------------------------------------------------------------

SAME = {0: {"response": "same"}, 1: {"response": "same"}}
CUT = {"finish_reason": "length"}


@pytest.mark.parametrize(
    ("reason", "scores", "lengths", "changes", "settings"),
    [
        pytest.param("too_few_scored", [None, None], None, {}, {}, id="none_scored"),
        pytest.param("too_few_scored", [None, 1.0], None, {}, {}, id="one_scored"),
        pytest.param("too_few_scored", [1.0], None, {}, {}, id="one_sample"),
        pytest.param("truncated", [1, 2], None, {0: CUT}, {"truncated_responses": "drop"}, id="one_whole"),
        pytest.param("truncated", [1, 2], None, {0: CUT, 1: CUT}, {"truncated_responses": "drop"}, id="none_whole"),
        pytest.param(
            "too_few_scored", [1, None], None, {0: CUT}, {"truncated_responses": "drop"}, id="unscored_and_cut"
        ),
        pytest.param("tied", [2, 2, 2], None, {}, {}, id="equal_scores"),
        pytest.param("tied", [1, 3], [10, 30], {}, {"length_penalty": 1.0}, id="length_cancels_score"),
        pytest.param("identical_responses", [2, 2], None, SAME, {}, id="identical"),
        pytest.param(
            "identical_responses", [2, 2], [5, 6], SAME, {"length_penalty": 1.0}, id="same_text_in_more_tokens"
        ),
        pytest.param(
            "identical_responses",
            [2, 2, 1.9],
            [1, 9, 1],
            SAME,
            {"length_penalty": 3.0},
            id="same_text_in_more_tokens_beside_another",
        ),
        pytest.param("tied", [2, 2, 2], [5, 6, 7], None, {"length_penalty": 1.0}, id="length_alone"),
        pytest.param("not_preferred", [2, 2, 0], [1, 9, 1], {}, {"length_penalty": 2.0}, id="length_against_score"),
        pytest.param("margin_too_small", [1, 2], None, {}, {"min_margin": 2.01}, id="margin"),
        pytest.param("pair_too_long", [1, 2], None, {0: {"completion_ids": [0] * 98}}, {}, id="rejected_too_long"),
        pytest.param("pair_too_long", [1, 2], None, {1: {"completion_ids": [0] * 98}}, {}, id="chosen_too_long"),
    ],
)
def test_drop(reason: str, scores: list[Any], lengths: Any, changes: Any, settings: dict[str, Any]) -> None:
    pairs, drops = build(scores, lengths, changes=changes, **settings)
    assert pairs == [] and drops == {**dict.fromkeys(DROP_REASONS, 0), reason: 1}


@pytest.mark.parametrize(
    ("scores", "changes", "settings"),
    [
        pytest.param([1, 2], {}, {"min_margin": 2.0}, id="margin_as_large_as_asked"),
        pytest.param([1, 2], {0: {"completion_ids": [0] * 97}}, {}, id="as_long_as_allowed"),
        pytest.param([1, 2], {0: CUT, 1: CUT}, {"truncated_responses": "keep"}, id="truncated_but_kept"),
        pytest.param([1, 2, 3], {2: {"completion_ids": [0] * 98}, 1: CUT}, {"max_tokens": 101}, id="larger_budget"),
    ],
)
def test_just_kept(scores: list[Any], changes: Any, settings: dict[str, Any]) -> None:
    assert len(build(scores, changes=changes, **settings).pairs) == 1


@pytest.mark.parametrize(
    ("scores", "cut", "expected"),
    [
        pytest.param([1, 0, 1], {2}, (0, 1), id="no_better_than_the_worst_whole_one"),
        pytest.param([1, 2, 0], {2}, (1, 2), id="worse_by_its_own_score"),
        pytest.param([0, 1, 5], {2}, (1, 0), id="never_chosen"),
        pytest.param([1, 1, 0], {2}, (0, 2), id="worse_than_whole_ones_that_are_equal"),
        pytest.param([3, 0], {1}, (0, 1), id="one_whole"),
        pytest.param([0, 3], {1}, "tied", id="no_better_than_the_only_whole_one"),
        pytest.param([3, 2], {0, 1}, "truncated", id="none_whole"),
        pytest.param([1, 1, 2], {2}, "tied", id="no_better_than_whole_ones_that_are_equal"),
    ],
)
def test_truncated_responses_may_be_rejected_only(scores: list[Any], cut: set[int], expected: Any) -> None:
    pairs, drops = build(scores, changes=dict.fromkeys(cut, CUT), truncated_responses="reject")
    if isinstance(expected, str):
        assert not pairs and drops[expected] == 1
    else:
        assert [(pair.chosen_index, pair.rejected_index) for pair in pairs] == [expected]


def test_length_control_never_makes_a_truncated_response_the_chosen_one() -> None:
    _, drops = build([1, 0, 0], [9, 9, 1], changes={2: CUT}, truncated_responses="reject", length_penalty=4.0)
    assert drops["truncated"] + drops["not_preferred"] == 1


def test_unscored_and_truncated_samples_do_not_enter_the_normalization() -> None:
    changes = {3: {**CUT, "num_response_tokens": 900}, 4: {"num_response_tokens": 900}}
    [pair], _ = build(
        [1, 2, 3, 50, None], [5, 5, 8, 0, 0], changes=changes, length_penalty=0.5, truncated_responses="drop"
    )
    [alone], _ = build([1, 2, 3], [5, 5, 8], length_penalty=0.5)
    assert pair == alone


@pytest.mark.parametrize(
    ("keys", "named"),
    [
        pytest.param([("p", 0)], r"completion \('p', 1\) has no score", id="missing"),
        pytest.param([("p", 0), ("p", 1), ("p", 2)], r"score \('p', 2\) has no completion", id="surplus"),
        pytest.param([("p", 0), ("q", 1)], r"completion \('p', 1\) has no score", id="another_prompt"),
        pytest.param([("p", 0), ("p", 1), ("q", 0)], r"score \('q', 0\) has no completion", id="a_prompt_more"),
        pytest.param([], r"completion \('p', 0\) has no score", id="none"),
        pytest.param([("p", 0), ("q", 0), ("p", 1)], r"\('p', 1\)", id="apart"),
    ],
)
def test_scores_of_other_completions_are_an_error(keys: list[tuple[str, int]], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        pairs_of([completion(0), completion(1)], [Score(*key, 1.0, None, None, 0) for key in keys], SETTINGS)


# --- properties -------------------------------------------------------------------------------------------------

sample = st.fixed_dictionaries(
    {
        "score": st.none() | st.integers(-3, 3).map(float),
        "num_response_tokens": st.integers(1, 4),
        "response": st.sampled_from(["a", "b", "c"]),
        "completion_ids": st.integers(0, 110).map(lambda count: [7] * count),
        "finish_reason": st.sampled_from(["stop", "length"]),
    }
)
groups_strategy = st.lists(st.lists(sample, min_size=1, max_size=5), max_size=6)
settings_strategy = st.builds(
    lambda kind, **settings: kind(**settings),
    kind=st.sampled_from([BestWorstPairs, MeanMinus2SdPairs]),
    length_penalty=st.sampled_from([0.0, 0.25, 1.0, 3.0]),
    length_unit=st.just("tokens"),
    min_margin=st.sampled_from([0.0, 1.0]),
    max_tokens=st.sampled_from([60, 1000]),
    truncated_responses=st.sampled_from(["keep", "drop", "reject"]),
)


def to_rows(groups: list[list[dict[str, Any]]]) -> tuple[list[Completion], list[Score]]:
    rows, scores = [], []
    for number, group in enumerate(groups):
        for index, item in enumerate(group):
            changes = {key: value for key, value in item.items() if key != "score"}
            rows.append(completion(index, prompt_id=f"p{number}", **changes))
            scores.append(
                Score(f"p{number}", index, item["score"], None if item["score"] is not None else "why", None, 0)
            )
    return rows, scores


@settings(deadline=None)
@given(groups_strategy, settings_strategy, st.randoms(use_true_random=False))
def test_every_instruction_is_a_pair_or_a_counted_drop(
    groups: list[list[dict[str, Any]]], settings: PairsRule, shuffler: random.Random
) -> None:
    rows, scores = to_rows(groups)
    pairs, drops = pairs_of(rows, scores, settings)
    assert len(pairs) + sum(drops.values()) == len(groups)
    by_key = {(row.prompt_id, row.sample_index): row for row in rows}
    for pair in pairs:
        chosen, rejected = (by_key[pair.prompt_id, index] for index in (pair.chosen_index, pair.rejected_index))
        assert chosen.response != rejected.response and pair.margin >= max(settings.min_margin, 1e-9)
        assert pair.chosen_score > pair.rejected_score, "length alone makes no pair"
        assert (pair.chosen_ids, pair.rejected_ids) == (chosen.completion_ids, rejected.completion_ids)
        assert max(len(pair.chosen_ids), len(pair.rejected_ids)) + len(pair.prompt_ids) <= settings.max_tokens
    order = {f"p{number}": place for number, place in enumerate(shuffler.sample(range(len(groups)), len(groups)))}
    for rows_of in (rows, scores):  # instructions in another order, the same of both, and samples in any
        shuffler.shuffle(rows_of)
        rows_of.sort(key=lambda row: order[row.prompt_id])
    shuffled = pairs_of(rows, scores, settings)
    assert sorted(shuffled.pairs, key=lambda pair: pair.prompt_id) == pairs and shuffled.drops == drops


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=8, unique=True))
def test_opposite_scores_swap_chosen_and_rejected(scores: list[int]) -> None:
    [pair], _ = build([float(score) for score in scores])
    [swapped], _ = build([-float(score) for score in scores])
    assert (pair.chosen_index, pair.rejected_index) == (swapped.rejected_index, swapped.chosen_index)
    assert pair.margin == pytest.approx(swapped.margin)
    assert scores[pair.chosen_index] == max(scores) and scores[pair.rejected_index] == min(scores)


def test_outcomes_are_in_the_order_of_the_instructions() -> None:
    scores_of = [[1.0, 2.0], [3.0, 3.0], [None, 1.0]]
    rows, scores = to_rows([[{"score": score} for score in group] for group in scores_of])
    pair, *reasons = build_pairs(rows, scores, SETTINGS)
    assert isinstance(pair, Pair) and pair.prompt_id == "p0" and reasons == ["tied", "too_few_scored"]


def test_one_instruction_is_in_memory_at_a_time() -> None:
    rows, scores = to_rows([[{"score": 1.0}, {"score": 2.0}]] * 3)
    num_read = 0

    def reading() -> Any:
        nonlocal num_read
        for row in rows:
            num_read += 1
            yield row

    for number, group in enumerate(judged_groups(reading(), scores), start=1):
        assert [(row.key, score.key) for row, score in group] == [((f"p{number - 1}", index),) * 2 for index in (0, 1)]
        assert num_read <= 2 * number + 1


def test_prompts_do_not_influence_each_other() -> None:
    rows, scores = to_rows([[{"score": 1.0}, {"score": 2.0}], [{"score": 900.0}, {"score": -900.0}]])
    both = pairs_of(rows, scores, SETTINGS).pairs
    assert [both[0]] == pairs_of(rows[:2], scores[:2], SETTINGS).pairs


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 300)), min_size=2, max_size=12), st.floats(0, 1))
def test_below_a_bound_the_papers_best_and_worst_are_always_in_the_judges_order(
    rows: list[tuple[int, int]], share: float
) -> None:
    scores, lengths = zip(*rows, strict=True)
    penalty = share * 0.999 / (2 * len(rows)) ** 0.5
    drops = build(list(scores), list(lengths), length_penalty=penalty).drops
    assert drops["not_preferred"] == 0
    assert drops["tied"] == (len(set(scores)) == 1)


@pytest.mark.parametrize("score", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_no_tie(score: float) -> None:
    with pytest.raises(ValueError, match=rf"the score of \('p', 1\) is {score}"):
        build([1.0, score, 2.0])


# --- rules ------------------------------------------------------------------------------------------------------

MEAN_MINUS_2SD = MeanMinus2SdPairs(length_penalty=0.0, max_tokens=100)


@pytest.mark.parametrize(
    ("scores", "chosen", "rejected"),
    [
        # Mean 9.7, variance 209.21, standard deviation 14.46, mean - 2 sd = -19.2: -30 is 10.8 away, 0 is 19.2.
        pytest.param([-30, 0, 10, 11, 12, 13, 14, 15, 25, 27], 9, 0, id="an_outlier_is_nearer_than_the_rest"),
        # Twenty from 10 to 10.95 and -40: mean 8.07, sd 10.75, mean - 2 sd = -13.4: 10 is 23.4 away, -40 is 26.6.
        pytest.param([*(10 + number / 20 for number in range(20)), -40], 19, 0, id="an_outlier_is_passed_over"),
        pytest.param([*[1] * 20, 0], 0, 20, id="all_others_are_as_good_as_the_best"),
        pytest.param([2, 1], 0, 1, id="two"),
    ],
)
def test_mean_minus_2sd_by_hand(scores: list[float], chosen: int, rejected: int) -> None:
    [pair], _ = build(scores, rule=MEAN_MINUS_2SD)
    assert (pair.chosen_index, pair.rejected_index) == (chosen, rejected)
    assert pair.margin == pytest.approx((scores[chosen] - scores[rejected]) / np.std(scores))


@settings(deadline=None)
@given(st.lists(st.integers(-40, 40), min_size=2, max_size=30), st.randoms(use_true_random=False))
def test_mean_minus_2sd_is_the_nearest_below_the_best(scores: list[int], shuffler: random.Random) -> None:
    pairs, drops = build([float(score) for score in scores], rule=MEAN_MINUS_2SD)
    if len(set(scores)) == 1:
        assert drops["tied"] == 1
        return
    target = np.mean(scores) - 2 * np.std(scores)
    below = [score for score in scores if score < max(scores)]
    assert pairs[0].chosen_score == max(scores)
    assert abs(pairs[0].rejected_score - target) == pytest.approx(min(abs(score - target) for score in below))
    shuffler.shuffle(scores)
    [shuffled], _ = build([float(score) for score in scores], rule=MEAN_MINUS_2SD)
    assert abs(shuffled.rejected_score - target) == pytest.approx(abs(pairs[0].rejected_score - target))


@given(st.lists(finite, min_size=2, max_size=5))
def test_up_to_five_samples_mean_minus_2sd_is_best_worst(scores: list[float]) -> None:
    found = build(list(scores), rule=MEAN_MINUS_2SD)
    assert [pair.rejected_score for pair in found.pairs] == [pair.rejected_score for pair in build(list(scores)).pairs]


def test_mean_minus_2sd_looks_at_length_controlled_scores() -> None:
    scores, lengths = [3, 2, 2, 2, 2, 2, 2, 1], [5, 5, 5, 5, 5, 5, 90, 5]
    values = normalized(np.array(scores, float)) - normalized(np.array(lengths, float))
    [pair], _ = build(scores, lengths, rule=MEAN_MINUS_2SD, length_penalty=1.0)
    target = values.mean() - 2 * values.std()
    assert pair.rejected_index == int(np.abs(values - target).argmin()) == 6
    assert build(scores, lengths, rule=MEAN_MINUS_2SD).pairs[0].rejected_index == 7


def test_every_rule_has_a_file_and_its_settings() -> None:
    assert set(kinds(PairsRule)) == {"best_worst", "mean_minus_2sd", "custom"}


class Picky(BestWorstPairs):
    """Chooses only among samples whose order is that of their index."""

    def choose(self, candidates: Sequence[Candidate]) -> Choice | str:
        best, worst = super().choose(candidates)
        return Choice(best, worst) if best > worst else "out_of_order"


def test_reasons_of_a_rule_are_counted_beside_the_others() -> None:
    rows, scores = to_rows([[{"score": score} for score in group] for group in ((1.0, 2.0), (2.0, 1.0), (1.0, 1.0))])
    pairs, drops = pairs_of(rows, scores, Picky(length_penalty=0.0, max_tokens=100))
    assert [pair.prompt_id for pair in pairs] == ["p0"]
    assert drops == {**dict.fromkeys(DROP_REASONS, 0), "tied": 1, "out_of_order": 1}
