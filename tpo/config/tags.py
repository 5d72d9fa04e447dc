"""The tags that models put around a thought, in one table, and where a text's last thought ends.

A model trained to think writes its thought between two tags, or the chat template has written the first of them into
the prompt. What stands between them is no answer: at first A may look far better.
"""

import re
from bisect import bisect_left
from collections.abc import Container
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple


@dataclass(frozen=True)
class Tags:
    r"""What stands around a model's own thoughts.

    Attributes:
        opening: Before a thought, as it is looked for in a completion.
        closing: Between thought and response.
        opening_text: Before a thought, with its white space: "<think>\n".
        switch_text: Between thought and response, with its white space: "\n</think>\n\n".
    """

    opening: str
    closing: str
    opening_text: str
    switch_text: str

    def __str__(self) -> str:
        """Return both tags in one line, for people."""
        return " ... ".join(" ".join(tag.split()) for tag in (self.opening, self.closing))


THOUGHT_TAGS = (
    # Qwen3, DeepSeek-R1, SmolLM3, Nemotron, GLM, LFM2 and most others
    Tags("<think>", "</think>", "<think>\n", "\n</think>\n\n"),
    Tags("<|channel>thought", "<channel|>", "<|channel>thought\n", "\n<channel|>"),  # Gemma 4
    Tags("<|START_THINKING|>", "<|END_THINKING|>", "<|START_THINKING|>", "<|END_THINKING|>"),  # Command A
    Tags("[THINK]", "[/THINK]", "[THINK]", "[/THINK]"),  # Magistral
    Tags("<seed:think>", "</seed:think>", "<seed:think>", "</seed:think>"),  # Seed-OSS
    Tags("◁think▷", "◁/think▷", "◁think▷", "◁/think▷"),  # Kimi-VL
    # Sky-T1
    Tags("<|begin_of_thought|>", "<|end_of_thought|>", "<|begin_of_thought|>\n\n", "\n\n<|end_of_thought|>\n\n"),
    Tags("<thought>", "</thought>", "<thought>\n", "\n</thought>\n\n"),  # EXAONE Deep
    Tags("<reasoning>", "</reasoning>", "<reasoning>\n", "\n</reasoning>\n\n"),
    Tags("<thinking>", "</thinking>", "<thinking>\n", "\n</thinking>\n\n"),
    # gpt-oss: further messages of the same turn may stand between the analysis and what is said to the user.
    *(
        Tags(opening, "<|channel|>final<|message|>", opening, "<|end|><|start|>assistant<|channel|>final<|message|>")
        for opening in ("<|channel|>analysis<|message|>", "<|channel|>commentary<|message|>")
    ),
    Tags(  # Granite 3.2: the paper's own
        "Here is my thought process:",
        "Here is my response:",
        "Here is my thought process:\n",
        "\n\nHere is my response:\n",
    ),
)

# Around an answer, where a template names them without showing where they stand: Granite 3.3, Cohere.
ANSWER_TAGS = (("<response>", "</response>"), ("<answer>", "</answer>"), ("<|START_RESPONSE|>", "<|END_RESPONSE|>"))

_CLOSED_BY = {tags.opening.lower(): tags.closing.lower() for tags in THOUGHT_TAGS}
_CLOSINGS = frozenset(_CLOSED_BY.values())
_TAG = re.compile(
    "|".join(re.escape(tag) for tag in sorted({*_CLOSED_BY, *_CLOSINGS}, key=len, reverse=True)), re.IGNORECASE
)
_QUOTES = "\"'`“”‘’«»"  # around a tag that is spoken of


class LastThought(NamedTuple):
    """Where the last thought of a text ends: `stop` is 0 in a text without one.

    `open_at` is where a thought begins that is not closed, None where there is none.
    """

    stop: int
    open_at: int | None


NO_THOUGHT = LastThought(0, None)


def last_thought(text: str) -> LastThought:
    """Return where the answer begins that follows the thoughts of a text.

    A thought is closed by its own tag alone. A closing tag without an opening one closes too, since the template may
    have opened the thought. Case makes no difference; a tag in quotation marks or backticks is spoken of, not used.
    """
    stop, open_at, expected = 0, None, ""
    for match in _TAG.finditer(text):
        tag, around = match[0].lower(), (text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1])
        if all(mark and mark in _QUOTES for mark in around):
            continue
        if tag in _CLOSINGS and expected in ("", tag):
            stop, open_at, expected = match.end(), None, ""
        elif tag in _CLOSED_BY and open_at is None:
            open_at, expected = match.start(), _CLOSED_BY[tag]
    return LastThought(stop, open_at)


class UsedTag(NamedTuple):
    """A tag of the table in a text, as character offsets; `name` is the tag as `name_of` writes it."""

    start: int
    stop: int
    name: str


def used_tags(text: str, *, spared: Container[str] = ()) -> list[UsedTag]:
    """Return the tags of the table that a text uses, whichever model wrote it, in order.

    They count in upper and lower case, in full width, with white space, backslashes or a bar within: `< think >`,
    `＜think＞`, `<|think|>`. One in quotation marks or in code is spoken of. The tags that are sentences are prose.

    Args:
        text: What a model wrote.
        spared: Names of tags that are left out, as `name_of` writes them.
    """
    plain = text.translate(_NARROW)
    found = [UsedTag(*match.span(), name_of(match[0])) for match in _pattern(_MARKUP).finditer(plain)]
    if not found:
        return []
    code = [match.span() for match in _CODE.finditer(text)]

    def is_spoken_of(tag: UsedTag) -> bool:
        around = text[tag.start - 1 : tag.start], text[tag.stop : tag.stop + 1]
        before = bisect_left(code, (tag.start, 0))
        is_code = before > 0 and tag.stop < code[before - 1][1]
        return is_code or all(mark and mark in _QUOTES for mark in around)

    return [tag for tag in found if tag.name not in spared and not is_spoken_of(tag)]


def closing_of(name: str) -> str | None:
    """Return the name of the tag that closes a thought which this one opens; None where it opens none."""
    return _CLOSED_BY_NAME.get(name)


def name_of(tag: str) -> str:
    """Return a tag without what makes no difference: `<think>` for `< |THINK| >`."""
    return re.sub(rf"{_BETWEEN}|\|", "", tag.translate(_NARROW)).lower()


def holds_any(text: str, *tags: str) -> bool:
    """Whether a text holds one of these tags, as `used_tags` finds them, but also where it is spoken of."""
    return bool(tags) and _pattern(tags).search(text.translate(_NARROW)) is not None


_BETWEEN = r"[\s\\\u200b\u2060]"
_NARROW = {wide: wide - 0xFEE0 for wide in range(0xFF01, 0xFF5F)}  # one character for one: offsets stay
_MARKUP = tuple(
    sorted(
        {tag for tags in THOUGHT_TAGS for tag in (tags.opening, tags.closing) if not tag[0].isalpha()},
        key=lambda tag: (-len(tag), tag),
    )
)
_CODE = re.compile(r"^[ \t]*(```|~~~).*?(?:^[ \t]*\1|\Z)|`[^`\n]+`", re.DOTALL | re.MULTILINE)
_CLOSED_BY_NAME = {name_of(tags.opening): name_of(tags.closing) for tags in THOUGHT_TAGS}


@cache
def _pattern(tags: tuple[str, ...]) -> re.Pattern[str]:
    """Return a pattern of tags, with what makes no difference within them."""
    return re.compile("|".join(map(_loosely, tags)), re.IGNORECASE)


def _loosely(tag: str) -> str:
    gap = _BETWEEN + "{0,8}"
    bar = rf"\|?{gap}" if re.fullmatch(r"</?\w+>", tag) else ""  # <|think|>, </|think|>, <|/think|>
    pieces = re.findall(r"\w+|\s+|[^\w\s]", tag.translate(_NARROW))
    written = [r"\s+" if piece.isspace() else re.escape(piece) for piece in pieces]
    return f"{gap}{bar}".join(written)
