"""Both ends of stream functions that run in other processes: the parent's, which gives tasks, and the worker's.

A stream function takes tasks lazily and yields results: `Callable[[Iterable[Task]], Iterator[Result]]`. In a worker it
pulls its next task from the parent when it has room for it, so a worker that batches continuously goes on doing so
across tasks, and whichever worker is free takes the next one. No worker waits for another.
"""

import contextlib
import logging
import queue
import signal
import threading
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import cycle
from multiprocessing.connection import Connection, wait
from typing import Any, NoReturn

from tpo.store.errors import TpoError, describe

POLL_S = 1.0  # how often to look whether a worker is alive: its children may keep the socket of a dead one open

Stream = Callable[[Iterable[Any]], Iterator[Any]]
NO_MORE = object()

log = logging.getLogger(__name__)


class Pool(ABC):
    """The parent's end: processes with a connection each, all of which are ended when one of them fails."""

    _connections: list[Connection]

    def run(self, tasks: Iterable[Any], *, in_turn: bool = False) -> Iterator[Any]:
        """Yield results as they come, in any order, until every task is done.

        Args:
            tasks: Taken one by one, in order, when a worker asks for its next.
            in_turn: Whether the workers get the tasks in turn, so that which one does which does not depend on time, as
                far as what a worker computes depends on what else it does. Otherwise whichever asks gets the next.

        Raises:
            TpoError: If a worker fails or is killed. Results yielded before are valid; all workers are ended, as they
                are when the caller stops reading early.
        """
        count = len(self._connections)
        return self._exchange([("run", None)] * count, Deal(tasks, count) if in_turn else Queue(tasks))

    @abstractmethod
    def close(self) -> None:
        """Kill all workers and wait until they are gone."""

    @abstractmethod
    def _is_alive(self, number: int) -> bool:
        """Return whether a worker, counted from 0, runs."""

    @abstractmethod
    def _exit_code(self, number: int) -> int | None:
        """Return how a worker ended, waiting for its end for a while; None where that cannot be known."""

    @abstractmethod
    def _name(self, number: int) -> str:
        """Return what messages call a worker."""

    def _exchange(self, requests: Sequence[Any], tasks: "Queue | Deal | None" = None) -> Iterator[Any]:
        try:
            yield from self._results(requests, tasks or Queue(()))
        except BaseException:
            self.close()
            raise

    def _results(self, requests: Sequence[Any], tasks: "Queue | Deal") -> Iterator[Any]:
        for number, request in enumerate(requests):
            self._send(number, request)
        busy = set(range(len(requests)))
        asked: set[int] = set()
        asking: list[int] = []
        while busy:
            numbers = {self._connections[number]: number for number in busy}
            ready = wait(list(numbers), timeout=POLL_S)
            results = []
            for connection in ready:
                number = numbers[connection]  # type: ignore[index]  # wait gives back what it was given
                match self._receive(number):
                    case "next", _:
                        asking.append(number)
                        asked.add(number)
                    case "result", result:
                        results.append(result)
                    case "done", _:
                        busy.remove(number)
                    case _, error:
                        raise TpoError(f"{self._name(number)} failed: {error}")
            if asked >= busy:  # from the first task on: a worker that began sooner would take more than its share
                for number in asking:
                    task = tasks.next_of(number)
                    self._send(number, ("no_more", None) if task is NO_MORE else ("task", task))
                asking.clear()
            yield from results
            for number in busy if not ready else ():
                if not self._is_alive(number):
                    self._raise_lost(number)

    def _send(self, number: int, message: Any) -> None:
        try:
            self._connections[number].send(message)
        except OSError:
            self._raise_lost(number)

    def _receive(self, number: int) -> tuple[str, Any]:
        try:
            message: tuple[str, Any] = self._connections[number].recv()
        except (EOFError, OSError):
            self._raise_lost(number)
        return message

    def _raise_lost(self, number: int) -> NoReturn:
        how = describe_end(self._exit_code(number))
        raise TpoError(f"{self._name(number)} {how}; what it wrote is above. Is there enough memory?") from None


class Queue:
    """Tasks of which whichever worker asks gets the next."""

    def __init__(self, tasks: Iterable[Any]) -> None:
        """Take none yet."""
        self._tasks = iter(tasks)

    def next_of(self, number: int) -> Any:
        """Return a worker's next task, or `NO_MORE`."""
        return next(self._tasks, NO_MORE)


class Deal:
    """Tasks that workers get in turn; those of a slower worker wait for it."""

    def __init__(self, tasks: Iterable[Any], count: int) -> None:
        """Take none yet; `count` is the number of workers."""
        self._tasks = zip(cycle(range(count)), tasks, strict=False)
        self._waiting: list[deque[Any]] = [deque() for _ in range(count)]

    def next_of(self, number: int) -> Any:
        """Return a worker's next task, or `NO_MORE`."""
        own = self._waiting[number]
        while not own and (dealt := next(self._tasks, None)) is not None:
            self._waiting[dealt[0]].append(dealt[1])
        return own.popleft() if own else NO_MORE


def describe_end(code: int | None) -> str:
    """Return how a process ended, as a message says it; None where that is not known."""
    if code is not None and code < 0:
        return f"was killed by {signal.Signals(-code).name}"
    return "is gone" if code is None else f"ended with exit code {code}"


def serve(connection: Connection, stream: Stream | None = None, *, orphaned: Callable[[], None]) -> None:
    """Carry out the parent's requests until it asks for the end; the worker's end.

    Args:
        connection: To the parent.
        stream: The stream function; None where the parent asks for one to be made.
        orphaned: Called in another thread when the connection closes, which is how a worker learns that its parent
            has died; ends the process.

    Raises:
        SystemExit: After an error, which the parent has been told.
    """
    messages: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, messages, orphaned), daemon=True).start()
    try:
        while True:
            match messages.get():
                case "make", (factory, arguments):
                    stream = factory(**arguments)
                case "run", _:
                    assert stream is not None
                    for result in stream(_pull(connection, messages)):
                        connection.send(("result", result))
                case _:
                    return
            connection.send(("done", None))
    except Exception as error:
        if not isinstance(error, TpoError):
            log.exception("a worker failed")
        connection.send(("failed", describe(error)))
        raise SystemExit(1) from None


def _receive(
    connection: Connection, messages: "queue.SimpleQueue[tuple[str, Any]]", orphaned: Callable[[], None]
) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            messages.put(connection.recv())
    orphaned()


def _pull(connection: Connection, messages: "queue.SimpleQueue[tuple[str, Any]]") -> Iterator[Any]:
    while True:
        connection.send(("next", None))
        kind, task = messages.get()
        if kind == "no_more":
            return
        yield task
