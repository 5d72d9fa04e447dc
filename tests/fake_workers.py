"""What worker processes hold in tests. A module of its own, since every worker imports it: no torch, no pytest."""

import atexit
import itertools
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tpo.store.errors import TpoError

TESTS = Path(__file__).parent


def shares(count: int) -> list[dict[str, str]]:
    """Return an environment per worker: its number, and where it finds this module."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return [{"SHARE": str(number), "PYTHONPATH": path} for number in range(count)]


class Who(NamedTuple):
    """A worker: its process, the child of that, its share, and how many tasks it has had."""

    pid: int
    child: int
    share: str
    count: int


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
            yield from self._do(task)

    def _do(self, task: Any) -> Iterator[Any]:
        match task:
            case "who":
                yield Who(os.getpid(), self.child.pid, os.environ["SHARE"], self.count)
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


def take_three() -> Callable[[Iterable[Any]], Iterator[list[Any]]]:
    """Return a stream function that takes tasks by threes."""

    def run(tasks: Iterable[Any]) -> Iterator[list[Any]]:
        source = iter(tasks)
        while group := list(itertools.islice(source, 3)):
            yield group

    return run
