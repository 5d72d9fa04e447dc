"""vLLM in this process, whose engine is a process of its own.

vLLM takes long to start, and keeps the device's memory until its process ends. So a process starts one vLLM at most and
keeps it: a later stage of the same process that wants the same goes on with it (`tpo.store.resident`).
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

log = logging.getLogger(__name__)

POLL_S = 2.0
GRACE_S = 10.0  # for vLLM to raise an error by itself

T = TypeVar("T")


class OccupiedError(Exception):
    """This process keeps something else than is wanted, so that the stage needs a process of its own."""


class Kept(NamedTuple):
    """What this process keeps."""

    wanted: object
    value: Any


_kept: Kept | None = None


def keep(wanted: object, make: Callable[[], T]) -> T:
    """Return what this process keeps, from now on, to serve what is `wanted`; `make` is called where it keeps nothing.

    Raises:
        OccupiedError: If it keeps what serves something else.
    """
    global _kept
    if _kept is None:
        _kept = Kept(wanted, make())
    elif _kept.wanted != wanted:
        raise OccupiedError
    value: T = _kept.value
    return value


def is_keeping() -> bool:
    """Return whether this process keeps anything."""
    return _kept is not None


def start_vllm(*, seed: int, **arguments: Any) -> Any:
    """Return a `vllm.LLM`; should its engine die, this process ends instead of waiting for it for ever.

    It is as if it had just started: its prefix cache is empty and its random stream begins anew. The same requests may
    still be sampled otherwise, since vLLM lets time decide which of them share a batch.

    Args:
        seed: Of the random stream.
        arguments: Of `vllm.LLM`.

    Raises:
        OccupiedError: If this process has one with other arguments.
    """
    llm = keep(arguments, lambda: _start(arguments))
    if not llm.reset_prefix_cache():  # a prefix that is there already is added up in other pieces
        raise RuntimeError("vLLM did not empty its prefix cache: a request is still under way")
    llm.collective_rpc("restart_random_stream", args=(seed,))
    return llm


class RandomStream:
    """What vLLM's workers can do besides (its `worker_extension_cls`)."""

    def restart_random_stream(self, seed: int) -> None:
        """Begin anew, as vLLM does once it has started."""
        from vllm.utils.torch_utils import set_random_seed

        set_random_seed(seed)


def _start(arguments: dict[str, Any]) -> Any:
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, range(os.cpu_count() or 1))))
    from vllm import LLM

    log.info("starting vLLM with %s", arguments["model"])
    llm = LLM(worker_extension_cls=f"{__name__}.{RandomStream.__name__}", **arguments)
    threading.Thread(target=_watch, args=(llm.llm_engine.engine_core,), daemon=True).start()
    return llm


def _watch(client: Any) -> None:
    """End this process some time after vLLM noticed that its engine is dead.

    vLLM 0.32.0 then raises an error at the next request, but where one is under way `SyncMPClient.get_output` waits
    for an answer that cannot come: the thread that reads answers ends without a word.
    """
    while not client.resources.engine_dead:
        time.sleep(POLL_S)
    time.sleep(GRACE_S)
    log.error("vLLM's engine died, perhaps for want of memory. What is saved is kept: run the same command again")
    os._exit(1)
