"""Sampling in plain torch: continuous batching on any device, no extra package."""

from dataclasses import dataclass

from tpo.config.fields import setting
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Engine, EngineSettings


@dataclass
class TorchEngineConfig(EngineSettings):
    """How many sequences decode together; the engine is in `engine`, since that imports torch."""

    kind: str = setting("torch")
    max_sequences: int = setting(minimum=1)

    def make(self, policy: Policy, *, chat: Chat, max_len: int, decoding: Decoding, seed: int) -> Engine:
        """Return the engine, the policy loaded; the seed is not used, since every sample has its own."""
        from tpo.sample.engines.torch.engine import TorchEngine

        return TorchEngine(
            policy,
            tokenizer=chat.tokenizer,
            end_ids=chat.end_ids,
            max_sequences=self.max_sequences,
            max_len=max_len,
        )
