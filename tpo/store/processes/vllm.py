"""vLLM in this process, cached; vLLM runs its engine core in a child process of its own.

vLLM takes long to start, and keeps the device's memory until its process ends. So a process starts at most one engine
and caches it, with the arguments that it was started with, for later steps in the same process (`tpo.store.resident`).
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

log = logging.getLogger(__name__)

POLL_S = 2.0  # how often to look whether the engine core is dead
GRACE_S = 10.0  # for vLLM to raise an error by itself

T = TypeVar("T")


class OccupiedError(Exception):
    """The engine that this process has cached was started with other arguments: the step needs another process."""


class Cached(NamedTuple):
    """The one engine of this process, and the arguments that it was started with."""

    arguments: object
    engine: Any


_cached: Cached | None = None


def cached_engine(arguments: object, start: Callable[[], T]) -> T:
    """Return the cached engine of this process; where there is none, `start` one and cache it.

    Args:
        arguments: What the engine is started with; compared with those of the cached one.
        start: Starts it.

    Raises:
        OccupiedError: If the cached engine was started with other arguments.
    """
    global _cached
    if _cached is None:
        _cached = Cached(arguments, start())
    elif _cached.arguments != arguments:
        raise OccupiedError
    engine: T = _cached.engine
    return engine


def cached_arguments() -> object:
    """Return what the cached engine was started with; None where there is none."""
    return None if _cached is None else _cached.arguments


def has_engine() -> bool:
    """Return whether this process has cached an engine."""
    return _cached is not None


def start_vllm(*, seed: int, **arguments: Any) -> Any:
    """Return a `vllm.LLM`; should its engine core die, this process ends instead of waiting for it for ever.

    A cached engine is returned as if it had just started: with an empty prefix cache and a random stream that is seeded
    anew. The same requests may still get other samples, since timing decides which of them share a batch in vLLM.

    Args:
        seed: Of the random stream.
        arguments: Of `vllm.LLM`.

    Raises:
        OccupiedError: If this process has one with other arguments.
    """
    llm = cached_engine(arguments, lambda: _start(arguments))
    if not llm.reset_prefix_cache():  # attention over a cached prefix is summed in another order, and rounds otherwise
        raise RuntimeError("vLLM did not empty its prefix cache: a request is still under way")
    llm.collective_rpc("restart_random_stream", args=(seed,))
    return llm


class RandomStream:
    """A method that vLLM's workers get in addition (its `worker_extension_cls`)."""

    def restart_random_stream(self, seed: int) -> None:
        """Seed the worker's random numbers, as vLLM does when it starts."""
        from vllm.utils.torch_utils import set_random_seed

        set_random_seed(seed)


def _start(arguments: dict[str, Any]) -> Any:
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, range(os.cpu_count() or 1))))
    # FlashInfer's sampler compiles itself at the first request, and vLLM ends where that fails for want of a compiler.
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    from vllm import LLM

    log.info("starting vLLM with %s", arguments["model"])
    extension = f"{__name__}.{RandomStream.__name__}"
    llm = LLM(worker_extension_cls=extension, scheduling_policy="priority", **arguments)  # for `in_flight`
    threading.Thread(target=_watch, args=(llm.llm_engine.engine_core,), daemon=True).start()
    return llm


def _watch(client: Any) -> None:
    """End this process some time after vLLM noticed that its engine core is dead.

    vLLM 0.32.0 then raises an error at the next request. But a request that is under way waits for ever in
    `SyncMPClient.get_output`, since the thread that reads the core's answers has ended without an error.
    """
    while not client.resources.engine_dead:
        time.sleep(POLL_S)
    time.sleep(GRACE_S)
    log.error("vLLM's engine died, perhaps for want of memory. What is saved is kept: run the same command again")
    os._exit(1)
