import hashlib
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from tpo.config.groups import PromptsConfig
from tpo.sample.prompts import RECATEGORIZED, PromptError, kept_apart, make_prompt, prompt_id, same_text, split_prompts
from tpo.sample.sources.builtin import load_builtin
from tpo.sample.sources.file import load_file
from tpo.sample.sources.hub import first_user_message
from tpo.store.records import Check, Prompt

SIZES = PromptsConfig("builtin", num_train=6, num_validation=4, num_test=8)


def prompt(text: str, category: str = "c", split: str = "") -> Prompt:
    return make_prompt(text, category=category, source="s", split=split, where="here")


def free_prompts(count: int, num_categories: int = 4) -> list[Prompt]:
    return [prompt(f"instruction {number}", f"category-{number % num_categories}") for number in range(count)]


def ids_by_split(prompts: list[Prompt]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for row in prompts:
        found.setdefault(row.split, []).append(row.prompt_id)
    return found


# --- the built-in set -------------------------------------------------------------------------------------------


def test_builtin_has_20_categories_of_16_4_and_8() -> None:
    counts = Counter((row.category, row.split) for row in load_builtin())
    assert len({category for category, _ in counts}) == 20
    assert Counter(counts.values()) == {16: 20, 4: 20, 8: 20}
    assert {split: count for (_, split), count in counts.items()} == {"train": 16, "validation": 4, "test": 8}


def test_builtin_holds_no_text_twice() -> None:
    texts = Counter(" ".join(row.text.casefold().split()) for row in load_builtin())
    assert [text for text, count in texts.items() if count > 1] == []


def test_id_is_made_from_the_text_alone() -> None:
    expected = hashlib.sha256(b"Why is the sky blue?").hexdigest()[:16]
    rows = [prompt("Why is the sky blue?"), prompt("  Why is the sky blue?\n", "physics", "test")]
    assert [row.prompt_id for row in rows] == [expected, expected]


# --- splits -----------------------------------------------------------------------------------------------------

rows_strategy = st.lists(
    st.tuples(st.sampled_from("abc"), st.sampled_from(["", "", "", "train", "validation", "test"])),
    min_size=18,
    max_size=60,
)


@settings(deadline=None, max_examples=60)
@given(rows_strategy, st.integers(0, 5), st.randoms(use_true_random=False))
def test_splits_are_disjoint_whole_and_independent_of_order(
    rows: list[tuple[str, str]], seed: int, shuffler: random.Random
) -> None:
    prompts = [prompt(f"text {number}", category, split) for number, (category, split) in enumerate(rows)]
    fixed = {row.prompt_id: row.split for row in prompts if row.split}
    try:
        found = split_prompts(prompts, sizes=SIZES, seed=seed)
    except PromptError:
        assume(False)
    ids = [row.prompt_id for row in found]
    assert len(set(ids)) == len(ids) and set(ids) <= {row.prompt_id for row in prompts}
    for row in found:
        assert row.split.startswith(fixed.get(row.prompt_id, "")), "a fixed split was not respected"
    counts = Counter(row.split for row in found)
    assert counts.pop("test") == 8 and counts.pop("validation") == 4
    assert set(counts) == {f"train-{number}" for number in range(1, len(counts) + 1)}
    assert set(counts.values()) == {6}
    left = [row for row in prompts if row.prompt_id not in ids and row.split in {"", "train"}]
    assert len(left) < 6, "instructions for a whole iteration were left out"
    shuffled = shuffler.sample(prompts, len(prompts))
    assert split_prompts(shuffled, sizes=SIZES, seed=seed) == found


def test_seed_decides_who_is_held_out() -> None:
    first, second = (split_prompts(free_prompts(40), sizes=SIZES, seed=seed) for seed in (0, 1))
    assert set(ids_by_split(first)["test"]) != set(ids_by_split(second)["test"])


def test_equal_texts_are_one_instruction() -> None:
    prompts = free_prompts(24)
    assert split_prompts(prompts * 3, sizes=SIZES, seed=0) == split_prompts(prompts, sizes=SIZES, seed=0)


@pytest.mark.parametrize("splits", [("test", "train"), ("test", ""), ("validation", "train")])
def test_equal_texts_with_different_splits_do_not_depend_on_order(splits: tuple[str, str]) -> None:
    # A text that its source holds out must not be trained on because the other copy happens to come last.
    twice = [prompt("the same text", split=split) for split in splits]
    found = [
        {row.prompt_id: row.split for row in split_prompts([*free_prompts(40), *copies], sizes=SIZES, seed=0)}
        for copies in (twice, twice[::-1])
    ]
    assert found[0] == found[1]
    assert found[0][twice[0].prompt_id] == splits[0]


@pytest.mark.parametrize(
    ("first", "second", "is_same"),
    [
        ("Why is the sky blue?", "  why is\nthe  SKY blue", True),
        ("Why is the sky blue?", "“Why is the sky blue?”", True),
        ("**Say hi!**", "say hi", True),
        ("ﬁnd ① thing", "find 1 thing", True),
        ("Add -3 and 4", "Add 3 and 4", False),
        ("-3 + 4", "3 + 4", False),
        ("What is 3 - 4?", "What is 3 + 4?", False),
        ("Say hi, there", "Say hi there", False),
        ("???", "!!!", False),
    ],
)
def test_what_counts_as_the_same_text(first: str, second: str, is_same: bool) -> None:
    assert (same_text(first) == same_text(second)) == is_same
    assert same_text(same_text(first)) == same_text(first) != ""


def test_equal_normalized_texts_are_one_instruction_and_the_test_keeps_it() -> None:
    copies = [prompt("Say hi!", split="train"), prompt("say  HI", split="test"), prompt("Say hi.")]
    rows = [*free_prompts(40), *copies]
    found = split_prompts(rows, sizes=SIZES, seed=0)
    same = [row for row in found if same_text(row.text) == "say hi"]
    assert [(row.text, row.split) for row in same] == [("say  HI", "test")]
    assert kept_apart(rows, found) == {"repeated": 2}
    assert split_prompts(rows[::-1], sizes=SIZES, seed=0) == found


@pytest.mark.parametrize(
    ("copies", "kept", "drops"),
    [
        ([("maths", ""), ("code", "")], "maths", {RECATEGORIZED: 1}),  # the last in the alphabet
        ([("maths", "train"), ("code", "test")], "code", {RECATEGORIZED: 1}),  # the test's before all
        ([("maths", ""), ("maths", ""), ("code", ""), ("art", "")], "maths", {"repeated": 1, RECATEGORIZED: 2}),
        ([("maths", ""), ("maths", "test")], "maths", {"repeated": 1}),
    ],
)
def test_copies_in_other_categories_are_counted_apart(
    copies: list[tuple[str, str]], kept: str, drops: dict[str, int]
) -> None:
    rows = [*free_prompts(40), *(prompt("Say hi", category, split) for category, split in copies)]
    for order in (rows, rows[::-1]):
        found = split_prompts(order, sizes=PromptsConfig("builtin", num_train=1, num_validation=4, num_test=8), seed=0)
        assert [row.category for row in found if row.text == "Say hi"] == [kept]
        assert kept_apart(order, found) == drops


def made_from(base: Prompt, number: int, split: str = "") -> Prompt:
    text = f"{base.text} In {number} words."
    return make_prompt(text, category="c", source="s", split=split, where="here", base_id=base.base_id)


def test_a_source_whose_training_shares_bases_with_its_test_loses_them_counted() -> None:
    base, other = prompt("Describe a cat"), prompt("Describe a dog")
    rows = [
        *free_prompts(40),
        *(made_from(base, number, "train") for number in range(3)),
        *(made_from(other, number, "train") for number in range(2)),
        made_from(base, 9, "test"),
        made_from(other, 9, "validation"),
    ]
    found = split_prompts(rows, sizes=SIZES, seed=0)
    held_out = {row.base_id for row in found if not row.split.startswith("train-")}
    assert {base.base_id, other.base_id} <= held_out
    assert held_out.isdisjoint(row.base_id for row in found if row.split.startswith("train-"))
    assert kept_apart(rows, found) == {"held_out": 5}


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(0, 30), st.sampled_from(["", "", "train", "test"])), min_size=40), st.integers(0, 5)
)
def test_no_base_is_on_both_sides(rows: list[tuple[int, str]], seed: int) -> None:
    bases = [prompt(f"base {number}") for number in range(31)]
    prompts = [made_from(bases[base], number, split) for number, (base, split) in enumerate(rows)]
    try:
        found = split_prompts(prompts, sizes=PromptsConfig("builtin", 2, 1, 3), seed=seed)
    except PromptError:
        assume(False)
    sides = [{row.base_id for row in found if row.split.startswith(name)} for name in ("test", "validation", "train-")]
    assert not sides[0] & sides[1] and not sides[0] & sides[2] and not sides[1] & sides[2]
    counts = Counter(row.split for row in found)
    assert counts["test"] == 3 and counts["validation"] == 1
    dealt = {row.prompt_id for row in found}
    apart = sum(kept_apart(prompts, found).values())
    assert apart <= sum(row.prompt_id not in dealt for row in prompts)


def test_equal_texts_that_are_checked_differently_are_not_used() -> None:
    rows = [*free_prompts(24), *(prompt("2 + 2?"), prompt("2 + 2"))]
    rows[-1] = replace(rows[-1], checks=(Check("answer:number", {"answer": "5"}),))
    found = split_prompts(rows, sizes=SIZES, seed=0)
    assert "2 + 2" not in {same_text(row.text) for row in found}
    assert kept_apart(rows, found) == {"contradictory": 2}


def test_categories_are_balanced_in_every_split() -> None:
    found = split_prompts(free_prompts(44), sizes=SIZES, seed=3)
    for split, num_each in {"test": (2, 2), "validation": (1, 1), "train-1": (1, 2), "train-5": (1, 2)}.items():
        counts = Counter(row.category for row in found if row.split == split)
        assert len(counts) == 4 and min(counts.values()) >= num_each[0] and max(counts.values()) <= num_each[1]


def test_small_category_is_not_crowded_out() -> None:
    prompts = [prompt(f"many {number}", "many") for number in range(40)] + [prompt(f"few {n}", "few") for n in range(4)]
    found = split_prompts(prompts, sizes=SIZES, seed=0)
    assert Counter(row.category for row in found if row.split == "test") == {"many": 4, "few": 4}


@pytest.mark.parametrize("num_train", [1, 5, 20])
def test_more_training_takes_nothing_from_what_is_held_out(num_train: int) -> None:
    prompts = [*free_prompts(30), *(prompt(f"fixed {number}", split="test") for number in range(3))]
    sizes = PromptsConfig("builtin", num_train=num_train, num_validation=4, num_test=8)
    found, usual = (ids_by_split(split_prompts(prompts, sizes=given, seed=0)) for given in (sizes, SIZES))
    assert found["test"] == usual["test"] and found["validation"] == usual["validation"]


def test_builtin_training_never_holds_out_of_split_instructions() -> None:
    fixed = {row.prompt_id: row.split for row in load_builtin()}
    found = split_prompts(load_builtin(), sizes=PromptsConfig("builtin", 32, 20, 60), seed=0)
    assert Counter(row.split for row in found) == {
        "test": 60,
        "validation": 20,
        **{f"train-{number}": 32 for number in range(1, 11)},
    }
    assert all(row.split.split("-")[0] == fixed[row.prompt_id] for row in found)
    assert set(Counter(row.category for row in found if row.split == "test").values()) == {3}


@pytest.mark.parametrize(
    ("prompts", "split"),
    [
        pytest.param(free_prompts(7), "test", id="test"),
        pytest.param(free_prompts(11), "validation", id="validation"),
        pytest.param(free_prompts(17), "train", id="train"),
        pytest.param([prompt(f"{n}", split="train") for n in range(99)], "test", id="all_fixed_for_training"),
        pytest.param([], "test", id="none"),
        pytest.param(free_prompts(6) * 9, "test", id="many_copies_of_few"),
    ],
)
def test_too_few_names_the_split(prompts: list[Prompt], split: str) -> None:
    with pytest.raises(PromptError, match=f"the {split} split needs"):
        split_prompts(prompts, sizes=SIZES, seed=0)


def test_just_enough_is_enough() -> None:
    assert len(split_prompts(free_prompts(18), sizes=SIZES, seed=0)) == 18


# --- JSON-lines files -------------------------------------------------------------------------------------------


def load(path: Path) -> list[Prompt]:
    return load_file(path, text_field="text", category_field="category", split_field="split")


def test_json_lines_fields(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(
        '{"text": " naïve 🙂 {braces} ", "category": "maths", "split": "test"}\n\n{"text": "plain", "more": 1}\n'
    )
    assert [(row.text, row.category, row.source, row.split) for row in load(path)] == [
        ("naïve 🙂 {braces}", "maths", "mine.jsonl", "test"),
        ("plain", "uncategorized", "mine.jsonl", ""),
    ]


def test_json_lines_with_other_field_names(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"instruction": "a", "topic": "b", "part": "train"}\n')
    [row] = load_file(path, text_field="instruction", category_field="topic", split_field="part")
    assert (row.text, row.category, row.split) == ("a", "b", "train")


@pytest.mark.parametrize(
    ("line", "named"),
    [
        pytest.param('{"instruction": "a"}', "'text'", id="no_text_field"),
        pytest.param('{"text": ""}', "not empty", id="empty"),
        pytest.param('{"text": " \\n "}', "not empty", id="white_space"),
        pytest.param('{"text": 7}', "7", id="number"),
        pytest.param('{"text": null}', "None", id="null"),
        pytest.param('{"text": "a", "split": "dev"}', "'dev'", id="unknown_split"),
        pytest.param('{"text": "a", "split": "train-1"}', "'train-1'", id="split_of_one_iteration"),
        pytest.param('{"text": "a", "split": 3}', "split", id="split_number"),
        pytest.param('{"text": "a", "split": ["train"]}', "split", id="split_list"),
        pytest.param('{"text": "a", "category": ["maths"]}', "category", id="category_list"),
        pytest.param('{"text": "a"', "not JSON", id="malformed"),
        pytest.param('["a"]', "object", id="list"),
        pytest.param('{"text": "\\ud83d"}', "", id="half_a_surrogate_pair"),
    ],
)
def test_bad_line_names_file_and_line(line: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text(f'{{"text": "good"}}\n{line}\n')
    with pytest.raises(PromptError) as caught:
        load(path)
    assert f"{path}, line 2" in str(caught.value) and named in str(caught.value)


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"mine\.jsonl"):
        load(tmp_path / "mine.jsonl")


def test_file_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes('{"text": "café"}\n'.encode("latin-1"))
    with pytest.raises(PromptError, match=r"mine\.jsonl"):
        load(path)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        pytest.param("plain text", "plain text", id="text"),
        pytest.param([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], "a", id="chat"),
        pytest.param([{"role": "system", "content": "s"}, {"role": "user", "content": "a"}], "a", id="system_first"),
        pytest.param([{"role": "user", "content": "a"}, {"role": "user", "content": "b"}], "a", id="two_user_turns"),
        pytest.param([{"role": "assistant", "content": "b"}], "", id="no_user"),
        pytest.param([], "", id="empty_chat"),
    ],
)
def test_first_user_message(value: Any, expected: str) -> None:
    assert first_user_message(value, where="here") == expected


# --- answers in a file ------------------------------------------------------------------------------------------


def with_answers(path: Path, *rows: str, answer: str = "number") -> list[Prompt]:
    path.write_text("".join(f"{row}\n" for row in rows))
    fields = {"text_field": "text", "category_field": "category", "split_field": "split"}
    return load_file(path, **fields, answer_field="answer", answer=answer)


def test_answers_become_checks_and_a_number_is_asked_for(tmp_path: Path) -> None:
    [row] = with_answers(
        tmp_path / "mine.jsonl", '{"text": "2 + 2?", "answer": 4, "split": "test", "category": "maths"}'
    )
    assert row.checks == (Check("answer:number", {"answer": "4"}),) and row.base_id == prompt_id("2 + 2?")
    assert (row.split, row.category) == ("test", "maths")
    assert "2 + 2?" in row.text and "The final answer is N." in row.text and row.prompt_id == prompt_id(row.text)
    [row] = with_answers(tmp_path / "mine.jsonl", '{"text": "Colour?", "answer": "blue"}', answer="exact")
    assert (row.text, row.checks) == ("Colour?", (Check("answer:exact", {"answer": "blue"}),))


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"text": "a"}', "no field 'answer' (prompts.answer_field)"),
        ('{"text": "a", "answer": "many"}', "answer is 'many'; expected a number"),
        ('{"text": "a", "answer": null}', "answer is None"),
    ],
)
def test_row_without_its_answer_is_named(line: str, named: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    with pytest.raises(PromptError) as caught:
        with_answers(path, '{"text": "good", "answer": 1}', line)
    assert f"{path}, line 2: {named}" in str(caught.value)
