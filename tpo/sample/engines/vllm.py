"""Sampling with vLLM: n = K with a shared prefix, adapters served unmerged, each under an id of its own.

vLLM keeps the device's memory until its process ends, so steps with this engine run in a child process
(`tpo.store.resident`), which ends before a training begins. The child has one engine, or several in child processes of
its own, each with the whole model on its own GPUs.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from tpo.config.fields import setting
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Engine, EngineSettings, Generation, Thought, switch_to_response
from tpo.store.processes.vllm import cached_engine, start_vllm
from tpo.store.processes.workers import Emit, Workers, share_devices
from tpo.store.seeds import derive_seed
from tpo.store.stage import RunsOn


@dataclass
class VllmEngineConfig(EngineSettings):
    """How vLLM is started.

    The number of copies is no part of the identity: each copy computes as a single one does. Tensor parallelism sums in
    another order, and other settings of vLLM may change a last bit too.
    """

    runs_on: ClassVar[RunsOn] = RunsOn.VLLM

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
        """Return the engine; vLLM is started, or the process's cached one is used."""
        engine = VllmWorkers if self.data_parallel_size > 1 else VllmEngine
        return engine(self, policy, end_ids=chat.end_ids, seed=seed)


class VllmEngine:
    """Samples with vLLM in this process."""

    uses_seeds = False  # vLLM's per-request seeds are not reproducible across batches, and kill its CPU build

    def __init__(self, settings: VllmEngineConfig, policy: Policy, *, end_ids: frozenset[int], seed: int) -> None:
        """Start vLLM, or use the one that this process has cached.

        Args:
            settings: Of the engine.
            policy: Seed model and adapter.
            end_ids: Token ids that end a completion.
            seed: Of vLLM's own random stream.

        Raises:
            OccupiedError: If this process's vLLM was started with other arguments.
        """
        self.end_ids = end_ids
        self.lora = None if policy.adapter_path is None else _lora_request(policy.adapter_path)
        self.llm = start_vllm(seed=seed % 2**31, **llm_arguments(settings, policy))

    def generate(
        self, prompts: Sequence[Sequence[int]], *, seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Generation]]:
        """Return for each prompt one generation per seed, in order; the seeds' values are not used."""
        if decoding.switch_ids is None:
            groups = self._sample(prompts, [len(group) for group in seeds], decoding.max_tokens, decoding, stop=None)
            return [[Generation(ids, reason) for ids, reason in group] for group in groups]
        thoughts = self._sample(
            prompts, [len(group) for group in seeds], decoding.max_tokens, decoding, stop=decoding.response_delimiter
        )
        switched: list[Thought] = []
        contexts: list[list[int]] = []
        for prompt, group in zip(prompts, thoughts, strict=True):
            for token_ids, reason in group:
                thought = switch_to_response(
                    token_ids,
                    is_delimited=reason == "delimiter",
                    switch_ids=decoding.switch_ids,
                    end_ids=self.end_ids,
                )
                switched.append(thought)
                contexts.append([*prompt, *thought.token_ids])
        responses = self._sample(contexts, [1] * len(contexts), decoding.max_response_tokens, decoding, stop=None)
        flat = iter(
            Generation([*thought.token_ids, *response], reason, thought.forced_start, thought.forced_stop)
            for thought, [(response, reason)] in zip(switched, responses, strict=True)
        )
        return [[next(flat) for _ in group] for group in seeds]

    def close(self) -> None:
        """Do nothing: the process caches vLLM for later steps."""

    def _sample(
        self,
        prompts: Sequence[Sequence[int]],
        counts: Sequence[int],
        max_tokens: int,
        decoding: Decoding,
        *,
        stop: str | None,
    ) -> list[list[tuple[list[int], str]]]:
        """Return (token ids, reason) per prompt and sample; reason is "stop", "length" or "delimiter"."""
        from vllm import SamplingParams

        settings = [
            SamplingParams(
                n=count,
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                max_tokens=max_tokens,
                stop=[stop] if stop else None,
                include_stop_str_in_output=True,
                stop_token_ids=sorted(self.end_ids),
                skip_special_tokens=False,
            )
            for count in counts
        ]
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        outputs = self.llm.generate(requests, settings, lora_request=self.lora, use_tqdm=False)
        groups = []
        for output in outputs:
            group = []
            for sample in sorted(output.outputs, key=lambda sample: sample.index):
                reason = "length" if sample.finish_reason == "length" else "stop"
                if stop is not None and sample.stop_reason == stop:
                    reason = "delimiter"
                group.append((list(sample.token_ids), reason))
            groups.append(group)
        return groups


def llm_arguments(settings: VllmEngineConfig, policy: Policy) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`, the same for all adapters of one rank.

    Args:
        settings: Of the engine.
        policy: Seed model and adapter.
    """
    lora: dict[str, Any] = {}
    if policy.adapter_path is not None:
        lora = {"enable_lora": True, "max_lora_rank": adapter_rank(policy.adapter_path)}
    return {
        "model": policy.model_path,
        "revision": policy.revision,
        "tokenizer": policy.tokenizer_path,
        "dtype": policy.dtype,
        "max_model_len": policy.max_model_len,
        "max_num_seqs": settings.max_num_seqs,
        "gpu_memory_utilization": settings.gpu_memory_utilization,
        "enforce_eager": settings.enforce_eager,
        "enable_prefix_caching": settings.enable_prefix_caching,
        "tensor_parallel_size": settings.tensor_parallel_size,
        **lora,
    }


_adapters: dict[Path, int] = {}  # vLLM identifies adapters by a number


def _lora_request(path: Path) -> Any:
    from vllm.lora.request import LoRARequest

    number = _adapters.setdefault(path.resolve(), len(_adapters) + 1)
    return LoRARequest(lora_name=f"{path.parent.name}-{path.name}", lora_int_id=number, lora_path=str(path))


def adapter_rank(path: Path) -> int:
    """Return the smallest of the ranks that vLLM accepts that is not below the adapter's."""
    rank = json.loads((path / "adapter_config.json").read_text())["r"]
    for allowed in (8, 16, 32, 64, 128, 256, 320, 512):
        if rank <= allowed:
            return allowed
    raise ValueError(f"{path}: rank {rank} is above vLLM's largest, 512")


class Task(NamedTuple):
    """Arguments of `VllmEngine.generate`."""

    prompts: list[list[int]]
    seeds: list[list[int]]
    decoding: Decoding


class VllmWorker:
    """One of the engines, in its own process."""

    def __init__(self, **arguments: Any) -> None:
        """Start vLLM, or use the cached one; the arguments are those of `VllmEngine`."""
        self.engine = VllmEngine(**arguments)

    def __call__(self, task: Task, emit: Emit) -> None:
        """Sample the completions of a task's prompts."""
        emit(self.engine.generate(task.prompts, seeds=task.seeds, decoding=task.decoding))


class VllmWorkers:
    """Divides prompts among engines; a prompt's samples stay on one engine, which caches their common prefix.

    Greedy completions do not depend on the number of engines, up to rounding, which in vLLM depends on the batch;
    sampled ones do, since every engine has a random stream of its own.
    """

    uses_seeds = VllmEngine.uses_seeds

    def __init__(self, settings: VllmEngineConfig, policy: Policy, *, end_ids: frozenset[int], seed: int) -> None:
        """Start `data_parallel_size` engines, or use the cached ones; the arguments are those of `VllmEngine`.

        Raises:
            TpoError: If there are not enough GPUs, or an engine does not start.
            OccupiedError: If this process's engines were started with other arguments.
        """
        count = self._count = settings.data_parallel_size
        shares = share_devices(count, per_worker=settings.tensor_parallel_size, group="engine")
        self._workers = cached_engine((shares, llm_arguments(settings, policy)), lambda: Workers(shares))
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
        """Do nothing: the process caches the engines for later steps."""
