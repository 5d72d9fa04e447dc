"""A chat model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, a gateway, or OpenAI itself."""

import asyncio
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any

from tpo.config.tags import NO_THOUGHT, last_thought
from tpo.judge.llm.question import NUM_ALTERNATIVES, TOO_LONG, Answer, Question, find_watched
from tpo.judge.llm.settings import LLMConfig
from tpo.model.concurrent import Emit, Flow, stream_concurrently
from tpo.model.connection import Connection, Purpose, UnreadableError
from tpo.store.errors import TpoError

# How servers say that a question does not fit; OpenAI also has a code for it.
DOES_NOT_FIT = re.compile(
    r"context[ _-]?(length|size|window)|max_new_tokens. must be <=|token count.*exceeds|prompt is too long",
    re.IGNORECASE,
)


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
                self._num_answered += 1

            await asyncio.gather(*(flow.work(answer) for _ in range(self.settings.max_concurrency)))

    async def _ask(self, client: Any, question: Question) -> Answer:
        from openai import APIResponseValidationError, APIStatusError
        from openai.types.chat import ChatCompletion

        turns = [("system", question.system), ("user", question.user)]
        # OpenAI's newer models know only the new name of the limit, many other servers only the old one.
        limit = "max_tokens" if self.settings.base_url else "max_completion_tokens"
        try:
            completion = await client.chat.completions.create(
                model=self.name,
                messages=[{"role": role, "content": text} for role, text in turns if text is not None],
                temperature=question.temperature,
                **{limit: question.max_tokens},
                **(
                    {"extra_body": {"chat_template_kwargs": self.template_arguments}} if self.template_arguments else {}
                ),
                **({"logprobs": True, "top_logprobs": NUM_ALTERNATIVES} if question.watch else {}),
            )
        except APIStatusError as error:
            is_refused = error.status_code in {400, 413, 422}
            if is_refused and (
                error.code == "context_length_exceeded" or DOES_NOT_FIT.search(self.connection.reason(error))
            ):
                return TOO_LONG
            raise
        except (APIResponseValidationError, ValueError, TypeError) as error:  # of a body that is no JSON, or half of it
            raise UnreadableError(f"{type(error).__name__}: {error}") from error
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise TpoError(
                f"{self.connection.url}: the answer is no chat completion: {self.connection.shown(str(completion))}. "
                "Does judge.server.base_url end as the server's documentation says, usually with /v1?"
            )
        try:
            return _read(completion, question)
        except (AttributeError, LookupError, TypeError, ValueError) as error:  # a part is missing, or of another type
            raise UnreadableError(f"{type(error).__name__}: {error}") from error


def _read(completion: Any, question: Question) -> Answer:
    """Return the answer; a thought that the server keeps apart, in a field of its own, is no part of it."""
    choice = completion.choices[0]
    text = _said(choice.message.content)
    steps = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    tokens = [(step.token, {entry.token: entry.logprob for entry in step.top_logprobs}) for step in steps]
    has_thought = any((choice.message.model_extra or {}).get(name) for name in THOUGHT_FIELDS)
    return Answer(
        text=text,
        finish_reason=choice.finish_reason or "",
        num_tokens=completion.usage.total_tokens if completion.usage else 0,
        watched=find_watched(_tokens_of(text, tokens, has_thought=has_thought), text, question.watch),
    )


def _said(content: Any) -> str:
    """Return the text of a message; where it is a list of parts, as Mistral's, those that are text and no thought."""
    if not isinstance(content, list):
        return content or ""
    return "".join(part.get("text") or "" for part in content if part.get("type") == "text")


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
