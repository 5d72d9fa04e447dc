"""Sampling with several vLLM engines, each with the whole model on its own GPUs."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Generation
from tpo.sample.engines.vllm import VllmEngineConfig
from tpo.sample.engines.vllm.engine import VllmEngine, llm_arguments
from tpo.store.processes.vllm import keep
from tpo.store.processes.workers import Emit, Workers, share_devices
from tpo.store.seeds import derive_seed


class Task(NamedTuple):
    """Arguments of `VllmEngine.generate`."""

    prompts: list[list[int]]
    seeds: list[list[int]]
    decoding: Decoding


class VllmWorker:
    """One of the engines, in its own process."""

    def __init__(self, **arguments: Any) -> None:
        """Start vLLM, or go on with it; the arguments are those of `VllmEngine`."""
        self.engine = VllmEngine(**arguments)

    def __call__(self, task: Task, emit: Emit) -> None:
        """Sample the completions of a task's prompts."""
        emit(self.engine.generate(task.prompts, seeds=task.seeds, decoding=task.decoding))


class VllmWorkers:
    """Divides prompts among engines; a prompt's samples stay together, for the prefix that they share.

    Greedy completions do not depend on the number of engines, up to the rounding that anything which shares a batch
    may change in vLLM; sampled ones do, since every engine has a random stream of its own.
    """

    uses_seeds = VllmEngine.uses_seeds

    def __init__(self, settings: VllmEngineConfig, policy: Policy, *, end_ids: frozenset[int], seed: int) -> None:
        """Start `data_parallel_size` engines, or go on with this process's; the arguments are those of `VllmEngine`.

        Raises:
            TpoError: If there are not enough GPUs, or an engine does not start.
            OccupiedError: If this process's engines were started with other arguments.
        """
        count = self._count = settings.data_parallel_size
        shares = share_devices(count, per_worker=settings.tensor_parallel_size, group="engine")
        self._workers = keep((shares, llm_arguments(settings, policy)), lambda: Workers(shares))
        shared = {"settings": settings, "policy": policy, "end_ids": end_ids}
        # Engines with one seed would draw the same numbers for different prompts.
        own = [{**shared, "seed": derive_seed(seed, "worker", number)} for number in range(count)]
        self._workers.make(VllmWorker, own)

    def generate(
        self, prompts: Sequence[Sequence[int]], *, seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Generation]]:
        """Return for each prompt one generation per seed, in order; the seeds' values are not used.

        Raises:
            TpoError: If an engine fails or is killed.
        """
        shares = {number: range(number, len(prompts), self._count) for number in range(min(self._count, len(prompts)))}
        tasks = {
            number: Task([list(prompts[at]) for at in share], [list(seeds[at]) for at in share], decoding)
            for number, share in shares.items()
        }
        groups: dict[int, list[Generation]] = {}
        for number, found in self._workers.run(tasks):
            groups.update(zip(shares[number], found, strict=True))
        return [groups[at] for at in range(len(prompts))]

    def close(self) -> None:
        """Do nothing: the process keeps the engines for its next stage."""
