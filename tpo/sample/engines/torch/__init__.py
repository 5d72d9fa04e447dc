"""Sampling in plain torch: continuous batching on any device, no extra package."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tpo.config.fields import ConfigError, setting
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.sample.decoding import Engine, EngineSettings, LiveEngine
from tpo.store.processes.cores import AUTO, count_workers


@dataclass
class TorchEngineConfig(EngineSettings):
    """How many sequences decode together, and in how many processes; `engine` and `workers` do the work.

    Attributes:
        max_sequences: In all processes together.
        num_workers: Processes with one thread each, or "auto"; 1 samples in this process with all threads.
    """

    has_windows: ClassVar[bool] = False

    kind: str = setting("torch")
    max_sequences: int = setting(minimum=1, how=True)
    num_workers: Any = setting(AUTO, how=True)

    def check(self, at: str) -> None:
        """Check the number of workers."""
        super().check(at)
        is_number = isinstance(self.num_workers, int) and not isinstance(self.num_workers, bool)
        if self.num_workers != AUTO and not (is_number and self.num_workers >= 1):
            raise ConfigError(f"{at}.num_workers={self.num_workers}: {AUTO}, or a number of processes from 1")

    def make(self, policy: Policy, *, chat: Chat, max_len: int, seed: int) -> Engine:
        """Return the engine, the policy loaded; the seed is not used, since every sample has its own.

        Raises:
            TpoError: If there are to be several workers where they cannot be, or the engine cannot sample here.
        """
        arguments = self._arguments(policy, chat=chat, max_len=max_len)
        count = count_workers(self.num_workers, at="engine.num_workers")
        if count > 1:
            from tpo.sample.engines.torch.workers import TorchWorkers

            return TorchWorkers(count, **arguments)
        from tpo.sample.engines.torch.engine import TorchEngine

        return TorchEngine(**arguments)

    def make_live(self, policy: Policy, *, chat: Chat, max_len: int, seed: int) -> LiveEngine:
        """Return the engine in this process, whatever the number of cores.

        Raises:
            TpoError: If the engine cannot sample here.
        """
        from tpo.sample.engines.torch.engine import TorchEngine
        from tpo.sample.engines.torch.live import TorchLive

        return TorchLive(TorchEngine(**self._arguments(policy, chat=chat, max_len=max_len)))

    def _arguments(self, policy: Policy, *, chat: Chat, max_len: int) -> dict[str, Any]:
        return {
            "policy": policy,
            "tokenizer": chat.tokenizer,
            "end_ids": chat.end_ids,
            "max_sequences": self.max_sequences,
            "max_len": max_len,
        }
