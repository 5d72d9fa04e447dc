import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tpo.checks import (
    CheckError,
    check_type,
    constraints,
    passes,
    passes_all,
    passes_each,
    require_checks,
    share_passed,
)
from tpo.checks.families.floor import NAME as FLOOR
from tpo.store.records import Check

LONG = "Bread rises because yeast feeds on sugar and gives off gas that the dough holds"  # 15 words, none twice
NO_COMMA, TEN_WORDS = Check("punctuation:no_comma", {}), Check(FLOOR, {"count": 10})

#: Type, arguments, a response that passes, one that does not.
CASES: list[tuple[str, dict[str, Any], str, str]] = [
    ("no_comma", {}, "Salt and pepper.", "Salt, pepper."),
    ("fewer_words", {"num_words": 3, "relation": "less than"}, "two words", "there are three"),
    ("more_words", {"num_words": 3, "relation": "at least"}, "there are three", "two words"),
    ("bullets", {"num_bullets": 2}, "* one\n* two", "* one\n* two\n* three"),
    ("title", {}, "<<Bread>>\nIt rises.", "Bread\nIt rises."),
    ("keyword", {"keywords": ["river"]}, "The River is wide.", "The stream is wide."),
    ("forbidden_word", {"forbidden_words": ["the"]}, "Then others came.", "The others came."),
    ("ending", {"end_phrase": "That is all."}, "Stir it. That is all.", "That is all. Stir it."),
    ("lowercase", {}, "this is how the bread is made at home", "This is how the bread is made at home"),
    ("uppercase", {}, "THIS IS HOW THE BREAD IS MADE AT HOME", "This is how the bread is made at home"),
    ("quotation", {}, '"It rises."', "It rises."),
    ("postscript", {"postscript_marker": "P.S."}, "It rises.\nP.S. Use yeast.", "It rises. Use yeast."),
    ("placeholders", {"num_placeholders": 2}, "Dear [name], call [number].", "Dear [name], call me."),
    ("highlights", {"num_highlights": 1}, "Use *fresh yeast* only.", "Use fresh yeast only."),
    ("paragraphs", {"num_paragraphs": 2}, "It rises.\n***\nIt bakes.", "It rises.\n\nIt bakes."),
    ("letter", {"letter": "k", "let_frequency": 3, "let_relation": "at least"}, "kick it, Kay", "keep kin"),
    ("word_frequency", {"keyword": "river", "frequency": 2, "relation": "at least"}, "river by river", "a river"),
    ("two_responses", {}, "It rises.\n******\nIt bakes.", "It rises.\n***\nIt bakes."),
    ("json", {}, '{"answer": "yeast"}', "answer: yeast"),
]


@pytest.mark.parametrize(("kind", "arguments", "passing", "failing"), CASES, ids=[case[0] for case in CASES])
def test_a_response_passes_as_by_hand(kind: str, arguments: dict[str, Any], passing: str, failing: str) -> None:
    check = Check(constraints()[kind].check, arguments)
    assert passes(passing, check) and not passes(failing, check)
    assert check_type(check) == kind


def test_every_type_has_a_case_and_several_phrasings() -> None:
    assert [case[0] for case in sorted(CASES)] == list(constraints())
    assert min(len(item.phrasings) for item in constraints().values()) >= 2


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), kind=st.sampled_from(sorted(constraints())))
def test_a_request_says_what_its_check_asks(seed: int, kind: str) -> None:
    text, check = constraints()[kind].write(random.Random(seed), words=(20, 60))
    assert "{" not in text
    for value in check.arguments.values():
        if value not in ("less than", "at least"):  # said in words of each phrasing's own
            assert str(value[0] if isinstance(value, list) else value) in text
    assert check_type(check) == kind
    assert constraints()[kind].write(random.Random(seed), words=(20, 60)) == (text, check)
    require_checks([check])


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), response=st.text(max_size=80) | st.sampled_from([case[2] for case in CASES]))
def test_checks_are_the_harness_own(seed: int, response: str) -> None:
    from lm_eval.tasks.ifeval.utils import process_results

    generator = random.Random(seed)
    _, check = generator.choice(list(constraints().values())).write(generator, words=(20, 60))
    row = {"key": 1, "prompt": "", "instruction_id_list": [check.name], "kwargs": [check.arguments]}
    state = random.getstate()
    found = [passes(response, check, rule=rule) for rule in ("strict", "loose")]
    assert random.getstate() == state
    expected = process_results(row, [response])
    assert found == [expected["prompt_level_strict_acc"], expected["prompt_level_loose_acc"]]


def test_words_of_length_requests_stay_in_their_range() -> None:
    generator = random.Random(0)
    for kind, low, high in (("fewer_words", 20, 40), ("more_words", 40, 60)):
        drawn = {constraints()[kind].write(generator, words=(20, 60))[1].arguments["num_words"] for _ in range(400)}
        assert (min(drawn), max(drawn)) == (low, high)


def test_the_harness_downloads_nothing_when_it_is_imported() -> None:
    script = (
        "import nltk; nltk.download = lambda *_, **__: 1 / 0\n"
        "from tpo.checks import passes; from tpo.store.records import Check\n"
        "import os; assert passes('a b', Check('punctuation:no_comma', {})) and 'LOCAL_RANK' not in os.environ"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize(
    ("text", "is_enough"),
    [
        (LONG, True),
        ("one two three four five six seven eight nine ten", True),
        ("one two three four five six seven eight nine", False),
        ("yes " * 50, False),
        ("One one ONE one. one, one! (one) *one* one: one; two", False),  # two different words
        ("- - - - - - - - - - - -", False),
        ("", False),
        (None, False),
    ],
)
def test_the_floor_counts_different_words(text: str | None, is_enough: bool) -> None:
    assert passes(text, TEN_WORDS) is is_enough


def test_below_the_floor_nothing_passes() -> None:
    checks = [NO_COMMA, Check("keywords:existence", {"keywords": ["yeast"]}), TEN_WORDS]
    assert passes_each(LONG, checks) == [True, True] and share_passed(LONG, checks) == 1.0
    assert passes_each("yeast", checks) == [False, False] and share_passed("yeast", checks) == 0.0
    assert share_passed(LONG.replace("yeast", "it"), checks) == 0.5
    assert passes_all(LONG, checks) and not passes_all(LONG + ",", checks)
    assert share_passed(None, checks) == 0.0
    with pytest.raises(ValueError, match="without checks"):
        share_passed(LONG, [TEN_WORDS])


@pytest.mark.parametrize(
    ("response", "answer", "strict", "loose"),
    [
        ("The final answer is 42.", "42", True, True),
        ("It is 41. No: 42", "42", False, True),
        ("42 of 43", "42", False, False),
        ("The final answer is 42. That is 41 + 1", "42", True, True),
        ("The final answer is $1,000.", "1000", True, True),
        ("The final answer is 42.0", "42", False, False),
        ("none", "42", False, False),
    ],
)
def test_numbers_are_read_as_by_hand(response: str, answer: str, strict: bool, loose: bool) -> None:
    check = Check("answer:number", {"answer": answer})
    assert (passes(response, check), passes(response, check, rule="loose")) == (strict, loose)


@pytest.mark.parametrize(
    ("response", "strict", "loose"),
    [
        ("Paris", True, True),
        (" paris.\n", True, True),
        ("It is a city.\nParis", False, True),
        ("The capital is: Paris.", False, True),
        ("Paris, France", False, False),
    ],
)
def test_texts_are_compared_as_by_hand(response: str, strict: bool, loose: bool) -> None:
    check = Check("answer:exact", {"answer": "Paris"})
    assert (passes(response, check), passes(response, check, rule="loose")) == (strict, loose)


@pytest.mark.parametrize(
    "check",
    [
        Check("no_such:thing", {}),
        Check("punctuation:no_such", {}),
        Check("keywords:existence", {"keywords": ["(a"]}),
        Check("answer:no_such", {"answer": "1"}),
        Check("answer:number", {"answer": 1}),
        Check("answer:exact", {}),
        Check(FLOOR, {"words": 1}),
    ],
)
def test_a_check_that_cannot_be_made_is_named(check: Check) -> None:
    with pytest.raises(CheckError, match=check.name):
        require_checks([check])


def test_the_sentence_splitter_is_asked_for_only_where_sentences_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    import nltk

    monkeypatch.setattr(nltk.data, "path", ["/nowhere"])
    require_checks([NO_COMMA])
    with pytest.raises(CheckError, match="punkt_tab"):
        require_checks([Check("length_constraints:number_sentences", {"num_sentences": 2, "relation": "at least"})])


def test_the_family_in_the_manual_is_one() -> None:
    manual = Path(__file__).parents[2] / "tpo" / "checks" / "README.md"
    namespace: dict[str, Any] = {}
    exec(manual.read_text(encoding="utf-8").split("```python")[1].split("```")[0], namespace)
    family = namespace["Opening"]()
    text, check = family.constraints["first_word"].write(random.Random(0), words=(20, 60))
    word = check.arguments["word"]
    assert f'"{word}"' in text
    family.require(check)
    for response, strict, loose in (
        (f"{word}, so.", True, True),
        (f" {word.upper()}", False, True),
        ("No.", False, False),
    ):
        assert family.passes(response, check, rule="strict") is strict
        assert family.passes(response, check, rule="loose") is loose
    with pytest.raises(CheckError, match="expected opening:word with a word"):
        family.require(Check("opening:word", {}))
