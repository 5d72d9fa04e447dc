"""Several copies of a model, each in a process of its own with its share of the GPUs.

vLLM has data parallelism only behind its server: `LLM(data_parallel_size=...)` refuses, since its engines would have to
run in lockstep, which only mixture-of-experts models need. The workers here are independent of each other.

A worker is spawned and ends when its connection to the parent closes, so it cannot outlive the parent, however the
parent ends. It leads a session and kills its whole process group then, since vLLM starts processes too.
"""

import atexit
import contextlib
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Any

from tpo.store.errors import TpoError
from tpo.store.logs import start_log
from tpo.store.processes.cores import usable_cores
from tpo.store.processes.streams import Pool, Stream, serve

LAST_S = 10.0  # for a process to end after its connection has closed
ORDERLY_S = 30.0  # for a process and its children to end by themselves
PROC = Path("/proc")  # where Linux tells of processes


class Workers(Pool):
    """One worker per share of the devices; when one fails, all are ended."""

    def __init__(self, shares: Sequence[Mapping[str, str]]) -> None:
        """Start the workers.

        Args:
            shares: Environment variables that show a worker its devices, per worker (see `share_devices`).
        """
        self._shares = shares
        self._processes: list[SpawnProcess] = []
        self._connections = []
        atexit.register(self.end)
        try:
            for share in shares:
                self._start(share)
        except BaseException:
            self.close()
            raise

    def make(self, factory: Callable[..., Stream], arguments: Sequence[Mapping[str, Any]]) -> None:
        """Create in every worker, in parallel, the stream function for the tasks from now on; return when all have one.

        Args:
            factory: Its class or factory, called in each worker; importable by name.
            arguments: For `factory`, per worker.

        Raises:
            TpoError: If one fails.
        """
        for _ in self._exchange([("make", (factory, dict(values))) for values in arguments]):
            pass

    @property
    def count(self) -> int:
        """How many workers there are."""
        return len(self._shares)

    @property
    def are_alive(self) -> bool:
        """Whether every worker was started and runs."""
        return bool(self._processes) and all(process.is_alive() for process in self._processes)

    def end(self) -> None:
        """Ask idle workers to end, and wait; their children are then ended in order too.

        A vLLM engine core that is killed leaves files behind.
        """
        with contextlib.suppress(OSError):
            for connection in self._connections:
                connection.send(("end", None))
            deadline = time.monotonic() + ORDERLY_S
            for process in self._processes:
                process.join(timeout=max(0.0, deadline - time.monotonic()))
        self.close()

    def close(self) -> None:
        """Kill all workers and wait until they are gone and the devices' memory is free."""
        atexit.unregister(self.end)
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.kill()  # in case that it does not lead its group yet
            kill_group(pid_of(process))
        for process in self._processes:
            process.join()
            _await_end_of_group(pid_of(process))
        self._connections.clear()
        self._processes.clear()

    def _start(self, share: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        with there:
            process = context.Process(target=_work, args=(there,))
            # In its environment from the start: the parent's main module, which spawning imports, may import torch.
            with environment(share):
                process.start()
        self._processes.append(process)
        self._connections.append(here)

    def _is_alive(self, number: int) -> bool:
        return self._processes[number].is_alive()

    def _exit_code(self, number: int) -> int | None:
        self._processes[number].join(timeout=LAST_S)
        return self._processes[number].exitcode

    def _name(self, number: int) -> str:
        share = ", ".join(f"{key}={value}" for key, value in self._shares[number].items())
        return f"worker {number + 1} of {len(self._shares)}" + (f" ({share})" if share else "")


def _work(connection: Connection) -> None:
    os.setsid()  # Ctrl-C reaches the parent only, which then ends the workers
    start_log()
    serve(connection, orphaned=lambda: os.killpg(0, signal.SIGKILL))


def kill_group(number: int) -> None:
    """Kill a group of processes, if there is one; of a group whose processes have ended, macOS says "not permitted"."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(number, signal.SIGKILL)


def pid_of(process: Any) -> int:
    """Return the id of a process that has been started."""
    assert process.pid is not None
    pid: int = process.pid
    return pid


@contextlib.contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started in the context."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _await_end_of_group(number: int) -> None:
    """Wait until all processes of a killed group have ended, since only then is their device memory free; not for ever.

    One that has ended stays in its group as a zombie until its parent waits for it, and the first process of a
    container, which inherits orphans, may never do that.
    """
    deadline = time.monotonic() + LAST_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(number, 0)
            if PROC.is_dir() and not _runs(number):
                return
            time.sleep(0.01)


def _runs(number: int) -> bool:
    """Whether a process of a group runs, by what Linux says of all."""
    for path in PROC.glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            if int(group) == number and state not in ("Z", "X"):
                return True
    return False


def share_devices(num_workers: int, *, per_worker: int, group: str) -> list[dict[str, str]]:
    """Return for each worker the environment variable that shows it its GPUs, or its cores where there is no GPU.

    The GPUs are those of CUDA_VISIBLE_DEVICES where it is set, in its order; cores are those that this process may use.

    Args:
        num_workers: The setting `data_parallel_size`.
        per_worker: The setting `tensor_parallel_size`; cores are divided evenly instead.
        group: Where the settings are, for messages.

    Raises:
        TpoError: If there are not enough devices.
    """
    import torch

    count = torch.cuda.device_count()  # counts what CUDA_VISIBLE_DEVICES shows, without starting CUDA
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if count > 0:
        variable, kind, size = "CUDA_VISIBLE_DEVICES", "GPUs", per_worker
        devices = visible.split(",")[:count] if visible else [str(number) for number in range(count)]
    else:
        variable, kind = "VLLM_CPU_OMP_THREADS_BIND", "cores"
        devices = [str(core) for core in usable_cores()]
        size = max(1, len(devices) // num_workers)
    if num_workers * size > len(devices):
        raise TpoError(
            f"{group}.data_parallel_size={num_workers} with {group}.tensor_parallel_size={per_worker} needs "
            f"{num_workers * size} {kind}, and there are {len(devices)} (CUDA_VISIBLE_DEVICES={visible}): lower either"
        )
    return [{variable: ",".join(devices[start * size : (start + 1) * size])} for start in range(num_workers)]
