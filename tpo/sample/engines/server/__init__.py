"""Sampling through vLLM's server, or several that serve the same model (`vllm_server`)."""

import asyncio
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

from tpo.config.fields import ConfigError, setting
from tpo.model.chat import Chat
from tpo.model.concurrent import Emit, Flow, stream_concurrently
from tpo.model.connection import Connection, Purpose
from tpo.model.policy import Policy
from tpo.sample.decoding import (
    Decoding,
    Engine,
    EngineSettings,
    Generation,
    Request,
    Sample,
    Thought,
    switch_to_response,
)
from tpo.sample.engines.server.vllm_server import VllmServer
from tpo.store.errors import TpoError
from tpo.store.stage import RunsOn

PURPOSE = Purpose(
    group="engine",
    address="engine.base_urls",
    unit="prompt",
    not_found="Does engine.base_urls end with /v1?",
    promise="what is kept is not sampled again",
)


@dataclass
class ServerEngineConfig(EngineSettings):
    """Addresses of the servers, limits and timeouts; none of them is part of the identity."""

    runs_on: ClassVar[RunsOn] = RunsOn.HOST

    kind: str = setting("server", packages={"server": "openai"})
    base_urls: list[str] = setting([], how=True)
    api_key_env: str = setting("VLLM_API_KEY", how=True)
    max_concurrency: int = setting(minimum=1, how=True)
    max_retries: int = setting(6, minimum=0, how=True)
    patience_s: float = setting(600.0, minimum=0, how=True)
    timeout_s: float = setting(1800.0, above=0, how=True)

    def check(self, at: str) -> None:
        """Check that there is a server."""
        if not self.base_urls:
            raise ConfigError(f"{at}.base_urls is empty: give the address of a server, see conf/engine/server.yaml")

    def make(self, policy: Policy, *, chat: Chat, max_len: int, decoding: Decoding, seed: int) -> Engine:
        """Return the engine; nothing is sent before the first prompt, and the seed is not used."""
        return ServerEngine(self, policy, end_ids=chat.end_ids, max_tokens=max_len)


class ServerEngine:
    """Samples by requests to servers, many prompts concurrently; the servers take them from one queue."""

    uses_seeds = False  # what the server computes with is not known here, and a CPU's would end at a seed

    def __init__(
        self, settings: ServerEngineConfig, policy: Policy, *, end_ids: frozenset[int], max_tokens: int
    ) -> None:
        """Store the servers' addresses; nothing is sent before the first prompt.

        Args:
            settings: Of the engine.
            policy: Seed model and adapter.
            end_ids: Token ids that end a completion.
            max_tokens: The longest prompt plus completion that will be asked for.
        """
        self._settings, self._end_ids = settings, end_ids
        self._num_done = 0
        self._servers = [
            VllmServer(
                Connection(url, asdict(settings), PURPOSE, progress=self._progress),
                policy,
                max_tokens=max_tokens,
                end_ids=end_ids,
            )
            for url in settings.base_urls
        ]

    def _progress(self) -> str:
        return f"{self._num_done} prompts are sampled and kept"

    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        """Yield every sample of every request as it is finished; a prompt's seeds are not used.

        Raises:
            TpoError: If a server serves another model, returns no token ids, or cannot be reached for too long; after
                what was under way with the other requests.
        """
        self._num_done = 0

        async def run(flow: Flow[Request, Sample]) -> None:
            await asyncio.gather(*(self._use(server, flow, decoding) for server in self._servers))

        yield from stream_concurrently(requests, run)

    async def _use(self, server: VllmServer, flow: Flow[Request, Sample], decoding: Decoding) -> None:
        async with server.connection.client() as client:
            try:
                await server.prepare(client)
            except TpoError as error:
                flow.fail(error)
            sample = partial(self._sample, server, client, decoding)
            await asyncio.gather(*(flow.work(sample) for _ in range(self._settings.max_concurrency)))

    async def _sample(
        self, server: VllmServer, client: Any, decoding: Decoding, request: Request, emit: Emit[Sample]
    ) -> None:
        prompt = list(request.prompt_ids)
        ask = partial(server.complete, client, decoding=decoding)
        stop = None if decoding.switch_ids is None else decoding.response_delimiter
        sampled = await ask(prompt, count=len(request.seeds), max_tokens=decoding.max_tokens, stop=stop)

        async def finish(sample_index: int, token_ids: list[int], reason: str) -> None:
            thought = Thought([], 0, 0)
            if decoding.switch_ids is not None:
                thought = switch_to_response(
                    token_ids,
                    is_delimited=reason == "delimiter",
                    switch_ids=decoding.switch_ids,
                    end_ids=self._end_ids,
                )
                context = [*prompt, *thought.token_ids]
                [(token_ids, reason)] = await ask(context, count=1, max_tokens=decoding.max_response_tokens)
            token_ids = [*thought.token_ids, *token_ids]
            generation = Generation(token_ids, reason, thought.forced_start, thought.forced_stop)
            await emit(Sample(request.key, sample_index, generation))

        ends = await asyncio.gather(
            *(finish(index, *found) for index, found in zip(request.seeds, sampled, strict=True)),
            return_exceptions=True,  # so that all are finished before one's failure is told
        )
        for error in ends:
            if error is not None:
                raise error
        self._num_done += 1

    def close(self) -> None:
        """Unload the adapter from the servers that this engine loaded it to."""
        asyncio.run(self._unload([server for server in self._servers if server.has_loaded]))

    async def _unload(self, servers: Sequence[VllmServer]) -> None:
        for server in servers:
            async with server.connection.client() as client:
                await server.unload(client)
