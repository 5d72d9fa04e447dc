"""What streams of thought and response, against the split of the whole completion."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from tpo.config.compose import CONF
from tpo.config.tags import THOUGHT_TAGS
from tpo.config.thought import ThoughtFormat
from tpo.model.asked import Asked, ask
from tpo.model.conventions import Conventions, Start
from tpo.use.split_stream import SplitStream, held

THINK = THOUGHT_TAGS[0]
PLAIN = Conventions()
#: The model opens its thoughts itself, as Qwen3 does; an R1 distill's template opens them; thinking off closes them.
OPENS = Conventions(
    tags=THINK, is_tagged_by_template=True, default=Start(), on=Start(), off=Start({"enable_thinking": False}, "empty")
)
IS_OPENED = Conventions(
    tags=THINK, is_tagged_by_template=True, default=Start({}, "open"), on=Start({}, "open"), off=None
)
FRAMED = Conventions(
    tags=THINK,
    is_tagged_by_template=True,
    on=Start(),
    off=Start({"enable_thinking": False}, "empty"),
    answer_header="<answer>\n",
    answer_tail="\n</answer>",
)


def form(name: str, **changes: Any) -> ThoughtFormat:
    keys = OmegaConf.to_container(OmegaConf.load(CONF / "thought" / f"{name}.yaml"))
    assert isinstance(keys, dict)
    del keys["defaults"]
    return ThoughtFormat(**{**{str(key): value for key, value in keys.items()}, **changes})


ASKED = {
    "generic, prefilled": ask(form("generic"), PLAIN),
    "generic": ask(form("generic", enforce="none"), PLAIN),
    "generic of a model that thinks": ask(form("generic"), OPENS),
    "prefilled": ask(form("prefilled"), PLAIN),
    "specific": ask(form("specific"), PLAIN),
    "think, opened by force": ask(form("think"), OPENS),
    "think": ask(form("think", enforce="none"), OPENS),
    "think, opened by the template": ask(form("think"), IS_OPENED),
    "stripped": ask(form("stripped"), OPENS),
    "stripped, opened by the template": ask(form("stripped"), IS_OPENED),
    "stripped of a model without thoughts": ask(form("stripped"), PLAIN),
    "none": ask(form("none"), PLAIN),
    "think, answers in a frame": ask(form("think"), FRAMED),
    "none, answers in a frame": ask(form("none"), replace(FRAMED, tags=None, on=None, off=Start())),
}


def stream(asked: Asked, text: str, cuts: list[int], *, reason: str = "stop", stop: tuple[str, ...] = ()) -> Any:
    """The parts after a text came in pieces, and all that was given out, which is what a reader has seen."""
    parts, thought, response = SplitStream(asked, stop=stop), "", ""
    for end in [*sorted(cuts), len(text)]:
        delta = parts.feed(text[:end])
        thought, response = thought + delta.thought, response + delta.response
        if parts.is_over:
            return parts, thought, response
    rest = parts.finish(text, asked.split(text, finish_reason=reason))
    return parts, thought + rest.thought, response + rest.response


PIECES = st.sampled_from(
    [
        *("Here is my thought process:", "Here is my response:", "**Here is my response:**", "here's my response:"),
        *("<thinking>", "</thinking>", "[THINK]", "＜think＞", "< /think >", "<answer>", "</answer>", "<div>"),
        *("Here is my", " response", "Here", "<R>", "<", "R", ">", "<think>", "</think>", "<th", "ink>", "</", "**"),
        *("\n", " ", "  ", "\n\n", ":", "#", '"', "word", "a long thought.", "Yes", "is", "ß", "é", "Herein"),
    ]
)
TEXTS = st.lists(PIECES, max_size=12).map("".join)


@pytest.mark.parametrize("name", ASKED)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_streams_is_the_split_of_the_whole(name: str, data: st.DataObject) -> None:
    """Wherever a completion is cut: a reader has seen its response, or, where it has none, nothing of a thought."""
    asked, text = ASKED[name], data.draw(TEXTS)
    cuts = data.draw(st.one_of(st.just(list(range(len(text)))), st.lists(st.integers(0, len(text)), max_size=30)))
    reason = data.draw(st.sampled_from(["stop", "length"]))
    split = asked.split(text, finish_reason=reason)
    parts, thought, response = stream(asked, text, cuts, reason=reason)
    assert (parts.thought, parts.response) == (thought, response)
    if parts.is_ambiguous:  # the delimiter came again after the response had begun
        assert split.error is not None
        heads = (asked.split(text[:end], finish_reason=reason).response for end in range(len(text)))
        assert response == "" or any(head is not None and head.startswith(response) for head in heads)
    elif split.response is None:
        assert response == ""
    else:
        assert response == split.response
        assert thought == (split.thought or "")


@pytest.mark.parametrize(
    ("name", "thought", "delimiter"),
    [
        ("generic, prefilled", "I add the two.", "\n\n**Here is my response:**\n"),
        ("generic", "I add the two.", "\n\nHere is my response: "),
        ("prefilled", "I add the two.", "\n\nHere is my response:\n"),
        ("specific", "A draft: five? No.", "\n<R>"),
        ("think, opened by force", "I add the two.", "\n</think>\n\n"),
        ("think", "I add the two.", "\n</think>\n\n"),
        ("think, opened by the template", "I add the two.", "</think>"),
        ("stripped", "I add the two.", "\n</think>\n\n"),
        ("stripped, opened by the template", "I add the two.", "</think>"),
    ],
)
def test_thought_streams_and_then_the_response_letter_by_letter(name: str, thought: str, delimiter: str) -> None:
    asked = ASKED[name]
    opening = {"generic": "Here is my thought process:\n", "think": "<think>\n", "stripped": "<think>\n"}.get(name, "")
    text = f"{opening}{thought}{delimiter}The sum is 4, here."
    parts, seen = SplitStream(asked), []
    for end in range(1, len(text) + 1):
        seen.append(parts.feed(text[:end]))
    first = next(number for number, delta in enumerate(seen) if delta.response)
    assert "".join(delta.thought for delta in seen) == thought
    assert sum(bool(delta.thought) for delta in seen) > 5, "the thought streams"
    assert sum(bool(delta.response) for delta in seen) > 5, "the response streams"
    assert not any(delta.response for delta in seen[: len(text) - len("The sum is 4, here.")])
    assert first <= len(text) - len("The sum is 4, here.") + 1, "the response is not held back for long"
    shown = "".join(delta.response for delta in seen)
    assert "The sum is 4, here.".startswith(shown) and len(shown) > 10


def test_a_thought_that_only_its_end_tells_is_never_shown_as_the_response() -> None:
    """A model that thinks has not opened its thought: all may be one until a closing tag comes, or the end."""
    for name in ("think", "stripped"):
        _, thought, response = stream(ASKED[name], "Let me see.\n</think>\n\nFour.", list(range(30)))
        assert (thought, response) == ("Let me see.", "Four.")
        _, thought, response = stream(ASKED[name], "Four.", list(range(6)))
        assert (thought, response) == ("", "Four.")


@pytest.mark.parametrize("second", ["Here is my response:", "**here is my response**\n", "Here's my response:"])
def test_a_second_delimiter_ends_the_response(second: str) -> None:
    text = f"thinking\nHere is my response: A draft, I think.\n{second} Four."
    parts, _, response = stream(ASKED["prefilled"], text, list(range(len(text))))
    assert parts.is_ambiguous and response == "A draft, I think."


def test_words_that_only_begin_like_a_delimiter_are_given_out() -> None:
    text = "x\nHere is my response: Here is my response to your letter, and here is more."
    _, _, response = stream(ASKED["prefilled"], text, list(range(len(text))))
    assert response == "Here is my response to your letter, and here is more."


def test_stop_strings_end_a_response_and_are_no_part_of_it() -> None:
    text = "x\nHere is my response: one two END three"
    parts, thought, response = stream(ASKED["prefilled"], text, list(range(len(text))), stop=("END", "never"))
    assert (thought, response, parts.is_over, parts.is_ambiguous) == ("x", "one two", True, False)
    _, thought, response = stream(ASKED["prefilled"], f"END {text}", [], stop=("END",))
    assert (thought, response) == ("END x", "one two"), "in a thought they mean nothing"


@pytest.mark.parametrize(
    ("answer", "stop", "response"),
    [
        ("Hello.\nUser: bla", "User: ", "Hello."),
        ("abc END def", "END ", "abc"),
        ("One.\nTwo.", ".\n", "One"),
        ("Hello.\nUser: ", "User: ", "Hello."),
        ("Hello.\nUser:", "User: ", "Hello.\nUser:"),
    ],
)
@pytest.mark.parametrize("is_split", [True, False])
def test_stop_strings_may_end_in_white_space(answer: str, stop: str, response: str, is_split: bool) -> None:
    text = f"x\nHere is my response: {answer}"
    ends = list(range(len(text))) if is_split else []
    assert stream(ASKED["prefilled"], text, ends, stop=(stop,))[2] == response


def test_a_format_of_one_s_own_is_told_at_the_end() -> None:
    class LastLine(ThoughtFormat):
        def split(self, completion: str, *, is_prefilled: bool, finish_reason: str) -> Any:
            start = completion.rindex("\n") + 1
            parts = ThoughtFormat(prompt="{instruction}").split(
                completion[start:], is_prefilled=False, finish_reason=finish_reason
            )
            return parts._replace(thought=completion[:start].strip())

    asked = ask(LastLine(prompt="{instruction}", response_delimiter="\n"), PLAIN)
    parts = SplitStream(asked)
    assert not any(any(parts.feed("a\nb\nc"[:end])) for end in range(6))
    assert parts.finish("a\nb\nc", asked.split("a\nb\nc", finish_reason="stop")) == ("a\nb", "c")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("yes", 0),
        ("yes </th", 4),
        ("yes <", 1),
        ("yes </think>", 0),  # complete: the split knows it
        ("so, Here is", 7),
        ("so, **Here's my", 9),
        ("so, here is my response", 19),
        ("so, here is my response to", 0),
        ("adhere", 0),
        ("half\ufffd", 1),
        ("", 0),
        ("\ufffd\ufffd", 2),
    ],
)
def test_held_is_what_may_become_a_delimiter(text: str, expected: int) -> None:
    assert held(text, ("<think>", "</think>"), ("Here is my response:",)) == expected
    assert 0 <= held("aß", ("ssx",), ()) <= 2


@example("h" * 4000)
@given(st.text(alphabet="here is my*:\n", max_size=600))
@settings(deadline=1000, max_examples=50)
def test_looking_for_delimiters_takes_no_longer_than_the_text(text: str) -> None:
    held(text, ("</think>",), ("Here is my response:",))
