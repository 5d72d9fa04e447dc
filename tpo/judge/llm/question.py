"""Asking a chat model many questions: each once, whatever happens in between.

A backend answers (`local`: vLLM in this process; `server`: any OpenAI-compatible server), `cache` keeps every answer as
soon as it is there, and `LLM.ask` puts the two together. Whoever asks sees neither.
"""

import logging
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tpo.sample.decoding import Policy
from tpo.store.errors import TpoError

log = logging.getLogger(__name__)

FIRST_TOKEN = ""  # in `Question.watch`: the answer's first token, whatever it is
NUM_ALTERNATIVES = 20  # per watched token; the most that OpenAI and, by default, vLLM give


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

    position: int  # of its first character in the text, leading spaces excluded
    alternatives: dict[str, float]  # the likeliest tokens in its place, itself included: log-probabilities, nats


@dataclass(frozen=True)
class Answer:
    """What the model wrote, or why it was not asked."""

    text: str
    finish_reason: str  # "stop", "length" where max_tokens cut it, or what else the server says
    num_tokens: int  # read and written
    watched: tuple[Watched, ...] = ()
    error: str | None = None  # why there is no answer: "too_long" for the model's context

    @property
    def is_cut(self) -> bool:
        """Whether the token limit ended the answer."""
        return self.finish_reason == "length"


TOO_LONG = Answer("", "", 0, error="too_long")


class Backend(Protocol):
    """Something that answers questions."""

    def identity(self) -> dict[str, Any]:
        """Return what tells this model's answers from another's, plain JSON types only."""
        ...

    def answer(self, questions: Mapping[str, Question], keep: Callable[[str, Answer], None]) -> None:
        """Call `keep(key, answer)` for each question as soon as it is answered, in any order."""
        ...


class LLM:
    """A chat model that is never asked the same question twice."""

    def __init__(self, backend: Backend, cache_path: Path, *, max_calls: int | None) -> None:
        """Set up the model; nothing is started or opened before the first question.

        Args:
            backend: Who answers.
            cache_path: File that keeps the answers.
            max_calls: Most answers of this model that the file may come to hold, those of earlier runs
                included; None sets no limit.
        """
        from tpo.judge.llm.cache import AnswerCache

        self.backend, self.max_calls = backend, max_calls
        self.cache = AnswerCache(cache_path)

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Return one answer per question, in order; what was answered before, in any run, is not asked again.

        Raises:
            TpoError: If the model cannot be asked or the budget is spent. Answers that came before are kept.
        """
        from tpo.judge.llm.cache import Asked

        if not questions:
            return []
        identity = self.backend.identity()
        asked = [Asked(identity, question) for question in questions]
        answers = self.cache.find(item.key for item in asked)
        missing = {item.key: item for item in asked if item.key not in answers}

        def keep(key: str, answer: Answer) -> None:
            # A question that does not fit is cheap to ask again, and a server restarted with a longer context answers.
            answers[key] = answer if answer.error else self.cache.put(missing[key], answer)

        allowed = self._allowed(identity, len(missing))
        log.info("%d questions: %d answered before, %d to ask", len(asked), len(answers), len(missing))
        if missing and allowed > 0:
            self.backend.answer({key: missing[key].question for key in list(missing)[:allowed]}, keep)
        if allowed < len(missing):
            raise TpoError(
                f"the judge's budget is spent: {self.cache.count(identity)} calls were made, judge.max_calls="
                f"{self.max_calls}, and {len(missing) - allowed} questions are still open. The answers are kept in "
                f"{self.cache.path}: raise judge.max_calls and run the same command again"
            )
        unanswered = sum(answers[item.key].error is not None for item in asked)
        if unanswered:
            log.warning("%d of %d questions are too long for the model's context", unanswered, len(asked))
        return [answers[item.key] for item in asked]

    def _allowed(self, identity: dict[str, Any], num_missing: int) -> int:
        if self.max_calls is None:
            return num_missing
        return min(num_missing, max(0, self.max_calls - self.cache.count(identity)))


def load_llm(config: dict[str, Any], *, policy: Policy | None, cache_path: Path) -> LLM:
    """Return the model that `config` (the `judge` group of an LLM judge, as a dictionary) asks for.

    Args:
        config: Settings; `backend` selects where the model runs.
        policy: The seed model, used where the backend is vllm and `name` is None.
        cache_path: File that keeps the answers.
    """
    backend: Backend
    match config["backend"]:
        case "vllm":
            from tpo.judge.llm.local import LocalBackend

            backend = LocalBackend(config, policy)
        case "server":
            from tpo.judge.llm.server import ServerBackend

            backend = ServerBackend(config)
        case kind:
            raise ValueError(f"judge.backend={kind}: expected vllm or server")
    return LLM(backend, cache_path, max_calls=config["max_calls"])


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
