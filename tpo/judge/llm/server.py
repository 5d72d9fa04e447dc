"""A chat model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, a gateway, or OpenAI itself."""

import asyncio
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from tpo.config.tags import NO_THOUGHT, last_thought
from tpo.judge.llm.question import (
    EMPTY,
    FILTERED,
    MAX_LOGPROB,
    NUM_ALTERNATIVES,
    TOO_LONG,
    UNANSWERED,
    Answer,
    Question,
    find_watched,
)
from tpo.judge.llm.settings import LLMConfig
from tpo.model.concurrent import Emit, Flow, stream_concurrently
from tpo.model.connection import Connection, Purpose
from tpo.model.unusable import SMALL_BODY, UnusableError, reading
from tpo.store.errors import TpoError

# How servers say that a question does not fit; OpenAI also has a code for it.
DOES_NOT_FIT = re.compile(
    r"context[ _-]?(length|size|window)|max_new_tokens. must be <=|token count.*exceeds|prompt is too long",
    re.IGNORECASE,
)


# What servers call the ends of an answer that there are. Another one, an error or an abortion, ends none.
ENDS = {
    **dict.fromkeys(("stop", "eos", "eos_token", "end_turn", "stop_sequence"), "stop"),
    **dict.fromkeys(("length", "max_tokens", "model_length"), "length"),
}
FILTER = "content_filter"
TOKEN_BYTES, WATCHED_TOKEN_BYTES = 2**10, 2**13  # of JSON, at most: a text's token, and one with its alternatives

# Where servers put a thought that they keep apart from the answer.
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")

Token = tuple[str, Mapping[str, float]]  # and the likeliest tokens in its place


class ServerBackend:
    """Answers by asking a server, many questions at once."""

    def __init__(self, settings: LLMConfig) -> None:
        """Remember where the server is; nothing is sent yet.

        Args:
            settings: `name`, `revision` and `template_arguments`, and how to reach the server in `server`.
        """
        self.settings, self.name, self.revision = settings.server, settings.name, settings.revision
        self.template_arguments = settings.template_arguments
        self._num_answered = 0
        self.connection = Connection(
            self.settings.base_url,
            asdict(self.settings),
            Purpose(
                group="judge.server",
                address="judge.server.base_url",
                unit="question",
                not_found=f"Is judge.name={self.name} what the server calls the model, and base_url complete?",
                promise="nothing is asked twice",
            ),
            progress=lambda: f"{self._num_answered} questions are answered and kept",
        )

    def identity(self) -> dict[str, Any]:
        """Return the model's name and what its template is given; the server's address is no part of it."""
        found: dict[str, Any] = {"model": self.name, "revision": self.revision}
        return found | ({"template_arguments": self.template_arguments} if self.template_arguments else {})

    def stream(self, questions: Iterable[tuple[str, Question]]) -> Iterator[tuple[str, Answer]]:
        """Yield answers as they come, with at most `max_concurrency` questions under way at a time.

        Raises:
            TpoError: If a question cannot be asked; those under way with it are answered first.
        """
        self._num_answered = 0
        yield from stream_concurrently(questions, self._answer)

    async def _answer(self, flow: Flow[tuple[str, Question], tuple[str, Answer]]) -> None:
        async with self.connection.client() as client:

            async def answer(keyed: tuple[str, Question], emit: Emit[tuple[str, Answer]]) -> None:
                key, question = keyed
                found = await self.connection.patiently(partial(self._ask, client, question))
                await emit((key, found))
                self._num_answered += found.error is None

            await asyncio.gather(*(flow.work(answer) for _ in range(self.settings.max_concurrency)))

    async def _ask(self, client: Any, question: Question) -> Answer:
        from openai import APIStatusError
        from openai.types.chat import ChatCompletion

        turns = [("system", question.system), ("user", question.user)]
        # OpenAI's newer models know only the new name of the limit, many other servers only the old one.
        limit = "max_tokens" if self.settings.base_url else "max_completion_tokens"
        size = SMALL_BODY + (WATCHED_TOKEN_BYTES if question.watch else TOKEN_BYTES) * question.max_tokens
        try:
            with reading(max_bytes=size):
                completion = await client.chat.completions.create(
                    model=self.name,
                    messages=[{"role": role, "content": text} for role, text in turns if text is not None],
                    temperature=question.temperature,
                    **{limit: question.max_tokens},
                    **(
                        {"extra_body": {"chat_template_kwargs": self.template_arguments}}
                        if self.template_arguments
                        else {}
                    ),
                    **({"logprobs": True, "top_logprobs": NUM_ALTERNATIVES} if question.watch else {}),
                )
        except APIStatusError as error:
            is_refused = error.status_code in {400, 413, 422}
            if is_refused and (
                error.code == "context_length_exceeded" or DOES_NOT_FIT.search(self.connection.reason(error))
            ):
                return TOO_LONG
            if is_refused and error.code == FILTER:
                raise _filtered() from error
            raise
        if isinstance(completion, str) and self._num_answered == 0:
            raise TpoError(
                f"{self.connection.url}: the answer is no chat completion: {self.connection.shown(completion)}. "
                "Does judge.server.base_url end as the server's documentation says, usually with /v1?"
            )
        with reading():
            if not isinstance(completion, ChatCompletion) or not completion.choices:
                raise UnusableError(f"it is no chat completion: {completion}")
            return _read(
                completion,
                question,
                num_tokens=self.connection.spend(completion.usage),
                accepts_empty=self.settings.accepts_empty,
            )


def _read(completion: Any, question: Question, *, num_tokens: int, accepts_empty: bool) -> Answer:
    """Return the answer; a thought that the server keeps apart, in a field of its own, is no part of it.

    Raises:
        UnusableError: If it is not whole, or not what was asked for.
    """
    choice = completion.choices[0]
    text = _said(choice.message.content)
    text.encode()  # fails at half of a surrogate pair, which no file can hold
    has_thought = any((choice.message.model_extra or {}).get(name) for name in THOUGHT_FIELDS)
    if choice.finish_reason == FILTER or choice.message.refusal:
        raise _filtered()
    end = ENDS.get(str(choice.finish_reason).lower())
    if end is None:
        raise UnusableError(f"it ended with finish_reason={choice.finish_reason}")
    if end == "stop" and not text.strip():
        raise UnusableError(
            "it is empty; judge.server.accepts_empty=true would leave such a question unscored",
            instead=EMPTY if has_thought or accepts_empty else UNANSWERED,
            may_change=not has_thought,
            is_fault=not accepts_empty,
        )
    steps = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    tokens = [
        (step.token, {_token(entry.token): _logprob(entry.logprob) for entry in step.top_logprobs}) for step in steps
    ]
    has_logprobs = any(alternatives for _, alternatives in tokens)
    if question.watch and text and not has_logprobs:
        raise UnusableError(
            "it has no log-probabilities, which were asked for with logprobs and top_logprobs: take a server that "
            "gives them, or, with a judge that has it, judge.use_logprobs=false"
        )
    return Answer(
        text=text,
        finish_reason=end,
        num_tokens=num_tokens,
        watched=find_watched(_tokens_of(text, tokens, has_thought=has_thought), text, question.watch),
        has_logprobs=has_logprobs,
    )


def _filtered() -> UnusableError:
    """Return what stands for a refusal of the server's filter: an answer, so that many in a row are no fault."""
    return UnusableError("it was filtered", instead=FILTERED, may_change=False, is_fault=False)


def _token(text: str) -> str:
    """Return a token as a file can hold it: half of a surrogate pair is replaced."""
    return text.encode(errors="replace").decode()


def _logprob(value: float) -> float:
    """Return a log-probability; minus infinity is one."""
    if math.isnan(value) or value > MAX_LOGPROB:
        raise UnusableError(f"it has a log-probability of {value}")
    return value


def _said(content: Any) -> str:
    """Return the text of a message; where it is a list of parts, as Mistral's, those that are text and no thought.

    Raises:
        UnusableError: If it is neither.
    """
    if isinstance(content, list):
        content = "".join(part.get("text") or "" for part in content if part.get("type") == "text")
    if not isinstance(content, str | None):
        raise UnusableError(f"its content is no text: {content}")
    return content or ""


def _tokens_of(text: str, tokens: Sequence[Token], *, has_thought: bool) -> Sequence[Token]:
    """Return the tokens that an answer's text is made of: without those of a thought that the server keeps apart.

    Servers give log-probabilities of all tokens. Those of the thought end with the tag that closes it; where none is
    seen, which tokens are the answer's is unknown and none are returned.
    """
    if last_thought(text) != NO_THOUGHT:  # the thought stands in the text
        return tokens
    thought = last_thought("".join(token for token, _ in tokens))
    if thought == NO_THOUGHT:
        return [] if has_thought else tokens
    if thought.open_at is not None:
        return []
    stop = 0
    for number, (token, _) in enumerate(tokens):
        if stop >= thought.stop and token.strip():
            return tokens[number:]
        stop += len(token)
    return []
