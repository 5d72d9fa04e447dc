"""The routes of a served policy. A client that goes away takes its requests out of the engine."""

import asyncio
import contextlib
import itertools
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from tpo.model.asked import AskError
from tpo.sample.decoding import Progress
from tpo.store.seeds import derive_seed
from tpo.use.answer import Answer, Reply
from tpo.use.loaded import LoadedPolicy, QuestionError, TooLongError
from tpo.use.serve.protocol import (
    DONE,
    ApiError,
    ChatRequest,
    Envelope,
    event,
    model_card,
    read_request,
    refuse_model,
)
from tpo.use.serve.sampler import BusyError, FailedError, Sampler
from tpo.use.split_stream import Delta

MAX_BODY = 4 << 20  # bytes; no context is as long


class ServedPolicy:
    """A policy as clients see it."""

    def __init__(self, policy: LoadedPolicy, sampler: Sampler, *, name: str, seed: int, api_key: str | None) -> None:
        """Serve nothing yet.

        Args:
            policy: Loaded.
            sampler: With its engine.
            name: What clients call it.
            seed: From which the seeds of requests without one are derived.
            api_key: What they have to give; None where nothing is asked for.
        """
        self._policy, self._sampler = policy, sampler
        self._name, self._seed, self._api_key = name, seed, api_key
        self._numbers, self._created = itertools.count(), int(time.time())

    def app(self) -> Starlette:
        """Return the application."""
        return Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._models),
                Route("/v1/models/{name:path}", self._model),
                Route("/v1/chat/completions", self._complete, methods=["POST"]),
            ],
            exception_handlers={ApiError: _told, HTTPException: _told_of_http},
        )

    async def _health(self, request: HttpRequest) -> Response:
        if self._sampler.failure is not None:
            return JSONResponse({"status": "failed", "reason": self._sampler.failure}, status_code=503)
        return JSONResponse({"status": "ok", "requests": self._sampler.num_jobs})

    async def _models(self, request: HttpRequest) -> Response:
        self._check_key(request)
        return JSONResponse({"object": "list", "data": [model_card(self._name, self._created)]})

    async def _model(self, request: HttpRequest) -> Response:
        self._check_key(request)
        if request.path_params["name"] != self._name:
            refuse_model(request.path_params["name"], self._name)
        return JSONResponse(model_card(self._name, self._created))

    async def _complete(self, request: HttpRequest) -> Response:
        self._check_key(request)
        asked = read_request(await _body_of(request))
        if asked.model != self._name:
            refuse_model(asked.model, self._name)
        number = next(self._numbers)
        answers = await asyncio.to_thread(self._begin, asked, number)
        running = Running(self._sampler, answers)
        running.start()  # before anything is said, so that a full queue is a status
        envelope = Envelope(f"chatcmpl-{number}-{secrets.token_hex(6)}", self._name)
        if asked.stream:
            has_usage = asked.stream_options is not None and asked.stream_options.include_usage
            chunks = _chunks(running, envelope, has_usage=has_usage)
            return AnswerStream(running, chunks)
        replies = await _unless_gone(request, running)
        return Response(envelope.completion(replies), media_type="application/json")

    def _begin(self, asked: ChatRequest, number: int) -> list[Answer]:
        """Return the answers that are asked for, without tokens yet: tokenizing a long conversation takes a while."""
        seed = derive_seed(self._seed, "serve", number) if asked.seed is None else asked.seed
        turns, options = asked.turns, asked.options
        try:
            return [
                self._policy.begin(
                    turns, key=f"{number}-{index}", seed=derive_seed(seed, "choice", index), options=options
                )
                for index in range(asked.n or 1)
            ]
        except TooLongError as error:
            raise ApiError(400, str(error), code="context_length_exceeded", param="messages") from None
        except (QuestionError, AskError) as error:
            raise ApiError(400, str(error), param="messages") from None

    def _check_key(self, request: HttpRequest) -> None:
        if self._api_key is None:
            return
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        is_right = secrets.compare_digest(given.strip().encode(), self._api_key.encode())
        if scheme.lower() != "bearer" or not is_right:
            raise ApiError(401, "the API key is missing or wrong", code="invalid_api_key")


class Running:
    """Answers under way, those of one request, as their event loop sees them."""

    def __init__(self, sampler: Sampler, answers: Sequence[Answer]) -> None:
        """Start nothing yet."""
        self._sampler, self._answers = sampler, answers
        self._events: asyncio.Queue[tuple[int, Progress | Exception]] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()

    def start(self) -> None:
        """Hand the requests to the sampler.

        Raises:
            ApiError: If there is no room for them, or the engine has failed.
        """
        try:
            self._sampler.submit(self._answers, [partial(self._notify, index) for index in range(len(self._answers))])
        except BusyError:
            raise ApiError(
                429, "too many answers are waited for: come back later", code="rate_limit_exceeded"
            ) from None
        except FailedError as error:
            raise ApiError(503, f"nothing can be sampled any more: {error}") from None

    def cancel(self) -> None:
        """Take those out that have not ended."""
        self._sampler.cancel([answer.request.key for answer in self._answers])

    async def deltas(self) -> AsyncIterator[tuple[int, Delta]]:
        """Yield what becomes certain of each answer, with its number.

        Raises:
            ApiError: If the engine fails.
        """
        while any(answer.reply is None for answer in self._answers):
            index, told = await self._events.get()
            if isinstance(told, Exception):
                raise ApiError(503, f"nothing can be sampled any more: {told}")
            answer = self._answers[index]
            if answer.reply is not None:
                continue
            yield index, answer.feed(told)
            if answer.reply is not None:
                self._sampler.cancel([answer.request.key])  # a stop string may have ended it

    async def replies(self) -> list[Reply]:
        """Return the answers when all have ended."""
        async for _ in self.deltas():
            pass
        return [answer.reply for answer in self._answers if answer.reply is not None]

    def reply(self, index: int) -> Reply | None:
        """Return an answer, None as long as it is under way."""
        return self._answers[index].reply

    @property
    def num_answers(self) -> int:
        """How many are asked for."""
        return len(self._answers)

    def _notify(self, index: int, told: Progress | Exception) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._events.put_nowait, (index, told))


class AnswerStream(StreamingResponse):
    """A streamed answer; however it ends, also before its first event, nothing of it is sampled any longer."""

    def __init__(self, running: Running, chunks: AsyncIterator[bytes]) -> None:
        """Send what `chunks` yields."""
        super().__init__(chunks, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send it."""
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._running.cancel()


async def _chunks(running: Running, envelope: Envelope, *, has_usage: bool) -> AsyncIterator[bytes]:
    """Yield the events of a streamed answer."""
    try:
        for index in range(running.num_answers):
            yield envelope.chunk(index, {"role": "assistant", "content": ""})
        async for index, delta in running.deltas():
            if delta.thought:
                yield envelope.chunk(index, {"reasoning_content": delta.thought})
            if delta.response:
                yield envelope.chunk(index, {"content": delta.response})
            if (reply := running.reply(index)) is not None:
                yield envelope.chunk(index, {}, reply)
        if has_usage:
            yield envelope.usage([reply for i in range(running.num_answers) if (reply := running.reply(i)) is not None])
        yield DONE
    except ApiError as error:
        yield event(error.body)


async def _unless_gone(request: HttpRequest, running: Running) -> list[Reply]:
    """Return the answers, unless their client goes away, which takes them out.

    Raises:
        ApiError: If the engine fails.
    """
    answered, gone = asyncio.ensure_future(running.replies()), asyncio.ensure_future(_goes_away(request))
    try:
        await asyncio.wait({answered, gone}, return_when=asyncio.FIRST_COMPLETED)
        if not answered.done():
            raise ApiError(499, "the client has gone away")
        return answered.result()
    finally:
        running.cancel()
        for task in (answered, gone):
            task.cancel()
        await asyncio.gather(answered, gone, return_exceptions=True)


async def _goes_away(request: HttpRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _body_of(request: HttpRequest) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY:
            raise ApiError(413, f"the body is longer than {MAX_BODY} bytes")
    return bytes(body)


async def _told(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    headers = {"Retry-After": "1"} if error.status == 429 else None
    return JSONResponse(error.body, status_code=error.status, headers=headers)


async def _told_of_http(request: HttpRequest, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    told = ApiError(error.status_code, f"{request.method} {request.url.path}: {error.detail}")
    return JSONResponse(told.body, status_code=error.status_code, headers=error.headers)
