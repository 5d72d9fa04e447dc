"""An HTTP client for openai's, with a deadline for a whole answer and a limit for its size.

httpx's timeouts are for each read, so a server that sends a byte now and then is never given up, and a body is read
whatever its size.
"""

import asyncio
import functools
import ssl
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx2
from openai import DefaultAsyncHttpxClient

from tpo.model.unusable import BODY_LIMIT, UnusableError


@functools.cache
def _certificates() -> ssl.SSLContext:
    """What servers are verified with: read from files once, for all clients of the process."""
    return httpx2.create_ssl_context()


class LimitedClient(DefaultAsyncHttpxClient):  # type: ignore[misc]
    """A client that gives up answers which take too long or are too large."""

    def __init__(self, *, deadline_s: float, on_request: Callable[[], None]) -> None:
        """Set the limit of time; that of size is `BODY_LIMIT`, which `reading` sets for a task.

        Args:
            deadline_s: From before connecting until the last byte has come.
            on_request: Called before each request, repetitions included.
        """
        # Bytes that are received are counted, and a small body can be compressed of a very large one.
        super().__init__(headers={"Accept-Encoding": "identity"}, verify=_certificates())
        self._deadline_s, self._on_request = deadline_s, on_request

    async def send(self, request: httpx2.Request, *, stream: bool = False, **more: Any) -> httpx2.Response:
        """Return the response, read whole, whether or not `stream` asks for that.

        Raises:
            httpx2.ReadTimeout: If the deadline passes.
            UnusableError: If the body is too large, or compressed.
        """
        self._on_request()
        try:
            async with asyncio.timeout(self._deadline_s):
                response = await super().send(request, stream=True, **more)
                try:
                    encoding = response.headers.get("content-encoding", "identity")
                    if encoding != "identity":
                        raise UnusableError(f"it is compressed ({encoding}), which was not asked for")
                    assert isinstance(response.stream, httpx2.AsyncByteStream)
                    response.stream = _Limited(response.stream, BODY_LIMIT.get())
                    await response.aread()
                except BaseException:
                    await response.aclose()
                    raise
                return response
        except TimeoutError as error:
            raise httpx2.ReadTimeout(f"not whole after {self._deadline_s:g} s", request=request) from error


class _Limited(httpx2.AsyncByteStream):
    """A body that must not be larger than a limit."""

    def __init__(self, body: httpx2.AsyncByteStream, limit: int) -> None:
        self._body, self._limit = body, limit

    async def __aiter__(self) -> AsyncIterator[bytes]:
        size = 0
        async for chunk in self._body:
            size += len(chunk)
            if size > self._limit:
                raise UnusableError(f"it is larger than {self._limit / 2**20:.1f} MiB, which the request allows")
            yield chunk

    async def aclose(self) -> None:
        await self._body.aclose()
