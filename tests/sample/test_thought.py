from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo.config.thought import DIRECT, Split, ThoughtFormat
from tpo.model.decoder import Decoder
from tpo.sample.thought import num_tokens_within

T, R = "Here is my thought process:", "Here is my response:"
GENERIC = ThoughtFormat(f"Write {T} and {R}. Query: {{instruction}}", T, R, "prefill")
SPECIFIC = ThoughtFormat("Think, then <R>. Query: {instruction}", None, "<R>", "switch")

OK = None
CASES = [
    # id, format, prefilled, finish reason, completion, thought, response, error
    ("generic", GENERIC, False, "stop", f"{T} hm\n{R} yes", "hm", "yes", OK),
    ("generic_prefilled", GENERIC, True, "stop", f" hm\n{R} yes", "hm", "yes", OK),
    ("generic_one_line", GENERIC, False, "stop", f"{T} hm {R} yes", "hm", "yes", OK),
    ("generic_no_white_space", GENERIC, False, "stop", f"{T}hm{R}yes", "hm", "yes", OK),
    ("preamble_is_neither", GENERIC, False, "stop", f"Sure!\n{T} hm\n{R} yes", "hm", "yes", OK),
    ("many_lines", GENERIC, True, "stop", f"1. a\n2. b\n\n{R}\n\nx\n\ny\n", "1. a\n2. b", "x\n\ny", OK),
    ("unicode", GENERIC, True, "stop", f" naïve 🙂 {R} 是 🙂", "naïve 🙂", "是 🙂", OK),
    ("response_truncated", GENERIC, True, "length", f" hm\n{R} yes and", "hm", "yes and", OK),
    ("braces", GENERIC, True, "stop", f" {{x}} {R} {{instruction}} {{0}}", "{x}", "{instruction} {0}", OK),
    ("thought_truncated", GENERIC, True, "length", " hm, so the answer", None, None, "thought_truncated"),
    ("thought_truncated_in_delimiter", GENERIC, True, "length", f" hm\n{R[:-1]}", None, None, "thought_truncated"),
    ("thought_truncated_unprefilled", GENERIC, False, "length", f"{T} hm", None, None, "thought_truncated"),
    ("no_response_delimiter", GENERIC, True, "stop", " hm. The answer is yes", None, None, "no_response_delimiter"),
    ("no_thought_delimiter", GENERIC, False, "stop", f"hm {R} yes", None, None, "no_thought_delimiter"),
    ("no_delimiter", GENERIC, False, "stop", "The answer is yes", None, None, "no_thought_delimiter"),
    ("other_case", GENERIC, True, "stop", f" hm {R.lower()} yes", None, None, "no_response_delimiter"),
    ("response_before_thought", GENERIC, False, "stop", f"{R} yes\n{T} hm", None, None, "no_response_delimiter"),
    ("response_repeated", GENERIC, True, "stop", f" a {R} b {R} c", None, None, "repeated_delimiter"),
    ("response_repeated_at_once", GENERIC, True, "stop", f" a {R} {R} c", None, None, "repeated_delimiter"),
    ("response_repeated_at_end", GENERIC, True, "length", f" a {R} b\n{R}", None, None, "repeated_delimiter"),
    ("response_before_and_after", GENERIC, False, "stop", f"{R} a {T} b {R} c", None, None, "repeated_delimiter"),
    ("thought_repeated", GENERIC, False, "stop", f"{T} a {T} b {R} c", None, None, "repeated_delimiter"),
    ("thought_in_response", GENERIC, True, "stop", f" a {R} b {T} c", None, None, "repeated_delimiter"),
    ("prefill_written_again", GENERIC, True, "stop", f" {T} a {R} b", None, None, "repeated_delimiter"),
    ("prompt_echoed", GENERIC, False, "stop", f"Write {T} and {R}. {T} a {R} b", None, None, "repeated_delimiter"),
    ("empty_thought", GENERIC, False, "stop", f"{T} \n{R} yes", None, None, "empty_thought"),
    ("empty_thought_prefilled", GENERIC, True, "stop", f"{R} yes", None, None, "empty_thought"),
    ("empty_response", GENERIC, True, "stop", f" hm {R}", None, None, "empty_response"),
    ("white_space_response", GENERIC, True, "length", f" hm {R} \n\t", None, None, "empty_response"),
    ("nothing", GENERIC, True, "stop", "", None, None, "no_response_delimiter"),
    ("specific", SPECIFIC, False, "stop", "draft: no. better: yes\n<R>yes", "draft: no. better: yes", "yes", OK),
    ("specific_one_line", SPECIFIC, False, "stop", "hm <R> yes", "hm", "yes", OK),
    ("specific_truncated", SPECIFIC, False, "length", "draft: no. bet", None, None, "thought_truncated"),
    ("specific_missing", SPECIFIC, False, "stop", "yes", None, None, "no_response_delimiter"),
    ("specific_empty_thought", SPECIFIC, False, "stop", "<R> yes", None, None, "empty_thought"),
    ("specific_repeated", SPECIFIC, False, "stop", 'I write "<R>". hm <R> yes', None, None, "repeated_delimiter"),
    ("specific_put_together_by_the_cut", SPECIFIC, False, "stop", "a <R<R>> b", "a <R", "> b", OK),
    ("direct", DIRECT, False, "stop", " yes\n", None, "yes", OK),
    ("direct_truncated", DIRECT, False, "length", "yes and", None, "yes and", OK),
    ("direct_with_delimiters", DIRECT, False, "stop", f"{T} a {R} b", None, f"{T} a {R} b", OK),
    ("direct_empty", DIRECT, False, "stop", " \n", None, None, "empty_response"),
]


@pytest.mark.parametrize(
    ("form", "is_prefilled", "finish_reason", "completion", "thought", "response", "error"),
    [pytest.param(*case[1:], id=case[0]) for case in CASES],
)
def test_split(
    form: ThoughtFormat,
    is_prefilled: bool,
    finish_reason: str,
    completion: str,
    thought: str | None,
    response: str | None,
    error: str | None,
) -> None:
    found = form.split(completion, is_prefilled=is_prefilled, finish_reason=finish_reason)
    assert found[:3] == (thought, response, error)
    if error is not None:
        assert found == Split(None, None, error)
    else:
        assert completion[slice(*found.thought_span)].strip() == (thought or "")
        assert completion[slice(*found.response_span)].strip() == response


words = st.text(alphabet="xyz \n", min_size=1).filter(str.strip)


@given(words.map(str.upper), words, st.integers(min_value=0), st.booleans(), st.sampled_from([GENERIC, SPECIFIC]))
def test_response_of_a_cut_completion_never_holds_the_thought(
    thought: str, response: str, cut: int, is_prefilled: bool, form: ThoughtFormat
) -> None:
    opening = "" if is_prefilled else form.thought_delimiter or ""
    whole = f"{opening}{thought}{form.response_delimiter}{response}"
    cut_off = whole[: cut % (len(whole) + 1)]
    found = form.split(cut_off, is_prefilled=is_prefilled, finish_reason="length")
    visible = cut_off.removeprefix(f"{opening}{thought}{form.response_delimiter}").strip()
    has_response = f"{form.response_delimiter}" in cut_off and visible != ""
    assert found.response == (visible if has_response else None)
    assert found.thought == (thought.strip() if has_response else None)


pieces = st.lists(st.sampled_from([T, R, "<R>", "<R", ">", "a", " b ", "\n", ""]), max_size=8).map("".join)


@given(pieces, st.booleans(), st.sampled_from(["stop", "length"]), st.sampled_from([GENERIC, SPECIFIC, DIRECT]))
def test_either_a_clean_response_or_a_reason(
    completion: str, is_prefilled: bool, finish_reason: str, form: ThoughtFormat
) -> None:
    found = form.split(completion, is_prefilled=is_prefilled, finish_reason=finish_reason)
    assert (found.response is None) != (found.error is None)
    if found.response is not None and form.has_thought:
        assert found.thought and found.thought_span[1] < found.response_span[0]
        for delimiter in filter(None, (form.thought_delimiter, form.response_delimiter)):
            assert delimiter not in found.thought and delimiter not in found.response


@pytest.mark.parametrize(
    "instruction",
    ["{instruction}", "{", "}", "{0} {x!r} %s", "\\1 \\g<0> $1", "ends with <R>", f"{T} {R}", "naïve 🙂"],
)
def test_instruction_reaches_the_user_turn_as_it_is(instruction: str) -> None:
    assert SPECIFIC.user_turn(instruction) == f"Think, then <R>. Query: {instruction}"
    assert DIRECT.user_turn(instruction) == instruction


@pytest.mark.parametrize(
    ("enforce", "prefill", "switch"), [("none", None, None), ("prefill", T, None), ("switch", T, f"\n\n{R}\n")]
)
def test_what_is_enforced(enforce: Any, prefill: str | None, switch: str | None) -> None:
    form = ThoughtFormat("{instruction}", T, R, enforce)
    assert (form.prefill, form.switch) == (prefill, switch)


def test_direct_baseline_has_no_thought_and_nothing_enforced() -> None:
    assert (DIRECT.has_thought, DIRECT.prefill, DIRECT.switch) == (False, None, None)


# --- counting tokens --------------------------------------------------------------------------------------------


class FakeDecoder(Decoder):
    """Has tokens of given lengths."""

    def __init__(self, lengths: Sequence[int]) -> None:
        self.lengths = lengths

    def prefix_lengths(self, token_ids: Sequence[int]) -> Callable[[int], int]:
        return lambda stop: sum(self.lengths[token] for token in token_ids[:stop])


@pytest.mark.parametrize(
    ("thought", "response"),
    [
        pytest.param(" I should count the legs.", " An ant has six legs.", id="words"),
        pytest.param("a", "b", id="single_letters"),
        pytest.param(" 1 + 1 = 2\n\n", "\n2\n", id="white_space"),
        pytest.param(" naïve café", " déjà vu", id="accents"),
        pytest.param(" 🙂 smiles", " 🙂 too", id="emoji_at_the_start"),
        pytest.param(" smiles 🙂", " too 🙂", id="emoji_at_the_end"),
        pytest.param(" 我想", " 六条腿", id="chinese"),
    ],
)
def test_tokens_of_each_part_are_counted_as_they_were_tokenized(thought: str, response: str, tokenizer: Any) -> None:
    parts = [tokenizer.encode(text, add_special_tokens=False) for text in (thought, f"\n{R}", response)]
    decode = Decoder(tokenizer)
    ids = [token for part in parts for token in part]
    text = decode(ids)
    assert text == f"{thought}\n{R}{response}"
    response_span = (len(text) - len(response), len(text))
    assert num_tokens_within(ids, (0, len(thought)), decode=decode) == len(parts[0])
    assert num_tokens_within(ids, response_span, decode=decode) == len(parts[2])


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        pytest.param((0, 6), 3, id="all"),
        pytest.param((0, 2), 1, id="first"),
        pytest.param((2, 6), 2, id="rest"),
        pytest.param((0, 3), 2, id="straddling_token_belongs_where_it_starts"),
        pytest.param((3, 6), 1, id="and_not_where_it_ends"),
        pytest.param((3, 3), 0, id="empty"),
        pytest.param((0, 0), 0, id="empty_at_start"),
    ],
)
def test_token_that_straddles_the_edge(span: tuple[int, int], expected: int) -> None:
    assert num_tokens_within([0, 1, 2], span, decode=FakeDecoder([2, 2, 2])) == expected


@given(st.lists(st.integers(1, 4), max_size=12), st.data())
def test_neighbouring_spans_add_up(lengths: list[int], data: st.DataObject) -> None:
    edge = data.draw(st.integers(0, sum(lengths)))

    def count(span: tuple[int, int]) -> int:
        return num_tokens_within(range(len(lengths)), span, decode=FakeDecoder(lengths))

    assert count((0, edge)) + count((edge, sum(lengths))) == len(lengths)
