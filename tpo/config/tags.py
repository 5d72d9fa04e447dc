"""The tags that models put around a thought, in one table, and where a text's last thought ends.

A model trained to think writes its thought between two tags, or the chat template has written the first of them into
the prompt. What stands between them is no answer: at first A may look far better.
"""

import re
from dataclasses import dataclass
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
