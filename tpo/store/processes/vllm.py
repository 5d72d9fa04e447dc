"""vLLM in this process, kept for later steps; vLLM runs its engine core in a child process of its own."""

import atexit
import logging
import os
import sys
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from tpo.store.memory import combined_mib, own_peak_mib
from tpo.store.processes.cores import usable_cores
from tpo.store.processes.kept import kept, kept_engine
from tpo.store.processes.streams import Stream
from tpo.store.processes.workers import Workers

log = logging.getLogger(__name__)

POLL_S = 2.0  # how often to look whether the engine core is dead
GRACE_S = 10.0  # for vLLM to raise an error by itself


def start_vllm(*, seed: int, **arguments: Any) -> Any:
    """Return a `vllm.LLM`; should its engine core die, this process ends instead of waiting for it for ever.

    A kept engine is returned as if it had just started: with an empty prefix cache and a random stream that is seeded
    anew. The same requests may still get other samples, since timing decides which of them share a batch in vLLM.

    Args:
        seed: Of the random stream.
        arguments: Of `vllm.LLM`.

    Raises:
        OccupiedError: If this process has one with other arguments.
    """
    llm = kept_engine(arguments, lambda: _start(arguments))
    if not llm.reset_prefix_cache():  # attention over a cached prefix is summed in another order, and rounds otherwise
        raise RuntimeError("vLLM did not empty its prefix cache: a request is still under way")
    llm.collective_rpc("restart_random_stream", args=(seed,))
    return llm


class EngineExtension:
    """Methods that vLLM's workers get in addition (its `worker_extension_cls`)."""

    def restart_random_stream(self, seed: int) -> None:
        """Seed the worker's random numbers, as vLLM does when it starts."""
        from vllm.utils.torch_utils import set_random_seed

        set_random_seed(seed)

    def peak_memory_mib(self) -> dict[str, float]:
        """Return the most memory that the worker has used."""
        return own_peak_mib()


_llm: Any = None  # the engine of this process


def engine_peaks_mib() -> list[dict[str, float]]:
    """Return the most memory that each process of the kept engines has used; none where no vLLM is kept here."""
    if _llm is not None:
        return list(_llm.collective_rpc("peak_memory_mib"))
    engines = kept()
    if not isinstance(engines, Workers):
        return []
    engines.make(peaks_stream, [{}] * engines.count)
    return list(engines.run(range(engines.count), in_turn=True))


def peaks_stream() -> Stream:
    """Return what one of several engines' processes does to say how much memory it and its vLLM have used."""

    def run(tasks: Iterable[int]) -> Iterator[dict[str, float]]:
        for _ in tasks:
            yield combined_mib([own_peak_mib(), *engine_peaks_mib()])

    return run


def prepare_environment() -> None:
    """Set what vLLM reads when it starts, as far as the user has not set it."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, usable_cores())))
    # FlashInfer's sampler compiles itself at the first request, and vLLM ends where that fails for want of a compiler.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    # What vLLM compiles in any case is built by ninja, which pip installs beside an interpreter whose folder is not on
    # PATH where it was started by its path.
    folder, path = str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)
    if folder not in path.split(os.pathsep):
        os.environ["PATH"] = folder + os.pathsep + path


def _start(arguments: dict[str, Any]) -> Any:
    global _llm
    prepare_environment()
    from vllm import LLM

    log.info("starting vLLM with %s", arguments["model"])
    extension = f"{__name__}.{EngineExtension.__name__}"
    _llm = LLM(
        worker_extension_cls=extension,
        scheduling_policy="priority",  # for `in_flight`
        trust_remote_code=False,
        load_format="safetensors",
        **arguments,
    )
    is_ending = threading.Event()
    atexit.register(is_ending.set)  # called before vLLM's own, which was registered earlier
    threading.Thread(target=_watch, args=(_llm.llm_engine.engine_core, is_ending), daemon=True).start()
    return _llm


def _watch(client: Any, is_ending: threading.Event) -> None:
    """End this process some time after vLLM noticed that its engine core is dead.

    vLLM 0.32.0 then raises an error at the next request. But a request that is under way waits for ever in
    `SyncMPClient.get_output`, since the thread that reads the core's answers has ended without an error.

    Args:
        client: vLLM's, to its engine core.
        is_ending: Set when this process ends in order: vLLM then calls its core dead too.
    """
    while not client.resources.engine_dead:
        if is_ending.wait(POLL_S):
            return
    if is_ending.wait(GRACE_S):
        return
    log.error("vLLM's engine died, perhaps for want of memory. What is saved is kept: run the same command again")
    os._exit(1)
