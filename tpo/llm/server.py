"""A chat model behind an OpenAI-compatible server: vLLM, SGLang, llama.cpp, a gateway, or OpenAI itself.

What fails for a moment is tried again, a server that is away is waited for, and what no repetition can mend ends the
run with what to do about it.
"""

import asyncio
import email.utils
import logging
import os
import random
import re
import time
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property, partial
from typing import Any, TypeVar

from tpo.errors import TpoError
from tpo.llm import NUM_ALTERNATIVES, TOO_LONG, Answer, Question, find_watched

log = logging.getLogger(__name__)

FIRST_DELAY_S = 1.0  # before the second attempt; doubles from one to the next
LONGEST_DELAY_S = 30.0
CONNECT_TIMEOUT_S = 10.0
LOG_EVERY_S = 60.0  # while a server is away

AWAY = {502, 503, 504}  # what a gateway says while the server behind it restarts
PASSING = {408, 409, 429}  # with all of 5xx: worth another attempt
# How servers say that a question does not fit; OpenAI also has a code for it.
DOES_NOT_FIT = re.compile(
    r"context[ _-]?(length|size|window)|max_new_tokens. must be <=|token count.*exceeds|prompt is too long",
    re.IGNORECASE,
)

T = TypeVar("T")


class ServerBackend:
    """Answers by asking a server, many questions at once."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Remember where the server is; nothing is sent yet.

        Args:
            config: The `judge` group: `name` and `revision`, and how to reach the server in `server`.
        """
        self.settings, self.name, self.revision = config["server"], config["name"], config["revision"]
        self._heard_at = time.monotonic()  # the server's last sign of life
        self._lost_at: float | None = None  # when it was first found to be away
        self._logged_at = 0.0
        self._num_answered = self._num_questions = 0
        # The client's own logger has a line per request.
        for name in ("httpx", "httpx2", "openai"):
            logging.getLogger(name).setLevel(logging.WARNING)

    def identity(self) -> dict[str, Any]:
        """Return the model's name; the server's address is no part of it."""
        return {"model": self.name, "revision": self.revision}

    def answer(self, questions: Mapping[str, Question], keep: Callable[[str, Answer], None]) -> None:
        """Ask all questions, at most `max_concurrency` at a time; each is kept as soon as it is answered.

        Raises:
            TpoError: If one cannot be asked; those under way are still waited for and kept.
        """
        self._num_answered, self._num_questions = 0, len(questions)
        asyncio.run(self._answer(questions, keep))

    async def _answer(self, questions: Mapping[str, Question], keep: Callable[[str, Answer], None]) -> None:
        waiting = deque(questions.items())
        failures: list[TpoError] = []

        async def work() -> None:
            while waiting and not failures:
                key, question = waiting.popleft()
                try:
                    keep(key, await self._patiently(partial(self._ask, client, question)))
                    self._num_answered += 1
                except TpoError as error:
                    failures.append(error)

        async with self._client() as client:
            await asyncio.gather(*(work() for _ in range(min(self.settings["max_concurrency"], len(questions)))))
        if failures:
            raise failures[0]

    async def _ask(self, client: Any, question: Question) -> Answer:
        from openai import APIStatusError
        from openai.types.chat import ChatCompletion

        turns = [("system", question.system), ("user", question.user)]
        # OpenAI's newer models know only the new name of the limit, many other servers only the old one.
        limit = "max_tokens" if self.settings["base_url"] else "max_completion_tokens"
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
            if is_refused and (error.code == "context_length_exceeded" or DOES_NOT_FIT.search(self._reason(error))):
                return TOO_LONG
            raise
        if not isinstance(completion, ChatCompletion) or not completion.choices:
            raise TpoError(
                f"{self._url}: the answer is no chat completion: {self._shown(str(completion))}. "
                "Does judge.server.base_url end as the server's documentation says, usually with /v1?"
            )
        return _read(completion, question)

    async def _patiently(self, send: Callable[[], Awaitable[T]]) -> T:
        """Return what `send` brings, trying again while that may help."""
        import openai

        num_failures = num_attempts = 0
        while True:
            started = time.monotonic()
            try:
                result = await send()
            except openai.APIError as error:
                failure = error
            else:
                self._heard()
                return result
            num_attempts += 1
            if self._is_away(failure):
                # A server that others heard from in the meantime is not away: it fails on this question.
                num_failures += self._heard_at > started
                self._wait_for_server(failure)
            else:
                self._heard()
                num_failures += 1
            if not self._may_pass(failure) or num_failures > self.settings["max_retries"]:
                raise self._explained(failure, num_failures)
            await asyncio.sleep(self._delay(failure, num_attempts))

    def _is_away(self, failure: Any) -> bool:
        import openai

        if isinstance(failure, openai.APITimeoutError):  # connected but slow, unless it timed out on connecting
            return "Connect" in type(failure.__cause__).__name__
        return isinstance(failure, openai.APIConnectionError) or getattr(failure, "status_code", None) in AWAY

    def _may_pass(self, failure: Any) -> bool:
        status = getattr(failure, "status_code", None)  # None: no answer at all
        return status is None or (status in PASSING or status >= 500) and failure.code != "insufficient_quota"

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        if self._lost_at is not None:
            log.info("%s is back after %.0f s", self._url, self._heard_at - self._lost_at)
            self._lost_at = None

    def _wait_for_server(self, failure: Any) -> None:
        """Note that the server is away; raise a TpoError once patience is at its end."""
        now = time.monotonic()
        if self._lost_at is None:
            self._lost_at, self._logged_at = now, -LOG_EVERY_S
        if now - self._lost_at >= self.settings["patience_s"]:
            raise TpoError(
                f"{self._url} is away for {now - self._lost_at:.0f} s ({self._reason(failure)}), as long as "
                f"judge.server.patience_s allows. {self._kept}: start the server again, or set judge.server.base_url "
                "to where it is now, and run the same command again; nothing is asked twice"
            )
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.warning(
                "%s does not answer (%s): waiting up to %.0f s for it. %s",
                self._url,
                self._reason(failure),
                self._lost_at + self.settings["patience_s"] - now,
                self._kept,
            )

    def _delay(self, failure: Any, num_attempts: int) -> float:
        """Return seconds to wait: exponential with jitter, or longer where the server asks for it."""
        response = getattr(failure, "response", None)
        asked = _retry_after(response.headers.get("retry-after", "")) if response is not None else 0.0
        backoff: float = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2 ** min(num_attempts - 1, 32)) * random.uniform(0.5, 1.0)
        return max(backoff, min(asked, float(self.settings["patience_s"])))

    def _explained(self, failure: Any, num_failures: int) -> TpoError:
        """Return an error that says what to do about a failure that no further attempt will mend."""
        key_name, reason = self.settings["api_key_env"], self._reason(failure)
        match getattr(failure, "status_code", None):
            case 401 | 403 as status:
                state = "it is set, but not to a key that the server takes" if self._key else "it is not set"
                advice = (
                    f"HTTP {status}: access denied. Set the environment variable {key_name} to a valid key; {state}"
                )
            case 404:
                advice = f"{reason}. Is judge.name={self.name} what the server calls the model, and base_url complete?"
            case 429 if failure.code == "insufficient_quota":
                advice = f"{reason}. The account has no credit left: add some"
            case status if status is not None and status < 500 and status not in PASSING:
                advice = f"{reason}. The server refuses the request: mend the setting that it names"
            case _:
                advice = f"{num_failures} attempts at one question failed, the last one with: {reason}"
        return TpoError(f"{self._url}: {advice}. {self._kept}: run the same command again, nothing is asked twice")

    def _reason(self, failure: Any) -> str:
        body = failure.body if isinstance(failure.body, dict) else {}
        status = getattr(failure, "status_code", None)
        cause = failure.__cause__ or failure.__context__ if status is None else None
        text = str(body.get("message") or (type(cause).__name__ if cause else failure.message))
        return self._shown(f"HTTP {status}: {text}" if status else text)

    def _shown(self, text: str) -> str:
        """Return a text that may be shown: short, on one line and without the key."""
        if self._key:
            text = text.replace(self._key, "<key>")
        return " ".join(text.split())[:300]

    @property
    def _kept(self) -> str:
        return f"{self._num_answered} of {self._num_questions} questions are answered and kept"

    @cached_property
    def _url(self) -> str:
        return re.sub(r"//[^/@]*@", "//", self.settings["base_url"] or "https://api.openai.com/v1")

    @property
    def _key(self) -> str:
        return os.environ.get(self.settings["api_key_env"], "").strip()

    def _client(self) -> Any:
        from openai import AsyncOpenAI, Timeout

        if not (self._key.isascii() and self._key.isprintable()):  # an error about such a header would show it
            raise TpoError(f"the environment variable {self.settings['api_key_env']} holds no key: odd characters")
        timeout_s = self.settings["timeout_s"]
        return AsyncOpenAI(
            base_url=self.settings["base_url"],
            api_key=self._key or "none",  # the client wants one even where the server wants none
            timeout=Timeout(timeout_s, connect=min(CONNECT_TIMEOUT_S, timeout_s)),
            max_retries=0,
        )


def _retry_after(header: str) -> float:
    """Return the seconds that a Retry-After header asks for, 0 where it says nothing."""
    if re.fullmatch(r"\d+(\.\d+)?", header.strip()):
        return float(header)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(header).timestamp() - time.time())
    except ValueError:
        return 0.0


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
