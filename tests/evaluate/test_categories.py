"""Sorting instructions into categories."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_llm import FakeBackend

import tpo.evaluate.categories
from tpo.evaluate.categories import ClassifierConfig, balance, categorize, fill, parse_category
from tpo.judge.llm.ask import LLM
from tpo.store.records import Prompt

CATEGORIES = ["coding", "creative_writing", "law", "maths", "writing"]


@pytest.mark.parametrize(
    ("text", "category"),
    [
        pytest.param("maths", "maths", id="plain"),
        pytest.param(" Maths.\n", "maths", id="case_and_full_stop"),
        pytest.param("The category is **creative writing**.", "creative_writing", id="space_for_underscore"),
        pytest.param("Creative-Writing", "creative_writing", id="hyphen"),
        pytest.param("creative__writing", "creative_writing", id="two_underscores"),
        pytest.param("creative_writing", "creative_writing", id="longer_name_wins"),
        pytest.param("writing", "writing", id="shorter_name"),
        pytest.param("Not law, rather maths", "maths", id="last_counts"),
        pytest.param("<think>law?</think>maths", "maths", id="after_a_thought"),
        pytest.param("maths? law?\n</think>\n\ncoding", "coding", id="after_a_thought_that_the_template_opened"),
        pytest.param("<think>It is law, I would say", None, id="within_a_thought"),
        pytest.param("<think>law</think>", None, id="only_in_a_thought"),
        pytest.param("lawyers and flaws", None, id="part_of_a_word"),
        pytest.param("decoding", None, id="end_of_a_word"),
        pytest.param("I cannot say.", None, id="none"),
        pytest.param("", None, id="empty"),
    ],
)
def test_parse_category(text: str, category: str | None) -> None:
    assert parse_category(text, CATEGORIES) == category
    assert parse_category(text, []) is None


def test_instruction_cannot_bring_a_placeholder() -> None:
    hostile = "say {categories} and {instruction}"
    filled = fill("of {categories}: {instruction}", instruction=hostile, categories=["a", "b"])
    assert filled == "of a\nb: say {categories} and {instruction}"


def prompt(number: int, category: str) -> Prompt:
    return Prompt(f"{number:04}", f"text {number}", category, "test", "test", (), f"{number:04}")


@given(st.lists(st.sampled_from([*CATEGORIES, None]), max_size=40), st.integers(0, 5), st.integers(0, 3), st.randoms())
def test_balance_keeps_counts_and_ignores_order(
    names: list[str | None], per_category: int, seed: int, shuffler: Any
) -> None:
    rows = [None if name is None else prompt(number, name) for number, name in enumerate(names)]
    kept, drops = balance(rows, per_category=per_category, seed=seed)
    assert len(kept) + sum(drops.values()) == len(rows)
    assert drops["unclassified"] == names.count(None)
    for name in CATEGORIES:
        count = sum(row.category == name for row in kept)
        assert count == (min(names.count(name), per_category) if per_category else names.count(name))
    shuffler.shuffle(rows)
    again, _ = balance(rows, per_category=per_category, seed=seed)
    assert {row.prompt_id for row in again} == {row.prompt_id for row in kept}


def test_classify_asks_once_and_leaves_out_what_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = FakeBackend()  # answers with the question
    monkeypatch.setattr(
        tpo.evaluate.categories,
        "load_llm",
        lambda settings, *, policy, cache_path: LLM(backend, cache_path, max_calls=None),
    )
    asking = ClassifierConfig(backend="server", name="x", max_tokens=4)
    rows = [prompt(0, "x"), prompt(1, "x")]
    rows[0] = Prompt("0000", "about maths", "x", "test", "test", (), "0000")
    path, asking.prompt = tmp_path / "answers.sqlite", "{instruction}|{categories}"
    for _ in range(2):
        found = categorize(rows, categories=["law", "maths"], classifier=asking, answers_path=path)
        assert [row.category if row else None for row in found] == ["maths", "maths"]  # the list's last name
    assert len(backend.asked) == 2
    backend.asked.clear()
    asking.prompt = "{instruction}"
    found = categorize(rows, categories=["law"], classifier=asking, answers_path=path)
    assert found == [None, None]
    assert [question.user for question in backend.asked] == ["text 1", "about maths"]
