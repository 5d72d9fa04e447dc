"""Sampling with vLLM in this process (`engine`), or in several that share the instructions (`workers`)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tpo.config.fields import setting
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Engine, EngineSettings


@dataclass
class VllmEngineConfig(EngineSettings):
    """How vLLM is started.

    The number of copies changes no completion: each adds up as one does. Tensor parallelism adds up in another order,
    and other settings of vLLM may change a last bit too.
    """

    kind: str = setting("vllm", packages={"vllm": "vllm"})
    max_num_seqs: int = setting()
    gpu_memory_utilization: float = setting()
    enforce_eager: bool = setting(False)
    enable_prefix_caching: bool = setting(True)
    tensor_parallel_size: int = setting(1, minimum=1)
    data_parallel_size: int = setting(1, minimum=1, how=True)

    def make(
        self, policy: Policy, *, chat: Chat, contexts: Iterable[Sequence[int]], decoding: Decoding, seed: int
    ) -> Engine:
        """Return the engine, vLLM started or the process's own taken up again."""
        if self.data_parallel_size > 1:
            from tpo.sample.engines.vllm.workers import VllmWorkers

            return VllmWorkers(self, policy, end_ids=chat.end_ids, seed=seed)
        from tpo.sample.engines.vllm.engine import VllmEngine

        return VllmEngine(self, policy, end_ids=chat.end_ids, seed=seed)
