"""An engine of the user's own: a class with what `tpo.sample.decoding.Engine` has."""

from dataclasses import dataclass
from typing import ClassVar

from tpo.config.custom import Custom
from tpo.config.fields import setting
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Engine, EngineSettings


@dataclass
class CustomEngine(Custom, EngineSettings):
    """A class that samples; its constructor takes what it wants of the policy, its chat, `max_len` and a seed."""

    needs: ClassVar[tuple[str, ...]] = ("stream", "close", "uses_seeds")
    offers: ClassVar[tuple[str, ...]] = ("policy", "chat", "max_len", "seed")

    kind: str = setting("custom")

    def make(self, policy: Policy, *, chat: Chat, max_len: int, decoding: Decoding, seed: int) -> Engine:
        """Return an instance of the class."""
        engine: Engine = self.create(policy=policy, chat=chat, max_len=max_len, seed=seed)
        return engine
