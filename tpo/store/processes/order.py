"""Results in the order of their tasks, from workers that finish them in any order."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from tpo.store.processes.streams import Stream


def numbered(factory: Callable[..., Stream], **arguments: Any) -> Stream:
    """Return the stream function that `in_order` wants of each worker: (number, task) to (number, result).

    Args:
        factory: Of a stream function that yields one result a task, in the order of its tasks.
        arguments: For `factory`.
    """
    stream = factory(**arguments)

    def run(tasks: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
        numbers: deque[int] = deque()

        def unnumbered() -> Iterator[Any]:
            for number, task in tasks:
                numbers.append(number)
                yield task

        for result in stream(unnumbered()):
            yield numbers.popleft(), result

    return run


def in_order(stream: Stream, tasks: Iterable[Any]) -> Iterator[Any]:
    """Yield one result a task, in the order of the tasks.

    What is finished before an earlier task is kept until that is finished too: as many results as the other workers
    have meanwhile.

    Args:
        stream: `run` of workers whose stream function is `numbered`.
        tasks: Taken as there is room for them.
    """
    finished: dict[int, Any] = {}
    first = 0
    for number, result in stream(enumerate(tasks)):
        finished[number] = result
        while first in finished:
            yield finished.pop(first)
            first += 1
