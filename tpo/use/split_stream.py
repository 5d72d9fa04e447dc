"""Thought and response of a completion while it grows, of which nothing is shown that is not certain yet.

A completion is split when it has ended (`tpo.model.asked`). Whoever reads along wants the response's first words before
its last: so what a growing text certainly holds of each is told apart here, and the rest is held back. That is a tail
that may become a delimiter, a tag of a thought or of an answer's frame, or what resembles a delimiter, and white space
at the end.
"""

import re
from collections.abc import Sequence
from functools import cache
from typing import NamedTuple

from tpo.config.delimiter import FEWEST_LETTERS, MARKS
from tpo.config.thought import Split, ThoughtFormat
from tpo.model.asked import Asked

WINDOW = 400  # characters in which a delimiter, with markup around it, is looked for again
_PLAIN = re.compile(rf"[^\s{re.escape(MARKS)}:：]")  # ends the marks that may still belong to the delimiter before
_OPENED = re.compile(rf"(?<!\S)[{re.escape(MARKS)}]+\Z")  # may belong to a delimiter that follows
_TAG_BEGUN = re.compile(r"[<＜\[◁][^<＜\[◁>＞\]▷\n]{0,60}\Z")  # tags of all models are looked for (`tpo.config.tags`)


class Delta(NamedTuple):
    """What has become certain of thought and response."""

    thought: str = ""
    response: str = ""


class SplitStream:
    """The parts of one completion; `thought` and `response` are what was given out of them so far.

    Attributes:
        thought: Without white space at its ends.
        response: Without white space at its ends.
        is_over: Whether no more of the response comes, whatever follows: it holds one of the stop strings, or a
            delimiter again, after which the text may be a thought.
        is_ambiguous: Whether it is over for the second reason.
    """

    def __init__(self, asked: Asked, *, stop: Sequence[str] = ()) -> None:
        """Start with an empty completion.

        Args:
            asked: How the model was asked.
            stop: Strings that end a response, and are no part of it.
        """
        self._asked, self._stop = asked, [text for text in stop if text]
        # What a class of the user's own makes of a text without its end is not known.
        self._is_told_late = type(asked.form) is not ThoughtFormat
        self._start: int | None = None  # of the response, in the completion
        self._checked = 0  # no delimiter stands again before this character
        self.thought, self.response = "", ""
        self.is_over, self.is_ambiguous = False, False

    def feed(self, text: str) -> Delta:
        """Return what is new, given all of the completion so far."""
        if self._is_told_late or self.is_over:
            return Delta()
        seen = _TAG_BEGUN.sub("", text[: len(text) - held(text, self._needles, self._phrases)])
        if self._start is None:
            return self._look_for_response(seen)
        return Delta(response=self._more_response(seen))

    def finish(self, text: str, split: Split) -> Delta:
        """Return the rest, given the whole completion and what it was split into."""
        if self.is_over:
            return Delta()
        self.is_over = True
        if split.response is None and self._start is None:  # no response: for all that is known, it is a thought
            thought = self._thought_so_far(text)
            return Delta(thought if self.thought else self._rest("thought", text.strip()))
        if split.response is None or not split.response.startswith(self.response):
            self.is_ambiguous = True
            return Delta()
        thought = "" if split.thought is None else self._rest("thought", split.thought)
        written = text[split.response_span[0] :]
        end = self._stop_in(written)
        return Delta(thought, self._rest("response", split.response if end is None else written[:end].strip()))

    def _look_for_response(self, seen: str) -> Delta:
        if self._may_become_thought(seen):
            return Delta()
        split = self._asked.split(seen, finish_reason="length")
        if split.response is None or not _PLAIN.search(split.response):
            return Delta(thought=self._thought_so_far(seen))
        thought = "" if split.thought is None else self._rest("thought", split.thought)
        self._start = self._checked = split.response_span[0]
        return Delta(thought, self._more_response(seen))

    def _more_response(self, seen: str) -> str:
        assert self._start is not None
        # From the start of a line: some delimiters are told by that.
        first = max(self._start, seen.rfind("\n", 0, max(0, self._checked - WINDOW)) + 1)
        if self._asked.split_response(seen[first:]).error == "repeated_delimiter":
            self.is_over = self.is_ambiguous = True
            return ""
        self._checked = len(seen)
        response = seen[self._start :]
        end = self._stop_in(response)  # in the text as it is: stop strings may end in white space
        if end is not None:
            self.is_over = True
            return self._rest("response", response[:end].rstrip())
        response = _OPENED.sub("", response.rstrip()).rstrip()
        response = response.removesuffix(self._asked.conventions.answer_tail.strip()).rstrip()
        return self._rest("response", response)

    def _stop_in(self, response: str) -> int | None:
        """Return where the first stop string begins, None where there is none."""
        return min((place for place in map(response.find, self._stop) if place >= 0), default=None)

    def _rest(self, name: str, whole: str) -> str:
        """Return what `whole` has more than was given out of it, which then is given out."""
        told = getattr(self, name)
        if not whole.startswith(told):
            return ""
        setattr(self, name, whole)
        return whole[len(told) :]

    def _may_become_thought(self, seen: str) -> bool:
        """Whether all of a text may yet turn out to be a thought: the model may close one that it has not opened."""
        asked, tags = self._asked, self._asked.conventions.tags
        if tags is None or not asked.is_native or asked.is_open or asked.start.state == "empty":
            return False
        return tags.opening not in seen and tags.closing not in seen

    def _thought_so_far(self, seen: str) -> str:
        """Return what is new of the thought, which is what it would be if it ended here."""
        delimiter = self._asked.response_delimiter
        if delimiter is None:
            return ""
        told = seen.rstrip(f"{MARKS} \t\n")  # marks before a delimiter belong to it
        split = self._asked.split(f"{told}\n\n{delimiter}\nx", finish_reason="stop")
        return "" if split.thought is None else self._rest("thought", split.thought)

    @property
    def _needles(self) -> tuple[str, ...]:
        """What is looked for as it stands."""
        known, form = self._asked.conventions, self._asked.form
        own = () if known.tags is None else (known.tags.opening, known.tags.closing)
        frame = (known.answer_header.strip(), known.answer_tail.strip())
        return tuple(
            text for text in (*own, *frame, form.thought_delimiter, form.response_delimiter, *self._stop) if text
        )

    @property
    def _phrases(self) -> tuple[str, ...]:
        """What something may resemble."""
        form = self._asked.form
        return tuple(text for text in (form.thought_delimiter, form.response_delimiter) if text)


def held(text: str, needles: Sequence[str], phrases: Sequence[str]) -> int:
    """Return how many characters at the end of a text may become, or belong to, what is looked for.

    Args:
        text: What is there so far.
        needles: Looked for as they stand, in upper or lower case.
        phrases: Delimiters, which other spellings resemble (`tpo.config.delimiter`): their letters are compared,
            whatever stands between them.
    """
    found, folded = len(text) - len(text.rstrip("\ufffd")), text.casefold()
    for needle in needles:
        wanted = needle.casefold()
        for length in range(min(len(wanted) - 1, len(folded)), found, -1):
            if folded.endswith(wanted[:length]):
                found = length
                break
    for phrase in phrases:
        pattern = _beginning_of(phrase)
        match = pattern and pattern.search(text, max(0, len(text) - WINDOW))
        if match:
            found = max(found, len(text) - match.start())
    return min(found, len(text))


@cache
def _beginning_of(phrase: str) -> re.Pattern[str] | None:
    """Return a pattern of a text's end that may become a phrase, or has all of its letters and may yet go on."""
    words = re.findall(r"\w+", re.sub(r"['’‘]s\b", " is", phrase))
    if sum(map(len, words)) < FEWEST_LETTERS:
        return None
    spellings = {"".join(words), "".join("s" if word.lower() == "is" else word for word in words)}
    return re.compile(rf"(?<![^\W_])(?:{'|'.join(map(_nested, sorted(spellings)))})[\W_]*\Z", re.IGNORECASE)


def _nested(letters: str) -> str:
    """Return a pattern of the first letters of a word, one at least, with what is no letter between them."""
    pattern = ""
    for letter in reversed(letters[1:]):
        pattern = rf"(?:[\W_]*{re.escape(letter)}{pattern})?"
    return re.escape(letters[0]) + pattern
