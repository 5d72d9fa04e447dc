"""Coroutines that work through a stream of tasks, for engines and judges behind servers.

The event loop runs in the caller's thread, whenever the next result is asked for: tasks are taken from a plain iterator
that need not be safe for threads, and a caller that stops early leaves nothing behind.
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from typing import Any, Generic, TypeVar

from tpo.store.errors import TpoError

T = TypeVar("T")
R = TypeVar("R")

Emit = Callable[[R], Awaitable[None]]  # hands over a result, and waits until the consumer is done with it


class Flow(Generic[T, R]):
    """Tasks that coroutines take one by one, and the results that they hand over."""

    def __init__(self, tasks: Iterable[T]) -> None:
        """Take nothing yet."""
        self._tasks = iter(tasks)
        self._results: asyncio.Queue[tuple[R, asyncio.Future[None]]] = asyncio.Queue()
        self.failure: TpoError | None = None

    async def work(self, do: Callable[[T, Emit[R]], Awaitable[None]]) -> None:
        """Do one task after the other until there is none or one has failed, here or in another coroutine."""
        while self.failure is None:
            try:
                task = next(self._tasks)
            except StopIteration:
                return
            try:
                await do(task, self._emit)
            except TpoError as error:
                self.fail(error)

    def fail(self, error: TpoError) -> None:
        """Have no further task taken; those under way are finished."""
        self.failure = self.failure or error

    async def next(self, work: "asyncio.Task[None]") -> "tuple[R, asyncio.Future[None]] | None":
        """Return the next result, and what to set when it is dealt with; None when `work` has ended without another."""
        result = asyncio.ensure_future(self._results.get())
        await asyncio.wait({result, work}, return_when=asyncio.FIRST_COMPLETED)
        if result.done():
            return result.result()
        result.cancel()
        return None

    async def _emit(self, result: R) -> None:
        # Whoever emits takes no other task before the consumer has saved this result: a kill loses what is under way.
        is_taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._results.put_nowait((result, is_taken))
        await is_taken


def stream_concurrently(tasks: Iterable[T], run: Callable[[Flow[T, R]], Coroutine[Any, Any, None]]) -> Iterator[R]:
    """Yield what `run` makes of the tasks, as it hands it over; a caller that stops early cancels what is under way.

    Args:
        tasks: Taken as coroutines become free.
        run: Awaits as many `Flow.work` as there are to be tasks under way at a time.

    Raises:
        TpoError: The first with which a task failed, after the results of all that were under way with it.
    """
    flow = Flow[T, R](tasks)
    with asyncio.Runner() as runner:  # cancels at its end whatever is left
        work = runner.get_loop().create_task(run(flow))
        while (found := runner.run(flow.next(work))) is not None:
            result, is_taken = found
            yield result
            is_taken.set_result(None)
        work.result()
    if flow.failure is not None:
        raise flow.failure
