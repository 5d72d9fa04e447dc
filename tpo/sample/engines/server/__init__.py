"""Sampling through vLLM's server, or several that serve the same model (`vllm_server`)."""

import asyncio
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, ClassVar

from tpo.config.fields import ConfigError, setting
from tpo.model.chat import Chat
from tpo.model.connection import Connection, Purpose
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Engine, EngineSettings, Generation, longest, switch_to_response
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

    def make(
        self, policy: Policy, *, chat: Chat, contexts: Iterable[Sequence[int]], decoding: Decoding, seed: int
    ) -> Engine:
        """Return the engine; nothing is sent before the first prompt, and the seed is not used."""
        return ServerEngine(self, policy, end_ids=chat.end_ids, max_tokens=longest(contexts, decoding))


class ServerEngine:
    """Samples by requests to servers, many prompts concurrently."""

    uses_seeds = False  # as `VllmEngine`

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
        self._num_done = self._num_prompts = 0
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
        return f"{self._num_done} of {self._num_prompts} prompts of this chunk are sampled, earlier chunks are kept"

    def generate(
        self, prompts: Sequence[Sequence[int]], *, seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Generation]]:
        """Return for each prompt one generation per seed, in order; the seeds' values are not used.

        Raises:
            TpoError: If a server serves another model, returns no token ids, or cannot be reached for too long.
        """
        self._num_done, self._num_prompts = 0, len(prompts)
        return asyncio.run(self._generate(prompts, [len(group) for group in seeds], decoding))

    async def _generate(
        self, prompts: Sequence[Sequence[int]], counts: Sequence[int], decoding: Decoding
    ) -> list[list[Generation]]:
        waiting = deque(range(len(prompts)))
        groups: dict[int, list[Generation]] = {}
        failures: list[TpoError] = []

        async def work(server: VllmServer, client: Any) -> None:
            while waiting and not failures:
                at = waiting.popleft()
                try:
                    groups[at] = await self._sample(server, client, list(prompts[at]), counts[at], decoding)
                    self._num_done += 1
                except TpoError as error:
                    failures.append(error)

        async def use(server: VllmServer) -> None:
            async with server.connection.client() as client:
                try:
                    await server.prepare(client)
                except TpoError as error:
                    failures.append(error)
                await asyncio.gather(*(work(server, client) for _ in range(self._settings.max_concurrency)))

        await asyncio.gather(*(use(server) for server in self._servers))
        if failures:
            raise failures[0]
        return [groups[at] for at in range(len(prompts))]

    async def _sample(
        self, server: VllmServer, client: Any, prompt: list[int], count: int, decoding: Decoding
    ) -> list[Generation]:
        ask = partial(server.complete, client, decoding=decoding)
        if decoding.switch_ids is None:
            whole = await ask(prompt, count=count, max_tokens=decoding.max_tokens)
            return [Generation(token_ids, reason) for token_ids, reason in whole]
        sampled = await ask(prompt, count=count, max_tokens=decoding.max_tokens, stop=decoding.response_delimiter)
        thoughts = [
            switch_to_response(
                token_ids,
                is_delimited=reason == "delimiter",
                switch_ids=decoding.switch_ids,
                end_ids=self._end_ids,
            )
            for token_ids, reason in sampled
        ]
        contexts = [[*prompt, *thought.token_ids] for thought in thoughts]
        responses = await asyncio.gather(
            *(ask(context, count=1, max_tokens=decoding.max_response_tokens) for context in contexts)
        )
        return [
            Generation([*thought.token_ids, *token_ids], reason, thought.forced_start, thought.forced_stop)
            for thought, [(token_ids, reason)] in zip(thoughts, responses, strict=True)
        ]

    def close(self) -> None:
        """Unload the adapter from the servers that this engine loaded it to."""
        asyncio.run(self._unload([server for server in self._servers if server.has_loaded]))

    async def _unload(self, servers: Sequence[VllmServer]) -> None:
        for server in servers:
            async with server.connection.client() as client:
                await server.unload(client)
