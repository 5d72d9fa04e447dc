"""A chat model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, a gateway, or OpenAI itself."""

import asyncio
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import Any

from tpo.judge.llm.question import NUM_ALTERNATIVES, TOO_LONG, Answer, Question, find_watched
from tpo.judge.llm.settings import LLMConfig
from tpo.model.concurrent import Emit, Flow, stream_concurrently
from tpo.model.connection import Connection, Purpose
from tpo.store.errors import TpoError

# How servers say that a question does not fit; OpenAI also has a code for it.
DOES_NOT_FIT = re.compile(
    r"context[ _-]?(length|size|window)|max_new_tokens. must be <=|token count.*exceeds|prompt is too long",
    re.IGNORECASE,
)


class ServerBackend:
    """Answers by asking a server, many questions at once."""

    def __init__(self, settings: LLMConfig) -> None:
        """Remember where the server is; nothing is sent yet.

        Args:
            settings: `name` and `revision`, and how to reach the server in `server`.
        """
        self.settings, self.name, self.revision = settings.server, settings.name, settings.revision
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
        """Return the model's name; the server's address is no part of it."""
        return {"model": self.name, "revision": self.revision}

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
        from openai import APIStatusError
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
                **({"logprobs": True, "top_logprobs": NUM_ALTERNATIVES} if question.watch else {}),
            )
        except APIStatusError as error:
            is_refused = error.status_code in {400, 413, 422}
            if is_refused and (
                error.code == "context_length_exceeded" or DOES_NOT_FIT.search(self.connection.reason(error))
            ):
                return TOO_LONG
            raise
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise TpoError(
                f"{self.connection.url}: the answer is no chat completion: {self.connection.shown(str(completion))}. "
                "Does judge.server.base_url end as the server's documentation says, usually with /v1?"
            )
        return _read(completion, question)


def _read(completion: Any, question: Question) -> Answer:
    choice = completion.choices[0]
    text = choice.message.content or ""
    steps = choice.logprobs.content if choice.logprobs and choice.logprobs.content else []
    tokens = ((step.token, {entry.token: entry.logprob for entry in step.top_logprobs}) for step in steps)
    return Answer(
        text=text,
        finish_reason=choice.finish_reason or "",
        num_tokens=completion.usage.total_tokens if completion.usage else 0,
        watched=find_watched(tokens, text, question.watch),
    )
