"""An engine of the user's own: a class with what `tpo.sample.decoding.Engine` has."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from tpo.config.custom import Custom
from tpo.config.fields import setting
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Engine, EngineSettings, longest


@dataclass
class CustomEngine(Custom, EngineSettings):
    """A class that samples; its constructor takes what it wants of the policy, its chat, `max_len` and a seed."""

    needs: ClassVar[tuple[str, ...]] = ("generate", "close", "uses_seeds")
    offers: ClassVar[tuple[str, ...]] = ("policy", "chat", "max_len", "seed")

    kind: str = setting("custom")

    def make(
        self, policy: Policy, *, chat: Chat, contexts: Iterable[Sequence[int]], decoding: Decoding, seed: int
    ) -> Engine:
        """Return an instance of the class."""
        engine: Engine = self.create(policy=policy, chat=chat, max_len=longest(contexts, decoding), seed=seed)
        return engine
