"""What worker processes hold in tests. A module of its own, since every worker imports it: no torch, no pytest."""

import atexit
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tpo.store.errors import TpoError

TESTS = Path(__file__).parent


def shares(count: int) -> list[dict[str, str]]:
    """Return an environment per worker: its number, and where it finds this module."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return [{"SHARE": str(number), "PYTHONPATH": path} for number in range(count)]


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie, which nobody has waited for, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_end(pids: Sequence[int]) -> bool:
    end = time.monotonic() + 30
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


class Who(NamedTuple):
    """A worker: its process, the child of that, its share, and how many tasks it has had."""

    pid: int
    child: int
    share: str
    count: int


def do(task: Any) -> Iterator[Any]:
    """Do what a task says."""
    match task:
        case "raise":
            raise ValueError("out of memory")
        case "refuse":
            raise TpoError("this cannot be sampled: lower the temperature")
        case "die":
            os.kill(os.getpid(), signal.SIGKILL)
        case "leave":
            os._exit(3)
        case "wait":
            time.sleep(600)
        case "note_end":
            atexit.register((Path(tempfile.gettempdir()) / f"ended-{os.getpid()}").write_text, "in order")
        case "twice":
            yield "first"
            yield "second"
        case float():
            time.sleep(task)
            yield task
        case bytes():
            yield task


class Counter:
    """Counts its tasks and does what each says."""

    def __init__(self, *, start: int = 0) -> None:
        if start < 0:
            raise TpoError("no model of a negative size: give another")
        self.count = start
        self.child = subprocess.Popen(["sleep", "600"])  # as vLLM has processes of its own

    def __call__(self, tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            self.count += 1
            if task == "who":
                yield Who(os.getpid(), self.child.pid, os.environ["SHARE"], self.count)
            else:
                yield from do(task)


def take_three() -> Callable[[Iterable[Any]], Iterator[list[Any]]]:
    """Return a stream function that takes tasks by threes."""

    def run(tasks: Iterable[Any]) -> Iterator[list[Any]]:
        source = iter(tasks)
        while group := list(itertools.islice(source, 3)):
            yield group

    return run


class Forked(NamedTuple):
    """A forked worker: its process, its parent, who made the model, what it has of it, and its threads."""

    pid: int
    stem: int
    made_by: int
    sum: int
    private: int  # bytes that it shares with no other process
    threads: int


class FakeModel:
    """A stream function that holds `size` bytes of ones and does what each task says."""

    def __init__(self, *, size: int = 0) -> None:
        match size:
            case -1:
                raise TpoError("no model of a negative size: give another")
            case -2:
                raise ValueError("a fault")
            case -3:
                os.kill(os.getpid(), signal.SIGKILL)
        self.ones, self.made_by = b"\1" * size, os.getpid()

    def __call__(self, tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            match task:
                case "who":
                    time.sleep(0.2)  # as long as the others read theirs
                    yield self._who()
                case "kill_stem":
                    os.kill(os.getppid(), signal.SIGKILL)
                    time.sleep(600)
                case _:
                    yield from do(task)

    def _who(self) -> Forked:
        count = self.ones.count(1)
        rollup = Path("/proc/self/smaps_rollup").read_text()
        private = sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private_"))
        threads = sys.modules["torch"].get_num_threads() if "torch" in sys.modules else 0
        return Forked(os.getpid(), os.getppid(), self.made_by, count, private * 1024, threads)
