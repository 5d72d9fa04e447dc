"""Workers with one thread each that share what was made once: plain torch on a CPU.

Several processes with one thread each compute more than one process with all threads, whose operations wait for the
slowest thread; beside other programs they lose their share of a core, where waiting threads lose nearly everything.

One process, the *fork server* of Python's multiprocessing, imports torch and transformers once and does nothing else.
For each step it forks a *stem*, which makes the step's stream function, which means that it loads the model, and forks
the workers: the pages that hold the weights are in memory once, whatever the model is. All of these have one thread,
without which forking is not safe. Workers end when their connection to the parent closes; the stem waits for them, so
none is left as a zombie, and ends after them.
"""

import atexit
import contextlib
import gc
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection, wait
from typing import Any

from tpo.store.errors import TpoError, describe
from tpo.store.logs import start_log
from tpo.store.processes.streams import Pool, Stream, describe_end, serve
from tpo.store.processes.workers import LAST_S, environment, kill_group, pid_of

log = logging.getLogger(__name__)

IMPORTED = ["torch", "transformers.modeling_utils", "transformers.models.auto.modeling_auto", "peft"]
# One thread from the start: torch's own are not there before it computes, OpenBLAS's are when numpy is imported. The
# tokenizers' threads would be lost in a fork, of which they warn.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def preload() -> None:
    """Start the fork server, which imports what every step needs; return at once. Nothing happens the second time."""
    multiprocessing.set_forkserver_preload(IMPORTED)
    resource_tracker.ensure_running()  # here, since it unblocks SIGINT
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])  # inherited: Ctrl-C reaches the parent only
    try:
        with environment(ONE_THREAD):
            forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


class ForkedWorkers(Pool):
    """Workers that share a stream function's memory; when one fails, all are ended."""

    def __init__(self, factory: Callable[..., Stream], arguments: Mapping[str, Any], *, count: int) -> None:
        """Make the stream function and fork the workers; return when they are there.

        Args:
            factory: Its class or factory; importable by name. Called once, in a process with one thread.
            arguments: For `factory`.
            count: Number of workers.

        Raises:
            TpoError: If the factory fails or its process is killed.
        """
        preload()
        context = multiprocessing.get_context("forkserver")
        self._count = count
        self._link, link = context.Pipe()
        pipes = [context.Pipe() for _ in range(count)]
        self._connections = [here for here, _ in pipes]
        ends = [there for _, there in pipes]
        atexit.register(self.close)  # before multiprocessing waits for the stem
        self._stem = context.Process(target=_grow, args=(link, ends, factory, dict(arguments)))
        try:
            self._stem.start()
            for end in (link, *ends):
                end.close()
            error = self._await_forks()
        except BaseException:
            self.close()
            raise
        if error is not None:
            self.close()
            raise TpoError(error)

    @property
    def are_alive(self) -> bool:
        """Whether the workers were started and not closed."""
        return bool(self._connections) and self._stem.is_alive()

    def close(self) -> None:
        """End the workers, whatever they do, and wait until they are gone."""
        atexit.unregister(self.close)
        for connection in (self._link, *self._connections):
            connection.close()
        self._connections = []
        if self._stem.pid is None:
            return
        self._stem.join(timeout=LAST_S)
        if self._stem.is_alive():  # it is still making, or stopped
            kill_group(pid_of(self._stem))
            self._stem.kill()
            self._stem.join()

    def _await_forks(self) -> str | None:
        try:
            error: str | None = self._link.recv()
        except (EOFError, OSError):
            self._stem.join(timeout=LAST_S)
            return f"the process that loads the model {describe_end(self._stem.exitcode)}. Is there enough memory?"
        return error

    def _is_alive(self, number: int) -> bool:
        return self._stem.is_alive()

    def _exit_code(self, number: int) -> int | None:
        with contextlib.suppress(EOFError, OSError):  # the stem has ended too
            while self._link.poll(LAST_S):
                ended, code = self._link.recv()
                if ended == number:
                    return int(code)
        return None

    def _name(self, number: int) -> str:
        return f"worker {number + 1} of {self._count}"


def _grow(link: Connection, ends: Sequence[Connection], factory: Callable[..., Stream], arguments: Any) -> None:
    """Make the stream function, fork a worker for each connection and wait for them; the stem's work."""
    os.setsid()
    start_log()
    os.environ.update(ONE_THREAD)  # somebody else's fork server may have started without
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    try:
        stream = factory(**arguments)
    except Exception as error:
        if not isinstance(error, TpoError):
            log.exception("the stem failed")
        link.send(describe(error))
        raise SystemExit(1) from None
    gc.freeze()  # a collection would write to the pages of every object, and so copy them
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_work, args=(number, link, ends, stream)) for number in range(len(ends))]
    for worker in workers:
        worker.start()
    for end in ends:
        end.close()
    running = {worker.sentinel: number for number, worker in enumerate(workers)}
    with contextlib.suppress(OSError):  # the parent has died
        link.send(None)
    while running:
        for sentinel in wait(list(running)):
            number = running.pop(sentinel)  # type: ignore[arg-type]  # wait gives back what it was given
            workers[number].join()
            with contextlib.suppress(OSError):
                link.send((number, workers[number].exitcode))


def _work(number: int, link: Connection, ends: Sequence[Connection], stream: Stream) -> None:
    for end in (link, *ends):
        if end is not ends[number]:
            end.close()  # open elsewhere, the connection of a dead worker would not close
    serve(ends[number], stream, orphaned=lambda: os._exit(1))
