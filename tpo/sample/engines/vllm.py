"""Sampling with vLLM: continuous batching, prompts computed once, adapters served unmerged, each under its own id.

vLLM keeps the device's memory until its process ends, so steps with this engine run in a child process
(`tpo.store.resident`), which ends before a training begins. The child has one engine, or several in child processes of
its own, each with the whole model on its own GPUs.
"""

import json
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

from tpo.config.fields import ConfigError, setting
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.sample.decoding import (
    Decoding,
    Engine,
    EngineSettings,
    Generation,
    LiveEngine,
    Progress,
    Request,
    Sample,
    Thought,
    switch_to_response,
)
from tpo.store.errors import TpoError
from tpo.store.processes.in_flight import FIRST, LATER, InFlight
from tpo.store.processes.kept import OccupiedError, kept_arguments, kept_engine
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
    quantization: str = setting("none", choices=("none", "bitsandbytes"), packages={"bitsandbytes": "vllm_bnb_plugin"})
    tensor_parallel_size: int = setting(1, minimum=1)
    data_parallel_size: int = setting(1, minimum=1, how=True)

    def identity(self) -> dict[str, Any]:
        """Return what samples depend on, by the keys that a quantized vLLM alone adds to."""
        found = super().identity()
        return {key: value for key, value in found.items() if key != "quantization" or value != "none"}

    def check(self, at: str) -> None:
        """Check that vLLM quantizes whole matrices, as training does: of a part the scales are others."""
        if self.quantization != "none" and self.tensor_parallel_size > 1:
            raise ConfigError(
                f"{at}.quantization={self.quantization} quantizes each GPU's part of a matrix by itself with "
                f"{at}.tensor_parallel_size={self.tensor_parallel_size}, which is another policy than the one that is "
                f"trained: set either to its default, or {at}.data_parallel_size"
            )

    def make(self, policy: Policy, *, chat: Chat, max_len: int, seed: int) -> Engine:
        """Return the engine; vLLM is started, or the one that this process keeps is used."""
        engine = VllmWorkers if self.data_parallel_size > 1 else VllmEngine
        return engine(self, policy, end_ids=chat.end_ids, seed=seed)

    def make_live(self, policy: Policy, *, chat: Chat, max_len: int, seed: int) -> LiveEngine:
        """Return the engine; one that this process has cached serves another adapter of its model too.

        Raises:
            TpoError: If this process's vLLM has another model.
        """
        wanted, kept = llm_arguments(self, policy), kept_arguments()
        arguments = kept if isinstance(kept, dict) and _serves(kept, wanted) else wanted
        # Inherited by vLLM's process, which a Ctrl-C that is meant for an answer would else end.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
        try:
            engine = VllmEngine(self, policy, end_ids=chat.end_ids, seed=seed, arguments=arguments)
        except OccupiedError:
            raise TpoError(
                "engine=vllm has one model in a process, and another one, or a larger adapter, is wanted beside it: "
                "use engine=torch"
            ) from None
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        return VllmLive(engine, max_sequences=self.max_num_seqs)


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

    def __init__(
        self,
        settings: VllmEngineConfig,
        policy: Policy,
        *,
        end_ids: frozenset[int],
        seed: int,
        arguments: dict[str, Any] | None = None,
    ) -> None:
        """Start vLLM, or use the one that this process keeps.

        Args:
            settings: Of the engine.
            policy: Seed model and adapter.
            end_ids: Token ids that end a completion.
            seed: Of vLLM's own random stream, for samples without a seed.
            arguments: Of `vllm.LLM`, if not those of settings and policy.

        Raises:
            OccupiedError: If this process's vLLM was started with other arguments.
        """
        self.uses_seeds = draws_by_seed()
        self.end_ids = end_ids
        self.max_in_flight = 2 * settings.max_num_seqs  # so that as many wait as decode
        self.lora = None if policy.adapter_path is None else _lora_request(policy.adapter_path)
        self.llm = start_vllm(seed=seed % 2**31, **(arguments or llm_arguments(settings, policy)))

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
        in_flight.add(draw, prompt_ids, **self.sampling(decoding, decoding.max_tokens, seed=draw.seed, stop=stop))

    def _respond(self, in_flight: InFlight[_Draw], draw: _Draw, thought: Thought, decoding: Decoding) -> None:
        # With the thought's seed, draws could repeat the thought's.
        seed = derive_seed(draw.seed, "response")
        in_flight.add(
            draw,
            [*draw.request.prompt_ids, *thought.token_ids],
            priority=FIRST,
            **self.sampling(decoding, decoding.max_response_tokens, seed=seed, stop=None),
        )

    def sampling(self, decoding: Decoding, max_tokens: int, *, seed: int, stop: str | None) -> dict[str, Any]:
        """Return the arguments of `vllm.SamplingParams` for a completion, or the thought or the response of one."""
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


@dataclass(eq=False)
class _LiveDraw:
    """A sample under way for somebody who waits."""

    request: Request
    decoding: Decoding
    token_ids: list[int] = field(default_factory=list)  # as sampled since the request or its response was sent
    thought: Thought | None = None


class VllmLive:
    """Requests under way in a `VllmEngine`, which nobody else uses meanwhile."""

    def __init__(self, engine: VllmEngine, *, max_sequences: int) -> None:
        """Start with none."""
        self._engine, self.max_sequences = engine, max_sequences
        self._in_flight = InFlight[_LiveDraw](engine.llm, lora=engine.lora, is_partial=True)
        self._draws: dict[str, _LiveDraw] = {}

    def __len__(self) -> int:
        """Return how many requests are under way or wait."""
        return len(self._draws)

    def add(self, request: Request, decoding: Decoding) -> None:
        """Add a request with one seed."""
        draw = self._draws[request.key] = _LiveDraw(request, decoding)
        stop = None if decoding.switch_ids is None else decoding.response_delimiter
        self._send(draw, request.prompt_ids, decoding.max_tokens, seed=_seed(draw), stop=stop)

    def cancel(self, key: str) -> None:
        """Take a request out, if it is there."""
        if (draw := self._draws.pop(key, None)) is not None:
            self._in_flight.remove(draw)

    def step(self) -> list[Progress]:
        """Wait for vLLM's next step and return what is new."""
        return [self._take(draw, output) for draw, output in self._in_flight.step()]

    def _take(self, draw: _LiveDraw, output: Any) -> Progress:
        """Return what a sample has gained; where its thought has ended, ask for its response."""
        [found] = output.outputs
        num_told = len(draw.token_ids)
        draw.token_ids += found.token_ids
        if not output.finished:
            return Progress(draw.request.key, draw.token_ids[num_told:], None)
        if draw.decoding.switch_ids is not None and draw.thought is None:
            draw.thought = switch_to_response(
                draw.token_ids,
                is_delimited=found.stop_reason == draw.decoding.response_delimiter,
                switch_ids=draw.decoding.switch_ids,
                end_ids=self._engine.end_ids,
            )
            draw.token_ids = []
            context = [*draw.request.prompt_ids, *draw.thought.token_ids]
            seed = derive_seed(_seed(draw), "response")  # as in `VllmEngine`
            self._send(draw, context, draw.decoding.max_response_tokens, seed=seed, stop=None)
            return Progress(draw.request.key, draw.thought.token_ids[num_told:], None)
        del self._draws[draw.request.key]
        thought = draw.thought or Thought([], 0, 0)
        generation = Generation(
            [*thought.token_ids, *draw.token_ids],
            "length" if found.finish_reason == "length" else "stop",
            thought.forced_start,
            thought.forced_stop,
        )
        return Progress(draw.request.key, draw.token_ids[num_told:], generation)

    def _send(self, draw: _LiveDraw, context: Sequence[int], max_tokens: int, *, seed: int, stop: str | None) -> None:
        sampling = self._engine.sampling(draw.decoding, max_tokens, seed=seed, stop=stop)
        self._in_flight.add(draw, list(context), priority=LATER if draw.thought is None else FIRST, **sampling)


def _seed(draw: _LiveDraw) -> int:
    [seed] = draw.request.seeds.values()
    return seed


def _serves(cached: dict[str, Any], wanted: dict[str, Any]) -> bool:
    """Return whether a vLLM that was started with some arguments does what others ask for: fewer adapters do."""
    rank = "max_lora_rank"
    own, other = ({key: value for key, value in one.items() if "lora" not in key} for one in (cached, wanted))
    return own == other and cached.get(rank, 0) >= wanted.get(rank, 0)


def llm_arguments(settings: VllmEngineConfig, policy: Policy) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`, the same for all adapters of one rank.

    Args:
        settings: Of the engine.
        policy: Seed model and adapter.

    Raises:
        TpoError: If vLLM is to quantize a policy whose training does not.
    """
    lora: dict[str, Any] = {}
    if policy.adapter_path is not None:
        lora = {"enable_lora": True, "max_lora_rank": adapter_rank(policy.adapter_path)}
    quantized = {}
    if settings.quantization != "none":
        if policy.unquantized_path is None:
            raise TpoError(
                f"engine.quantization={settings.quantization} holds the 4-bit values of a policy with "
                "model.quantization=nf4, and this one has none: leave engine.quantization=none"
            )
        quantized = {"model": policy.unquantized_path, "quantization": settings.quantization}
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
        **quantized,
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
