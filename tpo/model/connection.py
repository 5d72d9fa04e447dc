"""A connection to an OpenAI-compatible server, for engines and judges.

openai's client repeats requests that fail temporarily, after the delay that the server asks for (up to two minutes).
This module waits for a server that cannot be reached for longer, repeats requests whose answer cannot be used, and
turns permanent failures into errors that say what to do and what was spent.
"""

import asyncio
import logging
import os
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

from tpo.model.unusable import UnusableError
from tpo.store.errors import TpoError

log = logging.getLogger(__name__)

POLL_S = 5.0  # between attempts to reach a server that is away, in addition to the client's own delays
CONNECT_TIMEOUT_S = 10.0
LOG_EVERY_S = 60.0  # while a server is away
FIRST_DELAY_S = 0.5  # before a request is repeated whose answer could not be used; doubled each time, up to POLL_S
#: So many answers in a row of which none can be used end the run, or twice as many as are under way at a time.
UNUSABLE_IN_A_ROW = 50

MOST_TOKENS = 2**40  # of one answer: what says more counts something else

AWAY = {502, 503, 504}  # statuses of a gateway while the server behind it restarts
PASSING = {408, 409, 429}  # statuses after which the client repeats a request, as after all of 5xx

#: What an error of the client's connection means; of others the name and the message are shown.
HAPPENED = {
    **dict.fromkeys(("ReadError", "WriteError", "CloseError"), "the connection broke off"),
    "RemoteProtocolError": "the connection was closed before the answer was there",
}

T = TypeVar("T")


class Purpose(NamedTuple):
    """What a connection is for: the words in which its messages speak of it."""

    group: str  # where its settings are: "judge.server"
    address: str  # the key that says where the server is: "judge.server.base_url"
    unit: str  # what one request is: "question"
    not_found: str  # what to look at where the server knows no such model or path
    promise: str  # what running the same command again will not do: "nothing is asked twice"


class ServerError(TpoError):
    """A request that has failed for good, and what was spent until the error is shown: by then others have ended."""

    def __init__(self, what: str, spent: Callable[[], str], advice: str) -> None:
        """Say what failed and what to do; `spent` returns what stands between."""
        super().__init__(what, spent, advice)

    def __str__(self) -> str:
        """Return the message, fit to be shown."""
        what, spent, advice = self.args
        return str(TpoError(f"{what}. {spent()}: {advice}"))


class Connection:
    """Sends requests to one server, each until it is answered or has failed permanently."""

    def __init__(
        self, base_url: str | None, settings: Mapping[str, Any], purpose: Purpose, *, progress: Callable[[], str]
    ) -> None:
        """Store the server's address and settings; nothing is sent yet.

        Args:
            base_url: With /v1 at its end; None is OpenAI's own.
            settings: `api_key_env`, `max_concurrency`, `max_retries`, `patience_s`, `timeout_s`.
            purpose: For messages.
            progress: Returns a sentence on what is done and saved already, for messages.
        """
        self.base_url, self.settings, self.purpose, self._progress = base_url, settings, purpose, progress
        self._heard_at = time.monotonic()  # when the server last answered
        self._lost_at: float | None = None  # when it was first found to be away; None while it answers
        self._logged_at = 0.0
        self._num_requests = self._num_counted = self._num_tokens = 0  # since `client` was called
        self._unusable_in_a_row = 0
        # The client's own logger has a line per request.
        for name in ("httpx", "httpx2", "openai"):
            logging.getLogger(name).setLevel(logging.WARNING)

    async def patiently(self, send: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `send`; while the server is away, wait for it and send again.

        Args:
            send: Sends the request. Raises an `UnusableError` if the answer cannot be used; then it is called again,
                `max_retries` times at most.

        Raises:
            ServerError: If the request fails permanently, or the server has answered nothing usable for long; says why
                and what to do.
        """
        import openai

        num_failures = 0  # of this request, while the server answered others
        num_unusable = 0
        while True:
            if self._unusable_in_a_row >= self._most_unusable:  # found by another request
                raise self._nothing_usable("all of them")
            started = time.monotonic()
            unusable: UnusableError | None = None
            try:
                result = await send()  # with the client's own repetitions
            except UnusableError as error:
                unusable = error
            except openai.APIError as error:
                failure = error
            else:
                self._heard()
                self._unusable_in_a_row = 0
                return result
            if unusable is not None:
                self._heard()
                self._unusable_in_a_row += unusable.is_fault
                if self._unusable_in_a_row >= self._most_unusable:
                    raise self._nothing_usable(str(unusable))
                num_unusable += 1
                if num_unusable > self.settings["max_retries"] or not unusable.may_change:
                    if unusable.instead is None:
                        raise self._unusable(str(unusable))
                    instead: T = unusable.instead
                    return instead
                await asyncio.sleep(min(POLL_S, FIRST_DELAY_S * 2 ** (num_unusable - 1)))
                continue
            if not self._is_away(failure):
                self._heard()
                raise self._explained(failure)
            # Where other requests were answered meanwhile, the server fails on this one or is away only since then.
            num_failures += self._heard_at > started
            if num_failures > self.settings["max_retries"]:
                raise self._explained(failure)
            self._wait_for_server(failure)
            await asyncio.sleep(POLL_S)

    def spend(self, usage: Any) -> int:
        """Count the tokens of an answer, for messages.

        Args:
            usage: What the answer says of them, which may be anything: an answer is none the worse for an odd count.

        Returns:
            Tokens read and written: the total, or the sum of what is said of both; 0 where nothing is.
        """
        found = [_tokens(getattr(usage, f"{name}_tokens", None)) for name in ("total", "prompt", "completion")]
        num_tokens = sum(value or 0 for value in found[1:]) if found[0] is None else found[0]
        self._num_tokens += num_tokens
        self._num_counted += num_tokens > 0
        return num_tokens

    @property
    def _most_unusable(self) -> int:
        return max(UNUSABLE_IN_A_ROW, 2 * int(self.settings["max_concurrency"]))

    def _is_away(self, failure: Any) -> bool:
        import openai

        if isinstance(failure, openai.APITimeoutError):  # connected but slow, unless it timed out on connecting
            return "Connect" in type(failure.__cause__).__name__
        return isinstance(failure, openai.APIConnectionError) or getattr(failure, "status_code", None) in AWAY

    def _heard(self) -> None:
        self._heard_at = time.monotonic()
        if self._lost_at is not None:
            log.info("%s is back after %.0f s", self.url, self._heard_at - self._lost_at)
            self._lost_at = None

    def _wait_for_server(self, failure: Any) -> None:
        """Log that the server is away; raise a TpoError if it has been for `patience_s`."""
        now, purpose = time.monotonic(), self.purpose
        if self._lost_at is None:
            self._lost_at, self._logged_at = now, -LOG_EVERY_S
        if now - self._lost_at >= self.settings["patience_s"]:
            raise ServerError(
                f"{self.url} is away for {now - self._lost_at:.0f} s ({self.reason(failure)}), as long as "
                f"{purpose.group}.patience_s allows",
                self._spent,
                f"start the server again, or set {purpose.address} to where it is now, and run the same command again; "
                f"{purpose.promise}",
            )
        if now - self._logged_at >= LOG_EVERY_S:
            self._logged_at = now
            log.warning(
                "%s does not answer (%s): waiting up to %.0f s for it. %s",
                self.url,
                self.reason(failure),
                self._lost_at + self.settings["patience_s"] - now,
                self._progress(),
            )

    def _explained(self, failure: Any) -> ServerError:
        """Return an error that says what to do about a permanent failure."""
        key_name, reason, purpose = self.settings["api_key_env"], self.reason(failure), self.purpose
        match getattr(failure, "status_code", None):
            case 401 | 403 as status:
                state = "it is set, but not to a key that the server takes" if self._key else "it is not set"
                advice = (
                    f"HTTP {status}: access denied. Set the environment variable {key_name} to a valid key; {state}"
                )
            case 404:
                advice = f"{reason}. {purpose.not_found}"
            case 429 if failure.code == "insufficient_quota":
                advice = f"{reason}. The account has no credit left: add some"
            case status if status is not None and status < 500 and status not in PASSING:
                advice = f"{reason}. The server refuses the request: mend the setting that it names"
            case _:
                allowed = f"{purpose.group}.max_retries={self.settings['max_retries']}"
                advice = f"one {purpose.unit} failed as often as {allowed} allows, at last with: {reason}"
        return ServerError(f"{self.url}: {advice}", self._spent, f"run the same command again, {purpose.promise}")

    def _unusable(self, why: str) -> ServerError:
        purpose, allowed = self.purpose, self.settings["max_retries"]
        return ServerError(
            f"{self.url}: the answer to one {purpose.unit} cannot be used ({self.shown(why)}), as often as "
            f"{purpose.group}.max_retries={allowed} allows",
            self._spent,
            f"see to the server and run the same command again, {purpose.promise}",
        )

    def _nothing_usable(self, why: str) -> ServerError:
        return ServerError(
            f"{self.url}: of the last {self._unusable_in_a_row} answers none can be used ({self.shown(why)})",
            self._spent,
            f"see to the server and run the same command again, {self.purpose.promise}",
        )

    def _spent(self) -> str:
        """Return a sentence on what is done, and what was spent on that."""
        tokens = f"{self._num_tokens:,} tokens used"
        if self._num_counted < self._num_requests:  # an answer that failed, or that cannot be read, says of none
            tokens = f"at least {tokens}" if self._num_tokens else "how many tokens were used is not known"
        return f"{self._progress()}, {self._num_requests:,} requests were sent, {tokens}"

    def reason(self, failure: Any) -> str:
        """Return the message of an `openai.APIError`, fit to be shown (see `shown`)."""
        body = failure.body if isinstance(failure.body, dict) else {}
        status = getattr(failure, "status_code", None)
        cause = failure.__cause__ or failure.__context__ if status is None else None
        text = str(body.get("message") or (self._happened(cause) if cause else failure.message))
        return self.shown(f"HTTP {status}: {text}" if status else text)

    def _happened(self, cause: BaseException) -> str:
        """Return what an error of the connection means."""
        name = type(cause).__name__
        if "Timeout" in name:
            is_connected = name in ("ReadTimeout", "WriteTimeout")
            return f"no {'whole answer' if is_connected else 'connection'} within {self._timeouts_s[is_connected]:g} s"
        return HAPPENED.get(name) or f"{'no connection' if name == 'ConnectError' else name}: {cause}"

    @property
    def _timeouts_s(self) -> tuple[float, float]:
        """How long to wait for a connection, and for an answer."""
        timeout_s = float(self.settings["timeout_s"])
        return min(CONNECT_TIMEOUT_S, timeout_s), timeout_s

    def shown(self, text: str) -> str:
        """Return a text shortened, on one line and without the key."""
        if self._key:
            text = text.replace(self._key, "<key>")
        return " ".join(text.split())[:300]

    @cached_property
    def url(self) -> str:
        """The server's address as it may be shown: without a password."""
        return re.sub(r"//[^/@]*@", "//", self.base_url or "https://api.openai.com/v1")

    @property
    def _key(self) -> str:
        return os.environ.get(self.settings["api_key_env"], "").strip()

    def client(self) -> Any:
        """Return an `openai.AsyncOpenAI` for use within one event loop; what was spent is counted from here.

        Raises:
            TpoError: If the environment variable of the key holds something that cannot be a key.
        """
        from openai import AsyncOpenAI, Timeout

        from tpo.model.limited_client import LimitedClient

        if not (self._key.isascii() and self._key.isprintable()):  # an error about such a header would show it
            raise TpoError(f"the environment variable {self.settings['api_key_env']} holds no key: odd characters")
        connect_s, timeout_s = self._timeouts_s
        self._num_requests = self._num_counted = self._num_tokens = self._unusable_in_a_row = 0

        def count() -> None:
            self._num_requests += 1

        return AsyncOpenAI(
            base_url=self.base_url,
            api_key=self._key or "none",  # the client wants one even where the server wants none
            timeout=Timeout(timeout_s, connect=connect_s),
            max_retries=self.settings["max_retries"],
            http_client=LimitedClient(deadline_s=connect_s + timeout_s, on_request=count),
        )


def _tokens(value: Any) -> int | None:
    """Return a number of tokens, which some servers write as a float; None where it is none."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value <= MOST_TOKENS and value == int(value) else None
