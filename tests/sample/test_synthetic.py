from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo.sample.prompts import prompt_id
from tpo.sample.sources.synthetic import filter_candidates, similarity
from tpo.sample.synthetic import first_item
from tpo.store.records import Prompt

SHOT = Prompt("shot", "Write a poem about the sea", "writing", "builtin", "train", (), "shot")
LIMITS: dict[str, Any] = {"against": [SHOT], "min_characters": 10, "max_characters": 40, "max_similarity": 0.5}


def candidate(text: str, *, finish_reason: str = "stop") -> Prompt:
    return Prompt("candidate-0", text, "uncategorized", "synthetic:model", finish_reason, (), "candidate-0")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(" Name three rivers.", "Name three rivers.", id="one"),
        pytest.param(" Name three rivers.\n10. Bake a cake.\n11. Sing.", "Name three rivers.", id="more_items"),
        pytest.param(" Name three rivers.\n\n  10) Bake a cake.", "Name three rivers.", id="parenthesis"),
        pytest.param(" Two lines\nof one item\n10. Next", "Two lines\nof one item", id="several_lines"),
        pytest.param(" Add 1.5 and 2. Then stop.", "Add 1.5 and 2. Then stop.", id="numbers_within"),
        pytest.param(" In 1999\n2.5 million people", "In 1999\n2.5 million people", id="decimal_at_line_start"),
        pytest.param(" Name three rivers.\n10.", "Name three rivers.", id="number_alone_at_the_end"),
        pytest.param("", "", id="empty"),
    ],
)
def test_first_item(text: str, expected: str) -> None:
    assert first_item(text) == expected


@pytest.mark.parametrize(
    ("text", "finish_reason", "reason"),
    [
        pytest.param("Explain how tides work", "stop", None, id="kept"),
        pytest.param("Explain how tides work", "length", "cut_off", id="cut_off"),
        pytest.param("Explain it"[:9], "stop", "length", id="one_too_short"),
        pytest.param("Explain it", "stop", None, id="just_long_enough"),
        pytest.param("x" * 40, "stop", None, id="just_short_enough"),
        pytest.param("x" * 41, "stop", "length", id="one_too_long"),
        pytest.param("", "stop", "length", id="empty"),
        pytest.param("write a POEM about the sea!", "stop", "repetition", id="same_words"),
        # 3 words of 6 in common: the largest similarity is the first that is too large.
        pytest.param("a poem about", "stop", "repetition", id="half_the_words"),
        pytest.param("a poem on cats", "stop", None, id="two_words_of_eight"),
    ],
)
def test_filter(text: str, finish_reason: str, reason: str | None) -> None:
    kept, drops, _ = filter_candidates([candidate(text, finish_reason=finish_reason)], **LIMITS)
    assert drops == ({} if reason is None else {reason: 1})
    assert [row.text for row in kept] == ([text] if reason is None else [])


def test_kept_candidates_become_free_prompts_with_ids_of_their_own() -> None:
    [row], *_ = filter_candidates([candidate("Explain how tides work")], **LIMITS)
    name = prompt_id("Explain how tides work")
    assert row == Prompt(name, "Explain how tides work", "uncategorized", "synthetic:model", "", (), name)


def test_candidates_are_compared_with_those_kept_before_them() -> None:
    texts = ["Explain how tides work", "explain how tides work?", "Name three big rivers", "Name three rivers big"]
    kept, drops, _ = filter_candidates([candidate(text) for text in texts], **LIMITS)
    assert [row.text for row in kept] == [texts[0], texts[2]] and drops == {"repetition": 2}


def test_dropped_candidates_do_not_push_others_out() -> None:
    cut = candidate("Explain how tides work", finish_reason="length")
    kept, drops, _ = filter_candidates([cut, candidate("Explain how tides work")], **LIMITS)
    assert len(kept) == 1 and drops == {"cut_off": 1}


def test_similarity_limit_of_1_drops_repetitions_only() -> None:
    texts = ["write a poem about the sea", "Write a poem about the big sea"]
    kept, drops, _ = filter_candidates([candidate(text) for text in texts], **{**LIMITS, "max_similarity": 1.0})
    assert [row.text for row in kept] == texts[1:] and drops == {"repetition": 1}


@given(st.lists(st.tuples(st.text("ab c", max_size=50), st.sampled_from(["stop", "length"])), max_size=12))
def test_kept_and_dropped_add_up(items: list[tuple[str, str]]) -> None:
    kept, drops, _ = filter_candidates([candidate(text, finish_reason=reason) for text, reason in items], **LIMITS)
    assert len(kept) + sum(drops.values()) == len(items)
    assert len({row.prompt_id for row in kept}) == len(kept)


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        pytest.param({"a", "b"}, {"a", "b"}, 1.0, id="equal"),
        pytest.param({"a"}, {"b"}, 0.0, id="disjoint"),
        pytest.param({"a", "b", "c"}, {"b", "c", "d"}, 0.5, id="half"),
        pytest.param({"a"}, {"a", "b", "c", "d"}, 0.25, id="subset"),
        pytest.param(set(), {"a"}, 0.0, id="one_empty"),
        pytest.param(set(), set(), 1.0, id="both_empty"),
    ],
)
def test_similarity(first: set[str], second: set[str], expected: float) -> None:
    assert similarity(frozenset(first), frozenset(second)) == expected
    assert similarity(frozenset(second), frozenset(first)) == expected
