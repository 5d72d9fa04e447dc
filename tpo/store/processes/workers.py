"""Several copies of a model, each in a process of its own with its share of the GPUs.

vLLM has data parallelism only behind its server: `LLM(data_parallel_size=...)` refuses, since its engines would have to
run in lockstep, which only mixture-of-experts models need. The workers here are independent of each other.

A worker (`python -m tpo.store.processes.workers`) ends when its socket to the parent closes, so it cannot outlive the
parent, however the parent ends. It kills its whole process group then, since vLLM starts processes too.
"""

import atexit
import contextlib
import logging
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from tpo.store.errors import TpoError, describe

LAST_S = 10.0  # for a process to end after its socket has closed
ORDERLY_S = 30.0  # for a process and its children to end by themselves
POLL_S = 1.0  # how often to look whether a worker is alive: its children may keep the socket of a dead one open

Emit = Callable[[Any], None]
Work = Callable[[Any, Emit], None]  # does a task and hands over its results one by one


class Workers:
    """One worker per share of the devices; when one fails, all are ended."""

    def __init__(self, shares: Sequence[Mapping[str, str]]) -> None:
        """Start the workers.

        Args:
            shares: Environment variables that show a worker its devices, per worker (see `share_devices`).
        """
        self._shares = shares
        self._processes: list[subprocess.Popen[bytes]] = []
        self._connections: list[Connection] = []
        atexit.register(self.end)
        try:
            for share in shares:
                self._start(share)
        except BaseException:
            self.close()
            raise

    def make(self, work: Callable[..., Work], arguments: Sequence[Mapping[str, Any]]) -> None:
        """Create in every worker, in parallel, the object that does its tasks from now on; return when all are created.

        Args:
            work: Its class or factory, called in each worker; importable by name.
            arguments: For `work`, per worker.

        Raises:
            TpoError: If one fails.
        """
        orders = {number: (work, dict(values)) for number, values in enumerate(arguments)}
        for _ in self._exchange("make", orders):
            pass

    def run(self, tasks: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
        """Yield (worker, result) as results arrive, until every task is done.

        Args:
            tasks: By the number of the worker that is to do it, from 0.

        Raises:
            TpoError: If a worker fails or is killed. Results yielded before are valid; the other workers are ended.
        """
        yield from self._exchange("do", tasks)

    @property
    def are_alive(self) -> bool:
        """Whether every worker was started and runs."""
        return bool(self._processes) and all(process.poll() is None for process in self._processes)

    def end(self) -> None:
        """Ask idle workers to end, and wait; their children are then ended in order too.

        A vLLM engine core that is killed leaves files behind.
        """
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            for connection in self._connections:
                connection.send(("end", None))
            deadline = time.monotonic() + ORDERLY_S
            for process in self._processes:
                process.wait(timeout=max(0.0, deadline - time.monotonic()))
        self.close()

    def close(self) -> None:
        """Kill all workers and wait until they are gone and the devices' memory is free."""
        atexit.unregister(self.end)
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # started in a new session: the group's id is the process's
            process.wait()
            _await_end_of_group(process.pid)
        self._connections.clear()
        self._processes.clear()

    def _start(self, share: Mapping[str, str]) -> None:
        here, there = socket.socketpair()
        with here, there:
            self._processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "tpo.store.processes.workers", str(there.fileno())],
                    env={**os.environ, **share},
                    pass_fds=[there.fileno()],
                    start_new_session=True,  # Ctrl-C reaches this process only, which then ends the workers
                )
            )
            self._connections.append(Connection(here.detach()))

    def _exchange(self, kind: str, messages: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
        try:
            self._busy = set(messages)
            for number, message in messages.items():
                try:
                    self._connections[number].send((kind, message))
                except OSError:
                    raise self._lost(number) from None
            yield from self._results()
        except BaseException:
            self.close()
            raise

    def _results(self) -> Iterator[tuple[int, Any]]:
        while self._busy:
            numbers = {self._connections[number]: number for number in self._busy}
            ready = wait(list(numbers), timeout=POLL_S)
            for connection in ready:
                number = numbers[connection]  # type: ignore[index]  # wait gives back what it was given
                try:
                    kind, value = self._connections[number].recv()
                except (EOFError, OSError):
                    raise self._lost(number) from None
                match kind:
                    case "result":
                        yield number, value
                    case "done":
                        self._busy.remove(number)
                    case _:
                        raise TpoError(f"{self._name(number)} failed: {value}")
            for number in self._busy if not ready else ():
                if self._processes[number].poll() is not None:
                    raise self._lost(number)

    def _lost(self, number: int) -> TpoError:
        try:
            code = self._processes[number].wait(timeout=LAST_S)
        except subprocess.TimeoutExpired:
            code = None
        how = f"ended with exit code {code}"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
        return TpoError(f"{self._name(number)} {how}; what it wrote is above. Is there enough memory?")

    def _name(self, number: int) -> str:
        share = ", ".join(f"{key}={value}" for key, value in self._shares[number].items())
        return f"worker {number + 1} of {len(self._shares)}" + (f" ({share})" if share else "")


def _await_end_of_group(number: int) -> None:
    """Wait until a group of killed processes is empty, since only then is their device memory free; not for ever."""
    deadline = time.monotonic() + LAST_S
    with contextlib.suppress(ProcessLookupError, PermissionError):
        while time.monotonic() < deadline:
            os.killpg(number, 0)
            time.sleep(0.01)


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
        devices = [str(core) for core in sorted(os.sched_getaffinity(0))]
        size = max(1, len(devices) // num_workers)
    if num_workers * size > len(devices):
        raise TpoError(
            f"{group}.data_parallel_size={num_workers} with {group}.tensor_parallel_size={per_worker} needs "
            f"{num_workers * size} {kind}, and there are {len(devices)} (CUDA_VISIBLE_DEVICES={visible}): lower either"
        )
    return [{variable: ",".join(devices[start * size : (start + 1) * size])} for start in range(num_workers)]


def main() -> None:
    """Carry out the parent's messages in order, until one of them is "end" or the socket closes."""
    connection = Connection(int(sys.argv[1]))
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, messages), daemon=True).start()
    work: Work | None = None
    try:
        while True:
            match messages.get():
                case "make", (make, arguments):
                    work = make(**arguments)
                case "do", task:
                    assert work is not None
                    work(task, lambda result: connection.send(("result", result)))
                case _:
                    return
            connection.send(("done", None))
    except Exception as error:
        if not isinstance(error, TpoError):
            logging.getLogger(__name__).exception("a worker failed")
        connection.send(("failed", describe(error)))
        raise SystemExit(1) from None


def _receive(connection: Connection, messages: "queue.SimpleQueue[tuple[str, Any]]") -> None:
    """Queue the parent's messages; when the socket closes, kill this process and its children."""
    with contextlib.suppress(EOFError, OSError):
        while True:
            messages.put(connection.recv())
    os.killpg(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="[%(asctime)s] %(message)s", datefmt="%H:%M:%S")
    main()
