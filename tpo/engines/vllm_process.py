"""Starting vLLM in this process, whose engine is a process of its own."""

import logging
import os
import threading
import time
import weakref
from typing import Any

log = logging.getLogger(__name__)

POLL_S = 2.0
GRACE_S = 10.0  # for vLLM to raise an error by itself


def start_vllm(**arguments: Any) -> Any:
    """Return a `vllm.LLM`; should its engine die, this process ends instead of waiting for it for ever."""
    os.environ.setdefault("VLLM_WORKER_MULTIPROC_METHOD", "spawn")
    os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", ",".join(map(str, range(os.cpu_count() or 1))))
    from vllm import LLM

    llm = LLM(**arguments)
    client = weakref.ref(llm.llm_engine.engine_core)  # dropping the LLM ends its engine, as it should
    threading.Thread(target=_watch, args=(client,), daemon=True).start()
    return llm


def _watch(client: "weakref.ref[Any]") -> None:
    """End this process some time after vLLM noticed that its engine is dead.

    vLLM 0.32.0 then raises an error at the next request, but where one is under way `SyncMPClient.get_output` waits
    for an answer that cannot come: the thread that reads answers ends without a word.
    """
    while not getattr(getattr(client(), "resources", None), "engine_dead", False):
        if client() is None:
            return
        time.sleep(POLL_S)
    time.sleep(GRACE_S)
    log.error("vLLM's engine died, perhaps for want of memory. What is saved is kept: run the same command again")
    os._exit(1)
