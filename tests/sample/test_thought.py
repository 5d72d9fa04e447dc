from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo.config.delimiter import holds
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
    # Markup around a delimiter belongs to it.
    ("bold", GENERIC, True, "stop", f" hm\n**{R}** ok", "hm", "ok", OK),
    ("bold_closed_after_a_space", GENERIC, True, "stop", f" hm\n**{R} ** ok", "hm", "ok", OK),
    ("bold_both", GENERIC, False, "stop", f"**{T}** hm\n\n**{R}**\n\nok", "hm", "ok", OK),
    ("heading", GENERIC, False, "stop", f"# {T}\nhm\n\n### {R}\nok", "hm", "ok", OK),
    ("heading_in_bold", GENERIC, True, "stop", f" hm\n### **{R}**\nok", "hm", "ok", OK),
    ("quoted", GENERIC, True, "stop", f' hm "{R}" ok', "hm", "ok", OK),
    ("quoted_with_curly_marks", GENERIC, True, "stop", f" hm “{R}” ok", "hm", "ok", OK),
    ("bold_in_quotes", GENERIC, True, "stop", f' hm "**{R}**" ok', "hm", "ok", OK),
    ("quoted_before_a_colon", GENERIC, True, "stop", f' hm "{R}": ok', "hm", "ok", OK),
    ("another_colon", GENERIC, True, "stop", f" hm {R}: ok", "hm", "ok", OK),
    ("html", GENERIC, True, "stop", f" hm <b>{R}</b> ok", "hm", "ok", OK),
    ("heading_in_html", GENERIC, True, "stop", f" hm\n<h2>{R}</h2>\nok", "hm", "ok", OK),
    ("html_of_the_response", GENERIC, True, "stop", f" hm {R} <b>ok</b>", "hm", "<b>ok</b>", OK),
    ("brackets", GENERIC, True, "stop", f" hm\n[{R}]\n(ok)", "hm", "(ok)", OK),
    ("escaped", GENERIC, True, "stop", f" hm\n\\*\\*{R}\\*\\*\nok", "hm", "ok", OK),
    ("heading_on_both_sides", GENERIC, True, "stop", f" hm\n### {R} ###\nok", "hm", "ok", OK),
    ("stars_left_over", GENERIC, True, "stop", f" hm\n{R} **\nok", "hm", "ok", OK),
    ("list_of_the_response", GENERIC, True, "stop", f" hm\n{R} * ok\n* ok", "hm", "* ok\n* ok", OK),
    ("underlined", GENERIC, True, "stop", f" hm\n{R}\n-----\nok", "hm", "ok", OK),
    ("between_rules", GENERIC, True, "stop", f" hm\n***\n{R}\n***\nok", "hm\n***", "***\nok", OK),
    ("specific_closed", SPECIFIC, False, "stop", "hm <R>ok</R>\n", "hm", "ok", OK),
    ("specific_closed_within", SPECIFIC, False, "stop", "hm <R>a </R> b", "hm", "a </R> b", OK),
    ("specific_closed_and_empty", SPECIFIC, False, "stop", "hm <R></R>", None, None, "empty_response"),
    ("specific_before_a_colon", SPECIFIC, False, "stop", "hm **<R>**: ok", "hm", "ok", OK),
    ("specific_before_a_smile", SPECIFIC, False, "stop", "hm <R>:-)", "hm", ":-)", OK),
    ("markup_of_the_response", GENERIC, True, "stop", f" hm {R} **ok** then", "hm", "**ok** then", OK),
    ("markup_of_the_thought", GENERIC, True, "stop", f" so **hm**{R} ok", "so **hm**", "ok", OK),
    ("markup_of_both", GENERIC, True, "stop", f" **hm** {R} **ok**", "**hm**", "**ok**", OK),
    ("quoted_response", GENERIC, True, "stop", f' "hm" {R} "ok"', '"hm"', '"ok"', OK),
    ("nothing_but_markup", GENERIC, True, "stop", f" hm\n**{R}**", None, None, "empty_response"),
    ("no_thought_but_markup", GENERIC, True, "stop", f"\n**{R}** ok", None, None, "empty_thought"),
    # What resembles a delimiter, beside the real one.
    ("contracted_before", GENERIC, True, "stop", f" a\nHere's my response: b\n{R} c", None, None, "repeated_delimiter"),
    ("contracted_after", GENERIC, True, "stop", f" a\n{R} b\nHere's my response: c", None, None, "repeated_delimiter"),
    (
        "thought_contracted",
        GENERIC,
        True,
        "stop",
        f" a {R} Here’s my thought process: b",
        None,
        None,
        "repeated_delimiter",
    ),
    ("lower_case_beside", GENERIC, True, "stop", f" a {R} b. So, {R.lower()} c", None, None, "repeated_delimiter"),
    (
        "named_in_quotes",
        GENERIC,
        True,
        "stop",
        f' a {R} as asked, "Here is my response" b',
        None,
        None,
        "repeated_delimiter",
    ),
    ("near_in_preamble", GENERIC, False, "stop", f"HERE IS MY RESPONSE: {T} a {R} b", None, None, "repeated_delimiter"),
    ("cut_off_and_appended", GENERIC, True, "stop", f" a\n{R[:-1]}\n\n{R}\nb", None, None, "repeated_delimiter"),
    # Nothing but what resembles it: the exact one is served, so only the exact one separates.
    ("only_contracted", GENERIC, True, "stop", " hm\nHere's my response: yes", None, None, "no_response_delimiter"),
    ("only_in_bold", GENERIC, True, "stop", " hm **Here is my response**: yes", None, None, "no_response_delimiter"),
    ("only_lower_case_cut", GENERIC, True, "length", f" hm {R.lower()} yes", None, None, "thought_truncated"),
    (
        "thought_only_contracted",
        GENERIC,
        False,
        "stop",
        f"Here's my thought process: a {R} b",
        None,
        None,
        "no_thought_delimiter",
    ),
    # A short delimiter resembles too much.
    (
        "specific_and_html",
        SPECIFIC,
        False,
        "stop",
        "hm <R> a <r> b </R> if x < R > y, R: z",
        "hm",
        "a <r> b </R> if x < R > y, R: z",
        OK,
    ),
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


@pytest.mark.parametrize(
    ("delimiter", "text", "expected"),
    [
        (R, "here is my response:", True),
        (R, "HERE IS MY RESPONSE:", True),
        (R, "Here's my response:", True),
        (R, "Here’s my response:", True),
        (R, "Heres my response:", True),
        (R, "Here is my response :", True),
        (R, "Here  is\nmy response:", True),
        (R, "Hereis myresponse:", True),
        (R, "Here is my response：", True),
        (R, "Here is my **response**:", True),
        (R, "**Here is my response**: b", True),
        (R, "_here_is_my_response_: b", True),
        (R, "## here is my response\nb", True),
        (R, "Here is my response.\nb", True),
        (R, 'I write "Here is my response..." first', True),
        (R, "Sure, here is my response: b", True),
        (R, "so (here is my response:) b", True),
        (R, "Here is my response - b", True),
        (R, "Here is my response — b", True),
        (R, "Here is my response; b", True),
        (R, "Here is my response! b", True),
        (R, "Here is my response. b", True),
        (R, "(Here is my response) b", True),
        (R, "<b>Here is my response</b> b", True),
        (R, "HERE IS MY RESPONSE b", True),
        (R, "Here is my final response: b", True),
        (R, "Ｈｅｒｅ is my response： b", True),
        (R, "Here\u200b is my\u00a0response: b", True),
        (T, "Here is my thought-process: b", True),
        (R, "Here is my final response to you", False),
        (R, "Here is my response-time: b", False),
        (R, "HERE IS MY RESPONSES", False),
        ("Here's my answer:", "Here is my answer:", True),
        ("Here’s my answer:", "here's my answer:", True),
        (R, "Here is my response to your letter: b", False),
        (R, "Here is my response, in short", False),
        (R, "Here is my response's reason", False),
        (R, "Here are my responses:", False),
        (R, "There is my response:", False),
        (R, "Where is my response?", False),
        (R, "Here is your response:", False),
        (R, "my response:", False),
        ("Response:", "a\nresponse: b", True),
        ("Response:", "a\n**RESPONSE**: b", True),
        ("Response:", "the response: b", False),
        ("Response:", "response b", False),
        ("<R>", "a <R> b", True),
        ("<R>", "<r> < R > R: r: **R**: </R>", False),
        ("---", "a -- - b", False),
    ],
)
def test_what_resembles_a_delimiter(delimiter: str, text: str, expected: bool) -> None:
    assert holds(delimiter, text) is expected


@st.composite
def near(draw: st.DrawFn) -> str:
    """One of the generic delimiters as a model may write it."""
    last = draw(st.sampled_from(["response", "thought process"]))
    words = draw(st.sampled_from(["Here is my", "Here's my", "Here’s my", "Heres my"])).split() + last.split()
    space = st.sampled_from([" ", "  ", "\n", " *", "_", "** "])
    text = words[0] + "".join(draw(space) + word for word in words[1:])
    text = draw(st.sampled_from([str, str.lower, str.upper, str.title]))(text)
    opened, closed = draw(st.sampled_from([("", ""), ("**", "**"), ('"', '"'), ("“", "”"), ("### ", ""), ("`", "`")]))
    return opened + text + draw(st.sampled_from([":" + closed, closed + ":", closed + " :", closed + "\n"]))


@given(near(), st.sampled_from(["head", "thought", "response"]), words, words)
def test_what_resembles_a_delimiter_never_stands_beside_one(near: str, where: str, thought: str, response: str) -> None:
    head = ""
    match where:
        case "head":
            head = f"{near} "
        case "thought":
            thought = f"{thought} {near} a"
        case _:
            response = f"{response} {near} a"
    completion = f"{head}{T} {thought}\n{R} {response}"
    assert GENERIC.split(completion, is_prefilled=False, finish_reason="stop").error == "repeated_delimiter"


@given(
    words,
    words,
    st.sampled_from([("**", "**"), ("_", "_"), ("***", "***"), ('"', '"'), ("“", "”"), ("«", "»"), ('**"', '"**')]),
    st.sampled_from(["", "# ", "### ", "######"]),
    st.sampled_from([GENERIC, SPECIFIC]),
)
def test_markup_around_a_delimiter_changes_nothing(
    thought: str, response: str, marks: tuple[str, str], heading: str, form: ThoughtFormat
) -> None:
    opened, closed = marks
    plain = f"{form.thought_delimiter or ''}\n{thought}\n{form.response_delimiter} {response}"
    marked = plain
    for delimiter in filter(None, (form.thought_delimiter, form.response_delimiter)):
        marked = marked.replace(delimiter, f"{heading}{opened}{delimiter}{closed}")
    expected = form.split(plain, is_prefilled=False, finish_reason="stop")
    found = form.split(marked, is_prefilled=False, finish_reason="stop")
    assert found[:3] == expected[:3]
    if found.error is None:
        assert marked[slice(*found.thought_span)] == found.thought
        assert marked[slice(*found.response_span)] == found.response


pieces = st.lists(
    st.one_of(st.sampled_from([T, R, "<R>", "<R", ">", "a", " b ", "\n", "", "**", '"', "# "]), near()), max_size=8
).map("".join)


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
            assert not holds(delimiter, found.thought) and not holds(delimiter, found.response)


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
