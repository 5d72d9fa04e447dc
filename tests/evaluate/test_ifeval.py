import json
import random
import string
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nltk
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from tpo.checks import CheckError, require_checks
from tpo.checks.families import ifeval as families
from tpo.evaluate.benchmarks import ifeval
from tpo.evaluate.benchmarks.verifiable import BenchmarkError, count_no_response
from tpo.results.rate import Rate
from tpo.sample.prompts import prompt_id
from tpo.store.records import Check, CheckResult, Response

PUNKT_FILES = ("collocations.tab", "sent_starters.txt", "abbrev_types.txt", "ortho_context.tab")


@pytest.fixture(autouse=True, scope="module")
def untrained_punkt(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A punkt_tab without parameters: it splits at every full stop, which is all that these tests need."""
    root = tmp_path_factory.mktemp("nltk_data")
    english = root / "tokenizers" / "punkt_tab" / "english"
    english.mkdir(parents=True)
    for name in PUNKT_FILES:
        (english / name).touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nltk.data, "path", [str(root)])
        yield


def key(*instructions: tuple[str, dict[str, Any]]) -> dict[str, Any]:
    names, arguments = zip(*instructions, strict=True)
    return {"key": 7, "prompt": "Do it.", "instruction_id_list": list(names), "kwargs": list(arguments)}


KEYWORDS = ("keywords:existence", {"keywords": ["cat", "dog"]})
TWICE = ("keywords:frequency", {"keyword": "tea", "frequency": 2, "relation": "at least"})
FORBIDDEN = ("keywords:forbidden_words", {"forbidden_words": ["but"]})
LETTER = ("keywords:letter_frequency", {"letter": "z", "let_frequency": 2, "let_relation": "less than"})
LOWER = ("change_case:english_lowercase", {})
UPPER = ("change_case:english_capital", {})
CAPITALS = ("change_case:capital_word_frequency", {"capital_frequency": 2, "capital_relation": "at least"})
SHORT = ("length_constraints:number_words", {"num_words": 5, "relation": "less than"})
LONG = ("length_constraints:number_words", {"num_words": 5, "relation": "at least"})
SENTENCES = ("length_constraints:number_sentences", {"num_sentences": 3, "relation": "less than"})
PARAGRAPHS = ("length_constraints:number_paragraphs", {"num_paragraphs": 2})
NTH_WORD = (
    "length_constraints:nth_paragraph_first_word",
    {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "then"},
)
BULLETS = ("detectable_format:number_bullet_lists", {"num_bullets": 2})
CHOICE = ("detectable_format:constrained_response", {})
HIGHLIGHTS = ("detectable_format:number_highlighted_sections", {"num_highlights": 2})
SECTIONS = ("detectable_format:multiple_sections", {"section_spliter": "Part", "num_sections": 2})
JSON = ("detectable_format:json_format", {})
TITLE = ("detectable_format:title", {})
PLACEHOLDERS = ("detectable_content:number_placeholders", {"num_placeholders": 2})
POSTSCRIPT = ("detectable_content:postscript", {"postscript_marker": "P.S."})
TWO = ("combination:two_responses", {})
REPEAT = ("combination:repeat_prompt", {"prompt_to_repeat": "Name a fish."})
END = ("startend:end_checker", {"end_phrase": "That is all."})
QUOTED = ("startend:quotation", {})
NO_COMMA = ("punctuation:no_comma", {})
GERMAN = ("language:response_language", {"language": "de"})
HASHTAGS = ("keywords:letter_frequency", {"letter": "#", "let_frequency": 4, "let_relation": "at least"})  # row 1122

ENGLISH = "the old house stands on a hill and nobody has lived there for many years"
DEUTSCH = "Das alte Haus steht auf einem Hügel, und seit vielen Jahren wohnt dort niemand mehr."

ROWS = [  # instruction, response, strict, loose: decided by hand
    pytest.param(KEYWORDS, "A Dog and a cat.", True, True, id="keywords"),
    pytest.param(KEYWORDS, "A dog and a bird.", False, False, id="keyword_missing"),
    pytest.param(KEYWORDS, "A d*og* and a cat.", False, True, id="keyword_broken_by_an_asterisk"),
    pytest.param(TWICE, "Tea, more tea.", True, True, id="frequency"),
    pytest.param(TWICE, "Tea, more coffee.", False, False, id="frequency_once"),
    pytest.param(FORBIDDEN, "Butter and a button.", True, True, id="forbidden_word_within_others"),
    pytest.param(FORBIDDEN, "Good, but dear.", False, False, id="forbidden_word"),
    pytest.param(FORBIDDEN, "Sure, but wait:\nGood and cheap.", False, True, id="forbidden_word_in_the_first_line"),
    pytest.param(LETTER, "A zoo.", True, True, id="letter"),
    pytest.param(LETTER, "Zigzag", False, False, id="letter_too_often"),
    pytest.param(LOWER, ENGLISH, True, True, id="lower_case"),
    pytest.param(LOWER, ENGLISH.capitalize(), False, False, id="lower_case_but_one"),
    pytest.param(LOWER, f"Here:\n{ENGLISH}", False, True, id="lower_case_after_the_first_line"),
    pytest.param(LOWER, DEUTSCH.lower(), False, False, id="lower_case_in_another_language"),
    pytest.param(UPPER, ENGLISH.upper(), True, True, id="upper_case"),
    pytest.param(UPPER, ENGLISH, False, False, id="upper_case_missed"),
    pytest.param(CAPITALS, "GO TO bed", True, True, id="capital_words"),
    pytest.param(CAPITALS, "GO to Bed", False, False, id="capital_words_too_few"),
    pytest.param(SHORT, "One two three four", True, True, id="less_than_five_words"),
    pytest.param(SHORT, "One two three four five", False, False, id="five_are_not_less_than_five"),
    pytest.param(SHORT, "Here is the answer\nOne two", False, True, id="few_words_after_the_first_line"),
    pytest.param(LONG, "One two three four five", True, True, id="at_least_five_words"),
    pytest.param(LONG, "One two three four", False, False, id="four_are_not_at_least_five"),
    pytest.param(SENTENCES, "I came. I saw.", True, True, id="two_sentences"),
    pytest.param(SENTENCES, "I came. I saw. I won.", False, False, id="three_sentences"),
    pytest.param(PARAGRAPHS, "One.\n***\nTwo.", True, True, id="paragraphs"),
    pytest.param(PARAGRAPHS, "One.\n\nTwo.", False, False, id="paragraphs_without_divider"),
    pytest.param(NTH_WORD, "First this.\n\nThen, that.", True, True, id="first_word"),
    pytest.param(NTH_WORD, "First this.\n\nNow that.", False, False, id="another_first_word"),
    pytest.param(BULLETS, "* one\n* two", True, True, id="bullets"),
    pytest.param(BULLETS, "- one\n- two\n- three", False, True, id="a_bullet_too_many_in_the_last_line"),
    pytest.param(BULLETS, "one\ntwo", False, False, id="no_bullets"),
    pytest.param(CHOICE, "My answer is no.", True, True, id="one_of_the_options"),
    pytest.param(CHOICE, "No.", False, False, id="none_of_the_options"),
    pytest.param(HIGHLIGHTS, "*one* and *two*", True, True, id="highlights"),
    pytest.param(HIGHLIGHTS, "*one* and two", False, False, id="one_highlight"),
    pytest.param(SECTIONS, "Part 1\nA\nPart 2\nB", True, True, id="sections"),
    pytest.param(SECTIONS, "Part 1\nA", False, False, id="one_section"),
    pytest.param(JSON, '```json\n{"a": [1, 2]}\n```', True, True, id="json"),
    pytest.param(JSON, "{'a': 1}", False, False, id="no_json"),
    pytest.param(JSON, 'Here you are:\n{"a": 1}', False, True, id="json_after_the_first_line"),
    pytest.param(JSON, "[" * 100_000, False, False, id="json_without_end"),
    pytest.param(TITLE, "<<On fish>>\nFish swim.", True, True, id="title"),
    pytest.param(TITLE, "<On fish>\nFish swim.", False, False, id="no_title"),
    pytest.param(TITLE, "<<>>\nFish swim.", False, False, id="empty_title"),
    pytest.param(PLACEHOLDERS, "Dear [name], from [me].", True, True, id="placeholders"),
    pytest.param(PLACEHOLDERS, "Dear [name], from me.", False, False, id="one_placeholder"),
    pytest.param(POSTSCRIPT, "Bye.\nP.S. Write soon.", True, True, id="postscript"),
    pytest.param(POSTSCRIPT, "Bye.\nPS Write soon.", False, False, id="no_postscript"),
    pytest.param(TWO, "Yes.\n******\nNo.", True, True, id="two_responses"),
    pytest.param(TWO, "Yes.\n******\nYes.", False, False, id="the_same_response_twice"),
    pytest.param(TWO, "Yes.", False, False, id="one_response"),
    pytest.param(REPEAT, "Name a fish. Trout.", True, True, id="request_repeated"),
    pytest.param(REPEAT, "Sure!\nName a fish. Trout.", False, True, id="request_repeated_in_the_second_line"),
    pytest.param(REPEAT, "Trout.", False, False, id="request_not_repeated"),
    pytest.param(END, "Trout. THAT IS ALL.", True, True, id="end"),
    pytest.param(END, "Trout. That is all.\nAnything else?", False, True, id="end_before_the_last_line"),
    pytest.param(END, "That is all. Trout.", False, False, id="another_end"),
    pytest.param(QUOTED, ' "Trout." ', True, True, id="quoted"),
    pytest.param(QUOTED, '"Trout".', False, False, id="full_stop_after_the_quotation"),
    pytest.param(NO_COMMA, "Trout and carp", True, True, id="no_comma"),
    pytest.param(NO_COMMA, "Trout, carp", False, False, id="comma"),
    pytest.param(NO_COMMA, "Well, well:\nTrout and carp", False, True, id="comma_in_the_first_line"),
    pytest.param(GERMAN, DEUTSCH, True, True, id="german"),
    pytest.param(GERMAN, ENGLISH, False, False, id="english_for_german"),
    pytest.param(GERMAN, f"Here is the answer to your question.\n{DEUTSCH * 3}", True, True, id="mostly_german"),
    pytest.param(GERMAN, "1234", True, True, id="no_language_counts_as_the_right_one"),
    pytest.param(NO_COMMA, None, False, False, id="no_response"),
    pytest.param(NO_COMMA, " \n", False, False, id="blank"),
]


@pytest.mark.parametrize(("instruction", "response", "strict", "loose"), ROWS)
def test_instructions_are_checked_as_by_hand(
    instruction: tuple[str, dict[str, Any]], response: str | None, strict: bool, loose: bool
) -> None:
    assert ifeval.check(response, key(instruction)) == {
        "prompt_strict": strict,
        "prompt_loose": loose,
        "instructions_strict": [strict],
        "instructions_loose": [loose],
    }


def test_the_rows_try_every_instruction_of_the_harness() -> None:
    from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT

    assert {row.values[0][0] for row in ROWS} == set(INSTRUCTION_DICT)  # type: ignore[index]


EVERYTHING = key(
    *[KEYWORDS, TWICE, FORBIDDEN, LETTER, LOWER, CAPITALS, SHORT, SENTENCES, PARAGRAPHS, NTH_WORD, BULLETS, CHOICE],
    *[HIGHLIGHTS, SECTIONS, JSON, TITLE, PLACEHOLDERS, POSTSCRIPT, TWO, REPEAT, END, QUOTED, NO_COMMA],
)
LINES = ["The cat, the dog.", "* tea", "- tea", "***", "******", "GO ON", '"', "<<a>>", "[b] [c]", "P.S. d", "1", ""]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.sampled_from(LINES), min_size=1, max_size=6).map("\n".join))
def test_whole_rows_are_checked_as_by_the_harness(response: str) -> None:
    from lm_eval.tasks.ifeval.utils import process_results

    expected = process_results(EVERYTHING, [response])
    found = ifeval.check(response, EVERYTHING)
    assert found["instructions_strict"] == expected["inst_level_strict_acc"]
    assert found["instructions_loose"] == expected["inst_level_loose_acc"]
    assert found["prompt_strict"] == expected["prompt_level_strict_acc"]
    assert found["prompt_loose"] == expected["prompt_level_loose_acc"]


def test_a_prompt_is_followed_where_all_instructions_are() -> None:
    found = ifeval.check("Well, well:\nTrout and carp", key(TITLE, NO_COMMA, SHORT))
    assert found["instructions_strict"] == [False, False, False]
    assert found["instructions_loose"] == [False, True, True]
    assert (found["prompt_strict"], found["prompt_loose"]) == (False, False)
    assert ifeval.check("Trout", key(NO_COMMA, SHORT))["prompt_strict"]


# --- chance -----------------------------------------------------------------------------------------------------


def test_a_language_in_doubt_is_decided_once(monkeypatch: pytest.MonkeyPatch) -> None:
    import langdetect

    doubtful, italian = "I am si", key(("language:response_language", {"language": "it"}))
    assert len({ifeval.check(doubtful, italian)["prompt_strict"] for _ in range(50)}) == 1
    monkeypatch.setattr(langdetect.DetectorFactory, "seed", None)
    assert {ifeval.check(doubtful, italian)["prompt_strict"] for _ in range(50)} == {
        True,
        False,
    }  # what the seed is for


def test_a_requirement_drawn_by_lot_is_drawn_once() -> None:
    from lm_eval.tasks.ifeval.utils import process_results

    text, row = "aaaa bbbb cccc dddd eeee ffff", key(HASHTAGS)
    random.seed(1)
    drawn = {process_results(row, [text])["prompt_level_strict_acc"] for _ in range(100)}
    assert drawn == {True, False}  # what the seed is for
    found = set()
    for seed in range(20):
        random.seed(seed)
        before = random.getstate()
        found.add(ifeval.check(text, row)["prompt_strict"])
        assert random.getstate() == before  # whoever else draws is not disturbed
    assert len(found) == 1


def test_what_is_followed_strictly_is_followed_loosely_also_where_the_harness_draws_again() -> None:
    from lm_eval.tasks.ifeval.utils import process_results

    random.seed(families.SEED)
    text = random.choice(string.ascii_letters) * 4
    random.seed(families.SEED)
    expected = process_results(key(HASHTAGS), [text])
    assert (expected["prompt_level_strict_acc"], expected["prompt_level_loose_acc"]) == (True, False)
    found = ifeval.check(text, key(HASHTAGS))
    assert (found["prompt_strict"], found["prompt_loose"]) == (True, True)


# --- what must be installed -------------------------------------------------------------------------------------


def test_without_the_sentence_splitter_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tokenizers" / "punkt_tab").mkdir(parents=True)  # an empty folder satisfies the harness
    monkeypatch.setattr(nltk.data, "path", [str(tmp_path)])
    monkeypatch.setattr(nltk, "download", lambda *_, **__: pytest.fail("tried to download"))
    for name in [name for name in sys.modules if name.startswith("lm_eval.tasks.ifeval")]:
        monkeypatch.delitem(sys.modules, name)
    families._harness.cache_clear()
    for call in (ifeval.require, lambda: require_checks([Check("length_constraints:number_sentences", {})])):
        with pytest.raises(CheckError, match=f"punkt_tab.*{tmp_path}.*python -m nltk.downloader punkt_tab"):
            call()
    assert not any(name.startswith("lm_eval.tasks.ifeval") for name in sys.modules)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(families, "_PACKAGES", ("lm_eval", "no_such_package"))
    with pytest.raises(CheckError, match="needs the packages no_such_package: pip install"):
        ifeval.require()


@pytest.mark.parametrize(
    "instruction",
    [
        pytest.param(("punctuation:no_such", {}), id="unknown_instruction"),
        pytest.param(("punctuation:no_comma", {"extra": 1}), id="unknown_argument"),
        pytest.param(("keywords:frequency", {"keyword": "a", "relation": "about"}), id="unknown_relation"),
        pytest.param(("keywords:existence", {"keywords": ["(a"]}), id="keyword_that_is_no_pattern"),
        pytest.param(("combination:repeat_prompt", {}), id="argument_missing"),
    ],
)
def test_what_the_harness_cannot_check_is_found_at_set_up(instruction: tuple[str, dict[str, Any]]) -> None:
    with pytest.raises(BenchmarkError, match=f"row 7: check {instruction[0]}"):
        ifeval.require([key(NO_COMMA), key(NO_COMMA, instruction)])
    ifeval.require([key(NO_COMMA), EVERYTHING])


# --- loading ----------------------------------------------------------------------------------------------------


def row(number: int, **changes: Any) -> dict[str, Any]:
    instructions = {"instruction_id_list": ["punctuation:no_comma"], "kwargs": [{"num_words": None}]}
    return {"key": number, "prompt": f"Name {number} fish without a comma.", **instructions, **changes}


def write(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    path = tmp_path / "ifeval.jsonl"
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return path


def test_rows_keep_their_order_and_lose_null_arguments(tmp_path: Path) -> None:
    found = ifeval.load(write(tmp_path, [row(2), row(1)]))
    assert [prompt.text for prompt in found.prompts] == ["Name 2 fish without a comma.", "Name 1 fish without a comma."]
    assert list(found.keys.values()) == [row(2, kwargs=[{}]), row(1, kwargs=[{}])]
    assert list(found.keys) == [prompt_id(prompt.text) for prompt in found.prompts] and found.baseline == []
    ifeval.require(found.keys.values())


def test_some_rows_are_a_seeded_choice(tmp_path: Path) -> None:
    path = write(tmp_path, [row(number) for number in range(30)])
    some = ifeval.load(path, num_prompts=5, seed=3)
    numbers = [entry["key"] for entry in some.keys.values()]
    assert numbers == sorted(numbers) and len(numbers) == 5
    assert some == ifeval.load(path, num_prompts=5, seed=3) != ifeval.load(path, num_prompts=5, seed=4)


def test_a_prompt_twice_is_one_prompt_if_it_is_checked_alike(tmp_path: Path) -> None:
    assert len(ifeval.load(write(tmp_path, [row(1), row(1, key=2)])).prompts) == 1


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        pytest.param({"kwargs": []}, "1 instructions, but 0 kwargs", id="too_few_arguments"),
        pytest.param({"kwargs": [None]}, "expected a list of objects", id="arguments_null"),
        pytest.param({"instruction_id_list": []}, "expected a list of names", id="no_instructions"),
        pytest.param({"instruction_id_list": "punctuation:no_comma"}, "expected a list of names", id="text_for_list"),
        pytest.param({"prompt": "Name 0 fish without a comma.", "kwargs": [{"a": 1}]}, "line 1 again", id="twice"),
    ],
)
def test_a_bad_row_is_named(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    path = write(tmp_path, [row(0), row(1, **changes)])
    with pytest.raises(BenchmarkError) as caught:
        ifeval.load(path)
    assert f"{path}, line 2" in str(caught.value) and named in str(caught.value)


def test_a_missing_field_is_named(tmp_path: Path) -> None:
    with pytest.raises(BenchmarkError, match=r"line 1: no field 'instruction_id_list'; it has \['key', 'prompt'\]"):
        ifeval.load(write(tmp_path, [{"key": 1, "prompt": "p"}]))


# --- summary ----------------------------------------------------------------------------------------------------


def test_checks_and_summary_by_hand() -> None:
    rows = [
        *ifeval.checks(Response("p", 0, "Trout", None), key(NO_COMMA, SHORT)),
        *ifeval.checks(Response("q", 0, "Well, well:\nTrout", None), key(NO_COMMA, TITLE)),
        *ifeval.checks(Response("r", 0, None, "thought_truncated"), key(NO_COMMA)),
        *ifeval.checks(Response("s", 0, "<<Fish>>\nWell, well", None), key(TITLE)),
    ]
    assert rows[4:8] == [
        CheckResult("q", 0, 0, "punctuation:no_comma", "strict", False, None),
        CheckResult("q", 0, 1, "detectable_format:title", "strict", False, None),
        CheckResult("q", 0, 0, "punctuation:no_comma", "loose", True, None),
        CheckResult("q", 0, 1, "detectable_format:title", "loose", False, None),
    ]
    assert [(row.is_passed, row.error) for row in rows[8:10]] == [(False, "thought_truncated")] * 2
    found = ifeval.summarize(rows)
    half = binomtest(2, 4).proportion_ci(method="wilson")
    assert found["prompt_strict"] == Rate(0.5, pytest.approx((half.low, half.high)), 4, 0, 4)
    assert found["prompt_loose"] == found["prompt_strict"]  # q's title is missing loosely too
    strict, loose = found["instruction_strict"], found["instruction_loose"]
    assert (strict.rate, strict.num_rows, strict.num_prompts, count_no_response(rows)) == (0.5, 6, 4, 1)
    assert (loose.rate, loose.num_rows) == (pytest.approx(4 / 6), 6)
    # Residuals by prompt 1, -1, -1/2, 1/2: SE^2 = 2.5 / 36, so (1/4) / SE^2 = 3.6 trials for Wilson's interval.
    z = 1.959963984540054
    margin = z * (0.25 / 3.6 + z**2 / (4 * 3.6**2)) ** 0.5 / (1 + z**2 / 3.6)
    assert strict.interval == pytest.approx((0.5 - margin, 0.5 + margin), abs=1e-12)


def test_summary_of_nothing() -> None:
    assert set(ifeval.summarize([]).values()) == {Rate(None, None, 0, 0, 0)}
