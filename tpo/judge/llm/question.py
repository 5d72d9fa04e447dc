"""Questions to a chat model, their answers, and the protocol of the backends that answer them.

The backends are `local` (vLLM in this process) and `server` (any OpenAI-compatible server). `cache` stores every answer
as soon as it arrives, and `tpo.judge.llm.ask.LLM` asks a backend only what is not in the cache.
"""

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, Protocol

from msgspec import Meta, Struct

log = logging.getLogger(__name__)

FIRST_TOKEN = ""  # in `Question.watch`: the answer's first token, whatever it is
NUM_ALTERNATIVES = 20  # per watched token; the most that OpenAI and, by default, vLLM give
MAX_LOGPROB = 1e-3  # nats: a probability of 1, and what rounding adds to it


@dataclass(frozen=True)
class Question:
    """One chat: what the model is asked, and how its answer is decoded."""

    system: str | None  # None: no system turn, the model's template may add its own
    user: str
    temperature: float  # 0 is greedy
    max_tokens: int  # of the answer
    watch: tuple[str, ...] = ()  # tokens whose alternatives are wanted wherever the answer holds one
    sample: int = 0  # tells several samples of one question apart


class Watched(NamedTuple):
    """A generated token that the question watched for."""

    position: Annotated[int, Meta(ge=0)]  # of its first character in the text, leading spaces excluded
    alternatives: dict[str, float]  # the likeliest tokens in its place, itself included: log-probabilities, nats


class Answer(Struct, frozen=True, forbid_unknown_fields=True):
    """What the model wrote, or why there is nothing of it."""

    text: str
    finish_reason: str  # "stop", or "length" where max_tokens cut it
    num_tokens: Annotated[int, Meta(ge=0)]  # read and written
    watched: tuple[Watched, ...] = ()
    #: Why there is no answer: "too_long" for the model's context; "not_rendered", the template changed the question;
    #: "filtered" by the server; "empty", the model wrote nothing; "unanswered", so did a server that may write
    #: something when it is asked again: `LLM.ask` never yields that.
    error: str | None = None
    has_logprobs: bool = False  # whether log-probabilities came with it, of watched tokens or others

    @property
    def is_cut(self) -> bool:
        """Whether the token limit ended the answer."""
        return self.finish_reason == "length"

    def is_whole(self, question: Question) -> bool:
        """Return whether this is all that the question asked for, so that it may be kept and never asked again."""
        is_ended = self.error is None and (self.is_cut or (self.finish_reason == "stop" and self.text.strip() != ""))
        is_watched = not question.watch or not self.text or self.has_logprobs or bool(self.watched)
        values = (value for entry in self.watched for value in entry.alternatives.values())
        return is_ended and is_watched and all(value <= MAX_LOGPROB for value in values)


TOO_LONG = Answer("", "", 0, error="too_long")
NOT_RENDERED = Answer("", "", 0, error="not_rendered")
FILTERED = Answer("", "", 0, error="filtered")
EMPTY = Answer("", "", 0, error="empty")
UNANSWERED = Answer("", "", 0, error="unanswered")


class Backend(Protocol):
    """Something that answers questions."""

    def identity(self) -> dict[str, Any]:
        """Return what identifies the model in the cache's keys, plain JSON types only."""
        ...

    def stream(self, questions: Iterable[tuple[str, Question]]) -> Iterator[tuple[str, Answer]]:
        """Yield (key, answer) for each question as soon as it is answered, in any order.

        Questions are taken as there is room for them. No two that are under way have the same key.
        """
        ...


def find_watched(
    tokens: Iterable[tuple[str, Mapping[str, float]]], text: str, watch: Sequence[str]
) -> tuple[Watched, ...]:
    """Return the watched tokens of an answer and where they stand in its text.

    Args:
        tokens: Per generated token its text and the log-probabilities of the likeliest ones in its place.
        text: The answer.
        watch: Tokens to look for, without surrounding spaces; `FIRST_TOKEN` stands at 0, in the text or not.
    """
    found = []
    end = slack = 0
    for number, (token, alternatives) in enumerate(tokens):
        finite = {name: value for name, value in alternatives.items() if math.isfinite(value)}
        if number == 0 and FIRST_TOKEN in watch:
            found.append(Watched(0, finite))
        start = text.find(token, end, end + slack + len(token))
        if start < 0:  # part of a character, or a special token that the text leaves out
            slack += len(token)
            continue
        end, slack = start + len(token), 0
        if token.strip() and token.strip() in watch:
            found.append(Watched(end - len(token.lstrip()), finite))
    return tuple(found)
