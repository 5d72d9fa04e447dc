import json
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy.stats import binomtest

from tpo.evaluate.agreement.statistics import (
    Agreement,
    agreement,
    agreement_markdown,
    agreement_table,
    position_bias,
)
from tpo.judge.protocol import Judgement
from tpo.results.figures import draw_agreement
from tpo.results.figures.judges import DRAWN, SLICES
from tpo.results.rate import Rate
from tpo.store.records import LabelledPair, Verdict

QUICK: dict[str, Any] = {"seed": 0, "num_resamples": 50}
A, B, TIE = Judgement(1.0, None), Judgement(0.0, None), Judgement(0.5, None)
UNSCORED = Judgement(None, "too_long")


def pair(
    prompt: str, preference: float, lengths: tuple[int, int] = (10, 10), *, group: str = "g", second: int = 1
) -> LabelledPair:
    return LabelledPair(prompt, 0, second, preference, group, *lengths)


def measured(pairs: Sequence[LabelledPair], predictions: Sequence[Judgement], **changes: Any) -> Agreement:
    return agreement(pairs, predictions, **{**QUICK, **changes})


# --- agreement by hand ------------------------------------------------------------------------------------------

ROWS = [
    (pair("p", 1.0, (50, 100)), A),  # right, shorter
    (pair("p", 0.9, (100, 50)), B),  # wrong, longer
    (pair("q", 0.0, (90, 100), group="h"), TIE),  # half, longer, matched
    (pair("q", 0.4, (100, 80), group="h"), Judgement(0.25, None)),  # right, shorter, just matched
    (pair("r", 0.0, (100, 79)), A),  # wrong, shorter, just not matched
    (pair("r", 1.0, (70, 70)), A),  # right, equal lengths
    (pair("s", 1.0, (10, 60), group="h"), UNSCORED),  # shorter
    (pair("s", 0.5, (10, 60)), A),  # labelled tie
    (pair("t", 1.0, (60, 60), second=0), TIE),  # a text with itself
    (pair("t", 0.5, (60, 60), second=0), UNSCORED),
]


def test_agreement_by_hand() -> None:
    found = measured(*zip(*ROWS, strict=True))
    assert found.num_pairs == 10
    assert found.num_excluded == {"identical_responses": 2, "labelled_tie": 1}
    assert found.unscored_reasons == {"too_long": 1}
    expected = {
        "all": (3.5 / 6, 6, 3, 1),
        "length_matched": (2.5 / 3, 3, 2, 0),
        "preferred_shorter": (2 / 3, 3, 3, 1),
        "preferred_longer": (0.25, 2, 2, 0),
    }
    assert {
        name: (slice_.rate, slice_.num_rows, slice_.num_prompts, slice_.num_unscored)
        for name, slice_ in found.slices.items()
    } == expected
    assert {name: (group.rate, group.num_rows, group.num_unscored) for name, group in found.groups.items()} == {
        "g": (0.5, 4, 0),
        "h": (0.75, 2, 1),
    }
    assert (found.unscored_as_half.rate, found.unscored_as_half.num_rows) == (4 / 7, 7)
    assert found.shorter_minus_longer.rate == pytest.approx(2 / 3 - 0.25)
    assert (found.shorter_minus_longer.num_rows, found.shorter_minus_longer.num_prompts) == (5, 3)
    # Of five scored rows of different lengths: no, no, half, no, yes; the labels: no, yes, yes, no, no.
    assert (found.prefers_longer.rate, found.prefers_longer.num_rows) == (1.5 / 5, 5)
    assert (found.labels_prefer_longer.rate, found.labels_prefer_longer.num_rows) == (2 / 5, 5)


def test_results_are_plain_json() -> None:
    found = measured(*zip(*ROWS, strict=True))
    verdicts = [Verdict("p", 0, 1, 1.0, 1.0, None, None, 0), Verdict("q", 0, 1, 1.0, 1.0, None, None, 0)]
    bias = position_bias(verdicts, **QUICK)
    for result in (found, bias):
        assert json.loads(json.dumps(result.to_dict(), allow_nan=False)) == result.to_dict()
    assert found.to_dict()["slices"]["all"]["interval"] == list(found.slices["all"].interval or ())
    assert bias.to_dict()["consistent"]["rate"] is None


@pytest.mark.parametrize(
    ("rows", "num_unscored"),
    [
        pytest.param([], 0, id="empty"),
        pytest.param([(pair("p", 1.0), UNSCORED), (pair("q", 0.0), UNSCORED)], 2, id="all_unscored"),
        pytest.param([(pair("p", 0.5), A)], 0, id="all_excluded"),
    ],
)
def test_without_scored_pairs_there_is_no_rate(rows: list[tuple[LabelledPair, Judgement]], num_unscored: int) -> None:
    found = measured([row for row, _ in rows], [row for _, row in rows])
    assert found.slices["all"] == Rate(None, None, 0, num_unscored, 0)
    assert found.shorter_minus_longer == found.prefers_longer == Rate(None, None, 0, 0, 0)
    assert found.unscored_as_half.rate == (0.5 if num_unscored else None)
    assert position_bias([], **QUICK).first_wins == Rate(None, None, 0, 0, 0)


def test_one_instruction_has_no_interval() -> None:
    found = measured([pair("p", 1.0), pair("p", 1.0), pair("q", 1.0)], [A, B, UNSCORED])
    assert found.slices["all"] == Rate(0.5, None, 1, 1, 2)
    assert measured([pair("p", 1.0), pair("q", 1.0)], [A, B]).slices["all"].interval == (0, 1)


def test_length_tolerance_is_a_fraction_of_the_longer() -> None:
    pairs = [pair("p", 1.0, (100, 60)), pair("q", 1.0, (59, 100))]
    for tolerance, count in ((0.0, 0), (0.4, 1), (0.41, 2)):
        found = measured(pairs, [A, A], length_tolerance=tolerance).slices
        assert found["length_matched"].num_rows == count


def test_pairs_and_predictions_must_be_as_many() -> None:
    with pytest.raises(ValueError, match="zip"):
        measured([pair("p", 1.0)], [])


# --- intervals --------------------------------------------------------------------------------------------------


def clustered_error(values: Sequence[float], prompts: Sequence[str]) -> float:
    """Standard error of the mean with clusters: the double sum of residuals within instructions."""
    mean = sum(values) / len(values)
    total = 0.0
    for value, prompt in zip(values, prompts, strict=True):
        for other, same in zip(values, prompts, strict=True):
            total += (prompt == same) * (value - mean) * (other - mean)
    return math.sqrt(total) / len(values)


@pytest.mark.parametrize("confidence", [0.8, 0.95])
@pytest.mark.parametrize("is_clustered", [False, True])
def test_interval_is_as_wide_as_the_clustered_standard_error(is_clustered: bool, confidence: float) -> None:
    generator = np.random.default_rng(0)
    pairs, predictions = [], []
    for prompt in range(200):
        chance = generator.choice([0.2, 1.0]) if is_clustered else 0.6
        for _ in range(generator.integers(1, 7) if is_clustered else 1):
            pairs.append(pair(f"p{prompt}", 1.0))
            predictions.append(A if generator.random() < chance else B)
    found = measured(pairs, predictions, seed=0, confidence=confidence, num_resamples=4000).slices["all"]
    values = [prediction.value or 0.0 for prediction in predictions]
    error = clustered_error(values, [row.prompt_id for row in pairs])
    z = {0.8: 1.2816, 0.95: 1.9600}[confidence]
    assert found.rate is not None and found.interval is not None
    assert found.interval == pytest.approx((found.rate - z * error, found.rate + z * error), abs=0.12 * z * error)
    naive = math.sqrt(found.rate * (1 - found.rate) / len(values))
    assert (error > 1.3 * naive) == is_clustered


def test_interval_of_a_difference_adds_the_variances_of_independent_instructions() -> None:
    generator = np.random.default_rng(1)
    shorter, longer = ((5, 20), (20, 5))
    pairs = [pair(f"p{number}", 1.0, shorter if number % 2 else longer) for number in range(400)]
    predictions = [A if generator.random() < (0.4 if number % 2 else 0.7) else B for number in range(400)]
    found = measured(pairs, predictions, seed=0, confidence=0.95, num_resamples=4000)
    [one, other] = (found.slices[name].rate for name in ("preferred_shorter", "preferred_longer"))
    assert one is not None and other is not None and found.shorter_minus_longer.interval is not None
    error = math.sqrt((one * (1 - one) + other * (1 - other)) / 200)
    expected = [one - other - 1.96 * error, one - other + 1.96 * error]
    assert found.shorter_minus_longer.interval == pytest.approx(expected, abs=0.2 * error)
    assert found.shorter_minus_longer.interval[1] < 0


def test_difference_of_slices_resamples_them_together() -> None:
    # Every instruction has a shorter and a longer preferred response, and the judge is right on both or on neither.
    pairs = [pair(f"p{number}", 1.0, lengths) for number in range(20) for lengths in ((5, 9), (9, 5))]
    found = measured(pairs, [A] * 24 + [B] * 16)
    assert found.slices["preferred_shorter"].rate == found.slices["preferred_longer"].rate == 0.6
    assert found.shorter_minus_longer == Rate(0.0, (0.0, 0.0), 20, 0, 40)


def test_a_slice_missing_from_some_resamples_keeps_its_interval() -> None:
    # Two instructions of thirty have a shorter preferred response: an eighth of the resamples have neither.
    pairs = [pair(f"p{number}", 1.0, (5, 9) if number < 2 else (9, 5)) for number in range(30)]
    found = measured(pairs, [A, B, *[A] * 28], seed=0, confidence=0.95, num_resamples=500)
    assert found.slices["preferred_shorter"] == Rate(0.5, (0.0, 1.0), 2, 0, 2)
    assert found.shorter_minus_longer == Rate(-0.5, (-1.0, 0.0), 30, 0, 30)


@pytest.mark.parametrize("right", [0, 1])
def test_interval_of_a_rate_without_exceptions_has_a_width(right: int) -> None:
    pairs = [pair(f"p{number % 8}", 1.0) for number in range(24)]
    found = measured(pairs, [A if right else B] * 24).slices["all"]
    expected = binomtest(8 * right, 8).proportion_ci(0.95, method="wilson")
    assert found.rate == right and found.interval == pytest.approx((expected.low, expected.high))


def test_bootstrap_is_decided_by_the_seed() -> None:
    generator = np.random.default_rng(2)
    pairs = [pair(f"p{number}", 1.0) for number in range(99)]
    predictions = [[A, B, TIE][number] for number in generator.integers(3, size=99)]
    runs = [measured(pairs, predictions, seed=seed, confidence=0.95, num_resamples=60) for seed in (3, 3, 4)]
    assert runs[0] == runs[1]
    assert runs[0].slices["all"].rate == runs[2].slices["all"].rate
    assert runs[0].slices["all"].interval != runs[2].slices["all"].interval


# --- properties -------------------------------------------------------------------------------------------------

LABELLED = st.lists(
    st.tuples(
        st.builds(
            LabelledPair,
            st.sampled_from(["p", "q", "r", "s"]),
            st.integers(0, 2),
            st.integers(0, 2),
            st.sampled_from([0.0, 0.3, 0.5, 0.9, 1.0]),
            st.sampled_from(["g", "h"]),
            st.integers(0, 12),
            st.integers(0, 12),
        ),
        st.sampled_from([A, B, TIE, Judgement(0.75, None), UNSCORED, Judgement(None, "empty")]),
    ),
    max_size=30,
)


def unzip(rows: Sequence[tuple[LabelledPair, Judgement]]) -> tuple[list[LabelledPair], list[Judgement]]:
    return [row for row, _ in rows], [row for _, row in rows]


def swap(row: LabelledPair, prediction: Judgement) -> tuple[LabelledPair, Judgement]:
    swapped = LabelledPair(
        row.prompt_id,
        row.second_index,
        row.first_index,
        1 - row.preference,
        row.group,
        row.second_length,
        row.first_length,
    )
    return swapped, Judgement(None if prediction.value is None else 1 - prediction.value, prediction[1])


@given(LABELLED, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None)
def test_order_of_rows_and_of_responses_does_not_matter_at_all(
    rows: list[tuple[LabelledPair, Judgement]], random: Any
) -> None:
    found = measured(*unzip(rows))
    assert measured(*unzip(random.sample(rows, len(rows)))) == found
    assert measured(*unzip([swap(*row) if random.random() < 0.5 else row for row in rows])) == found


@given(LABELLED)
@settings(max_examples=60, deadline=None)
def test_doubling_every_row_changes_nothing_but_counts(rows: list[tuple[LabelledPair, Judgement]]) -> None:
    once, twice = measured(*unzip(rows)), measured(*unzip(rows * 2))
    for name in SLICES:
        one, two = once.slices[name], twice.slices[name]
        assert (two.rate, two.interval, two.num_prompts) == (one.rate, one.interval, one.num_prompts)
        assert (two.num_rows, two.num_unscored) == (2 * one.num_rows, 2 * one.num_unscored)


@given(LABELLED)
@settings(max_examples=60, deadline=None)
def test_counts_add_up(rows: list[tuple[LabelledPair, Judgement]]) -> None:
    found = measured(*unzip(rows))
    overall = found.slices["all"]
    assert found.num_pairs == overall.num_rows + overall.num_unscored + sum(found.num_excluded.values()) == len(rows)
    assert overall.num_unscored == sum(found.unscored_reasons.values())
    assert overall.num_rows == sum(group.num_rows for group in found.groups.values())
    assert overall.num_unscored == sum(group.num_unscored for group in found.groups.values())
    assert found.unscored_as_half.num_rows == overall.num_rows + overall.num_unscored
    shorter, longer = found.slices["preferred_shorter"], found.slices["preferred_longer"]
    assert found.prefers_longer.num_rows == shorter.num_rows + longer.num_rows == found.shorter_minus_longer.num_rows
    if shorter.rate is not None or longer.rate is not None:
        # The judge prefers the longer where it agrees on a longer preferred one or disagrees on a shorter one.
        expected = shorter.num_rows * (1 - (shorter.rate or 0)) + longer.num_rows * (longer.rate or 0)
        assert found.prefers_longer.rate == pytest.approx(expected / found.prefers_longer.num_rows)
        assert found.labels_prefer_longer.rate == pytest.approx(longer.num_rows / found.prefers_longer.num_rows)
    for estimate in (*found.slices.values(), *found.groups.values(), found.unscored_as_half, found.prefers_longer):
        assert estimate.rate is None or 0 <= estimate.rate <= 1
        assert estimate.interval is None or 0 <= estimate.interval[0] <= estimate.interval[1] <= 1


@given(LABELLED)
@settings(max_examples=40, deadline=None)
def test_the_opposite_judge_agrees_where_this_one_does_not(rows: list[tuple[LabelledPair, Judgement]]) -> None:
    found = measured(*unzip(rows))
    opposite = measured(*unzip([(row, swap(row, prediction)[1]) for row, prediction in rows]))
    for name in SLICES:
        one, other = found.slices[name], opposite.slices[name]
        if one.rate is not None and other.rate is not None:
            assert other.rate == pytest.approx(1 - one.rate)
            assert one.interval is None or other.interval == pytest.approx((1 - one.interval[1], 1 - one.interval[0]))


# --- position ---------------------------------------------------------------------------------------------------


def verdict(prompt: str, first: int, second: int, outcome: float | None) -> Verdict:
    return Verdict(prompt, first, second, outcome, 1.0, None if outcome is not None else "why", None, 0)


def test_position_bias_by_hand() -> None:
    verdicts = [
        *(verdict("p", 0, 1, 1.0), verdict("p", 1, 0, 0.0)),  # consistent
        *(verdict("p", 0, 2, 1.0), verdict("p", 2, 0, 1.0)),  # contradicting
        *(verdict("q", 0, 1, 0.5), verdict("q", 1, 0, 0.5)),  # consistent
        *(verdict("q", 2, 1, 0.5), verdict("q", 1, 2, 1.0)),  # neither
        *(verdict("q", 0, 2, None), verdict("q", 2, 0, 1.0)),  # one order
        verdict("r", 1, 0, 0.0),  # one order
    ]
    found = position_bias(verdicts, **QUICK)
    assert found.first_wins == replace(found.first_wins, rate=6.5 / 10, num_rows=10, num_prompts=3, num_unscored=1)
    assert (found.consistent.rate, found.contradicting.rate) == (0.5, 0.25)
    for estimate in (found.consistent, found.contradicting):
        assert (estimate.num_rows, estimate.num_prompts, estimate.num_unscored) == (4, 2, 2)
    assert position_bias(verdicts[::-1], **QUICK) == found
    with pytest.raises(ValueError, match="repeat"):
        position_bias([*verdicts, verdict("p", 0, 1, 1.0)], **QUICK)


@pytest.mark.parametrize(("outcome", "contradicting"), [(1.0, 1.0), (0.0, 1.0), (0.5, 0.0)])
def test_a_judge_that_looks_at_the_position_only(outcome: float, contradicting: float) -> None:
    verdicts = [verdict(prompt, *order, outcome) for prompt in "pqr" for order in ((0, 1), (1, 0))]
    found = position_bias(verdicts, **QUICK)
    assert found.first_wins.rate == outcome
    assert (found.contradicting.rate, found.consistent.rate) == (contradicting, 1 - contradicting)


# --- reports ----------------------------------------------------------------------------------------------------


def results() -> list[dict[str, Any]]:
    pairs, predictions = unzip(ROWS)
    verdicts = [verdict("p", 0, 1, 1.0), verdict("p", 1, 0, 1.0), verdict("q", 0, 1, 0.0), verdict("q", 1, 0, 0.0)]
    bias = position_bias(verdicts, **QUICK).to_dict()
    return [
        {"judge": "length | x", **measured(pairs, predictions).to_dict()},
        {"judge": "pairwise", **measured(pairs, [A] * len(pairs)).to_dict(), "position_bias": bias},
        {"judge": "silent", **measured(pairs, [UNSCORED] * len(pairs)).to_dict(), "position_bias": None},
    ]


def test_tables_hold_every_judge_and_number() -> None:
    markdown = agreement_markdown(results())
    header, rule, *lines = [line.split(" | ") for line in markdown.splitlines()]
    assert {len(row) for row in (header, rule, *lines)} == {11}
    assert header[3:5] == ["all", "length-matched"]
    assert lines[0][0] == "| length \\| x" and lines[0][1:3] == ["6", "1"]
    assert lines[0][3].startswith("58.3 % [") and lines[0][-1] == "- |"
    assert lines[1][-2].startswith("50.0 % [") and lines[1][-1].startswith("100.0 % [")
    assert lines[2][1:5] == ["0", "7", "unscored", "unscored"]
    matched = {"judge": "x", **measured(*unzip(ROWS[5:6])).to_dict()}  # none where the shorter is better
    cells = agreement_markdown([matched]).splitlines()[2]
    assert "no pairs" in cells and "unscored" not in cells
    console = Console(width=120, record=True)
    console.print(agreement_table(results(), title="Who agrees"))
    text = console.export_text()
    for cell in ("Who agrees", "length | x", "pairwise", "silent", "58.3 %", "50.0 %", "contradict", "is shorter"):
        assert cell in text
    assert "first shown wins" not in agreement_markdown([results()[0]])


def test_figure_shows_a_dot_with_its_interval_per_judge() -> None:
    figure = draw_agreement(results())
    assert [axes.get_title(loc="left") for axes in figure.axes] == [SLICES[name] for name in DRAWN]
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["length | x", "pairwise", "silent"]
    for axes, name in zip(figure.axes, DRAWN, strict=True):
        drawn = [tuple(line.get_xdata()) for line in axes.lines if tuple(line.get_xdata()) != (0, 1)]  # not the rows
        expected: list[tuple[float, ...]] = []
        for result in results():
            estimate = result["slices"][name]
            if estimate["rate"] is not None:
                expected += [tuple(100 * edge for edge in estimate["interval"]), (100 * estimate["rate"],)]
        assert drawn[1:] == expected
        texts = [text.get_text() for text in axes.texts]
        assert texts[2] == "nothing scored" and all(" %\nn = " in text for text in texts[:2])
    assert "95 % intervals" in figure.get_suptitle()
