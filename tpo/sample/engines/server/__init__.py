"""Sampling through vLLM's servers, on this machine or others."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tpo.config.fields import ConfigError, setting
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Engine, EngineSettings, longest


@dataclass
class ServerEngineConfig(EngineSettings):
    """Where the servers are and how patiently they are asked, none of which changes a completion."""

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
        from tpo.sample.engines.server.engine import ServerEngine

        return ServerEngine(self, policy, end_ids=chat.end_ids, max_tokens=longest(contexts, decoding))
