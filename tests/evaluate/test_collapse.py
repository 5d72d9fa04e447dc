"""A policy that has collapsed is named so with the numbers; one that has not is left alone."""

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo.evaluate.collapse import MIN_RESPONSES, Answers, count, find_collapse
from tpo.store.records import Completion


def answer(prompt: int, response: str | None, *, tokens: int = 50, sample: int = 0) -> Completion:
    return Completion(
        prompt_id=f"p{prompt}",
        sample_index=sample,
        prompt_ids=[1],
        completion_ids=[2],
        forced_start=0,
        forced_stop=0,
        response_start=0,
        is_prefilled=False,
        completion=response or "",
        thought=None,
        response=response,
        split_error=None if response else "empty_response",
        finish_reason="stop",
        num_thought_tokens=0,
        num_response_tokens=tokens if response else 0,
        seed=0,
    )


def answers(num: int, *, missing: int = 0, alike: int = 0, tokens: int = 50) -> list[Completion]:
    """`num` instructions answered once: first those without a response, then those with one text."""
    texts: list[str | None] = [None] * missing + ["Yes."] * alike
    texts += [f"Answer {number}." for number in range(num - len(texts))]
    return [answer(number, text, tokens=tokens) for number, text in enumerate(texts)]


UNTRAINED = answers(100, missing=3, alike=2, tokens=53)


@pytest.mark.parametrize(
    ("trained", "expected"),
    [
        pytest.param(
            answers(100, missing=52), "52 of 100 answers hold no response (3 of 100 at iteration 0)", id="missing"
        ),
        pytest.param(answers(100, missing=100), "100 of 100 answers hold no response", id="nothing_left"),
        pytest.param(
            answers(100, alike=51),
            "51 of 100 responses are one text, 'Yes.' (the commonest of iteration 0: 2 of 97)",
            id="alike",
        ),
        pytest.param(
            answers(100, tokens=5), "responses have 5.0 tokens on average (53.0 at iteration 0)", id="a_tenth"
        ),
        pytest.param(answers(100, missing=60, alike=40, tokens=1), "; 40 of 40 responses", id="all_three"),
        pytest.param(answers(100), None, id="fine"),
        pytest.param(answers(100, missing=50), None, id="half_missing"),
        pytest.param(answers(100, alike=50), None, id="half_alike"),
        pytest.param(answers(100, tokens=6), None, id="more_than_a_tenth"),
        pytest.param(answers(100, tokens=18), None, id="a_third"),
        pytest.param(answers(100, tokens=200), None, id="longer"),
    ],
)
def test_collapse_by_hand(trained: list[Completion], expected: str | None) -> None:
    found = find_collapse(trained, UNTRAINED)
    if expected is None:
        assert found is None
    else:
        assert found is not None and expected in found
        assert found.startswith("the policy has collapsed: ") and "\n" not in found


def test_three_signs_are_one_sentence() -> None:
    found = find_collapse(answers(100, missing=60, alike=40, tokens=1), UNTRAINED)
    assert found is not None and found.count(";") == 2


@pytest.mark.parametrize(
    ("trained", "untrained"),
    [
        pytest.param(answers(100, missing=89), answers(100, missing=80), id="it_never_kept_to_the_format"),
        pytest.param(answers(100, alike=75), answers(100, alike=40), id="most_answers_are_yes_in_truth"),
        pytest.param(answers(100, tokens=5), answers(100, tokens=10), id="answers_were_short"),
    ],
)
def test_what_was_nearly_so_before_training_is_no_collapse(
    trained: list[Completion], untrained: list[Completion]
) -> None:
    assert find_collapse(trained, untrained) is None


@pytest.mark.parametrize(
    ("trained", "untrained"),
    [
        pytest.param(answers(100, missing=90), answers(100, missing=80), id="half_as_many_responses"),
        pytest.param(answers(100, alike=80), answers(100, alike=40), id="twice_as_many_alike"),
        pytest.param(answers(100, tokens=1), answers(100, tokens=10), id="a_tenth_of_the_tokens"),
    ],
)
def test_a_change_that_is_large_enough_is_collapse(trained: list[Completion], untrained: list[Completion]) -> None:
    assert find_collapse(trained, untrained) is not None


def test_samples_of_one_instruction_may_be_alike() -> None:
    greedy = [answer(number, f"Answer {number}.", sample=sample) for number in range(5) for sample in range(20)]
    assert count(greedy).num_alike == 0
    assert find_collapse(greedy, UNTRAINED) is None
    one = [answer(0, "Answer.", sample=sample) for sample in range(40)]
    assert find_collapse(one, UNTRAINED) is None


def test_texts_are_compared_without_case_and_white_space_and_quoted_short() -> None:
    text = "I am a helpful assistant and glad to help you."
    rows = [answer(number, text.upper() if number % 2 else f"{text[:4]}\n {text[4:]}") for number in range(30)]
    assert count(rows) == Answers(30, 0, 1500, 30, "I am a helpful assistant and glad to hel...")


@pytest.mark.parametrize("where", ["trained", "untrained"])
def test_few_answers_say_nothing(where: str) -> None:
    few, enough = MIN_RESPONSES - 1, MIN_RESPONSES
    sizes = (few, enough) if where == "trained" else (enough, few)
    assert find_collapse(answers(sizes[0], missing=sizes[0]), answers(sizes[1])) is None
    assert find_collapse(answers(enough, missing=enough), answers(enough)) is not None


def test_no_answers_at_all() -> None:
    assert find_collapse([], []) is None
    nothing = answers(30, missing=30)
    assert find_collapse(nothing, nothing) is None
    assert find_collapse(answers(30), nothing) is None, "what gets better has not collapsed"


texts = st.sampled_from([None, "Yes.", "No.", "a", "b", "c", "d", "e"])


@given(st.lists(texts, max_size=60), st.randoms(use_true_random=False))
def test_counts_are_those_of_the_definition_in_any_order(found: Sequence[str | None], random: Any) -> None:
    rows = [answer(number % 7, text, tokens=number + 1) for number, text in enumerate(found)]
    to: dict[str, set[str]] = {}
    for row in rows:
        if row.response is not None:
            to.setdefault(row.response, set()).add(row.prompt_id)
    alike = [sum(row.response == text for row in rows) for text, prompts in to.items() if len(prompts) > 1]
    counted = count(iter(rows))
    assert counted.num_answers == len(rows) and counted.num_missing == list(found).count(None)
    assert counted.num_tokens == sum(row.num_response_tokens for row in rows)
    assert counted.num_alike == max(alike, default=0)
    random.shuffle(rows)
    assert count(rows)[:4] == counted[:4]
    assert find_collapse(rows, rows) is None, "nothing has collapsed beside itself"
