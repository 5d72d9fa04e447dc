"""Sampling with vLLM: continuous batching, prompts computed once, adapters served unmerged, each under its own id.

vLLM keeps the device's memory until its process ends, so steps with this engine run in a child process
(`tpo.store.resident`), which ends before a training begins. The child has one engine, or several in child processes of
its own, each with the whole model on its own GPUs.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from tpo.config.fields import setting
from tpo.model.chat import Chat
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
from tpo.store.processes.in_flight import FIRST, InFlight
from tpo.store.processes.kept import kept_engine
from tpo.store.processes.vllm import start_vllm
from tpo.store.processes.workers import Workers, share_devices
from tpo.store.seeds import derive_seed
from tpo.store.stage import RunsOn


@dataclass
class VllmEngineConfig(EngineSettings):
    """How vLLM is started.

    The number of copies is no part of the identity: each copy computes as a single one does. Tensor parallelism sums in
    another order, and other settings of vLLM may change a last bit too. Whether samples have seeds of their own follows
    from the machine (`draws_by_seed`), and so is no part of it either; a completion's row has its seed, or -1.
    """

    runs_on: ClassVar[RunsOn] = RunsOn.VLLM

    kind: str = setting("vllm", packages={"vllm": "vllm"})
    max_num_seqs: int = setting()
    gpu_memory_utilization: float = setting()
    enforce_eager: bool = setting(False)
    enable_prefix_caching: bool = setting(True)
    tensor_parallel_size: int = setting(1, minimum=1)
    data_parallel_size: int = setting(1, minimum=1, how=True)

    def make(self, policy: Policy, *, chat: Chat, max_len: int, seed: int) -> Engine:
        """Return the engine; vLLM is started, or the one that this process keeps is used."""
        engine = VllmWorkers if self.data_parallel_size > 1 else VllmEngine
        return engine(self, policy, end_ids=chat.end_ids, seed=seed)


def draws_by_seed() -> bool:
    """Return whether vLLM draws a request's tokens by the request's own seed here, whatever shares its batch.

    It does on CUDA: vLLM 0.32 places each draw by seed and position (Model Runner V2), or has a generator for each
    request (its predecessor). Its CPU build ends at a request with a seed.
    """
    import torch

    return torch.cuda.is_available()


@dataclass
class _Draw:
    """A sample under way: its request, and the thought once that is finished."""

    request: Request
    sample_index: int
    seed: int
    thought: Thought | None = None


class VllmEngine:
    """Samples with vLLM in this process.

    Each sample is a request of its own, which is what vLLM makes of several samples of a request too; the prompt that
    they share is computed once, where prefixes are cached.
    """

    def __init__(self, settings: VllmEngineConfig, policy: Policy, *, end_ids: frozenset[int], seed: int) -> None:
        """Start vLLM, or use the one that this process keeps.

        Args:
            settings: Of the engine.
            policy: Seed model and adapter.
            end_ids: Token ids that end a completion.
            seed: Of vLLM's own random stream, for samples without a seed.

        Raises:
            OccupiedError: If this process's vLLM was started with other arguments.
        """
        self.uses_seeds = draws_by_seed()
        self.end_ids = end_ids
        self.max_in_flight = 2 * settings.max_num_seqs  # so that as many wait as decode
        self.lora = None if policy.adapter_path is None else _lora_request(policy.adapter_path)
        self.llm = start_vllm(seed=seed % 2**31, **llm_arguments(settings, policy))

    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        """Yield every sample of every request as it is finished.

        A thought that has ended is continued with its response at once, before samples that have not begun.
        """
        draws = (_Draw(request, index, seed) for request in requests for index, seed in request.seeds.items())
        with closing(InFlight[_Draw](self.llm, lora=self.lora)) as in_flight:
            while True:
                for draw in islice(draws, self.max_in_flight - len(in_flight)):
                    self._begin(in_flight, draw, decoding)
                if not len(in_flight):
                    return
                for draw, output in in_flight.step():
                    (found,) = output.outputs
                    token_ids = list(found.token_ids)
                    if decoding.switch_ids is not None and draw.thought is None:
                        draw.thought = switch_to_response(
                            token_ids,
                            is_delimited=found.stop_reason == decoding.response_delimiter,
                            switch_ids=decoding.switch_ids,
                            end_ids=self.end_ids,
                        )
                        self._respond(in_flight, draw, draw.thought, decoding)
                        continue
                    thought = draw.thought or Thought([], 0, 0)
                    reason = "length" if found.finish_reason == "length" else "stop"
                    generation = Generation(
                        [*thought.token_ids, *token_ids], reason, thought.forced_start, thought.forced_stop
                    )
                    yield Sample(draw.request.key, draw.sample_index, generation)

    def close(self) -> None:
        """Do nothing: the process keeps vLLM for later steps."""

    def _begin(self, in_flight: InFlight[_Draw], draw: _Draw, decoding: Decoding) -> None:
        prompt_ids = list(draw.request.prompt_ids)
        stop = None if decoding.switch_ids is None else decoding.response_delimiter
        in_flight.add(draw, prompt_ids, **self._decoding(decoding, decoding.max_tokens, seed=draw.seed, stop=stop))

    def _respond(self, in_flight: InFlight[_Draw], draw: _Draw, thought: Thought, decoding: Decoding) -> None:
        # With the thought's seed, draws could repeat the thought's.
        seed = derive_seed(draw.seed, "response")
        in_flight.add(
            draw,
            [*draw.request.prompt_ids, *thought.token_ids],
            priority=FIRST,
            **self._decoding(decoding, decoding.max_response_tokens, seed=seed, stop=None),
        )

    def _decoding(self, decoding: Decoding, max_tokens: int, *, seed: int, stop: str | None) -> dict[str, Any]:
        return {
            "temperature": decoding.temperature,
            "top_p": decoding.top_p,
            "max_tokens": max_tokens,
            "seed": seed if self.uses_seeds else None,
            "stop": [stop] if stop else None,
            "include_stop_str_in_output": True,
            "stop_token_ids": sorted(self.end_ids),
            "skip_special_tokens": False,
        }


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


def vllm_stream(*, decoding: Decoding, **arguments: Any) -> Callable[[Iterable[Request]], Iterator[Sample]]:
    """Return what one of several engines does in its own process; further arguments are those of `VllmEngine`."""
    return partial(VllmEngine(**arguments).stream, decoding=decoding)


class VllmWorkers:
    """Several engines, each in a process of its own, that take requests as they have room for them.

    A request's samples stay on one engine, which computes their common prompt once. Greedy completions, and those that
    are drawn by their own seeds, do not depend on the number of engines, up to rounding, which in vLLM depends on the
    batch; others do, since every engine has a random stream of its own.
    """

    def __init__(self, settings: VllmEngineConfig, policy: Policy, *, end_ids: frozenset[int], seed: int) -> None:
        """Start `data_parallel_size` processes, or use the kept ones; the arguments are those of `VllmEngine`.

        Raises:
            TpoError: If there are not enough GPUs, or a process does not start.
            OccupiedError: If this process's engines were started with other arguments.
        """
        self.uses_seeds = draws_by_seed()
        count = settings.data_parallel_size
        shares = share_devices(count, per_worker=settings.tensor_parallel_size, group="engine")
        self._workers = kept_engine((shares, llm_arguments(settings, policy)), lambda: Workers(shares))
        shared = {"settings": settings, "policy": policy, "end_ids": end_ids}
        # Engines with one seed would draw the same numbers for different prompts.
        self._arguments = [{**shared, "seed": derive_seed(seed, "worker", number)} for number in range(count)]
        self._decoding: Decoding | None = None  # that the engines were made for

    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        """Yield every sample of every request as it is finished.

        Raises:
            TpoError: If an engine does not start, fails or is killed.
        """
        if decoding != self._decoding:
            self._workers.make(vllm_stream, [{**values, "decoding": decoding} for values in self._arguments])
            self._decoding = decoding
        yield from self._workers.run(requests)

    def close(self) -> None:
        """Do nothing: the process keeps the engines for later steps."""
