"""A thread with the engine: requests of many clients decode together, and wait in a queue of bounded length."""

import logging
import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

from tpo.sample.decoding import LiveEngine, Progress
from tpo.store.errors import describe
from tpo.use.answer import Answer

log = logging.getLogger(__name__)

#: Called in the sampler's thread with each progress of a request, or with the error that ended all of them.
Notify = Callable[[Progress | Exception], None]


class BusyError(Exception):
    """The queue is full."""


class FailedError(Exception):
    """The engine has failed, or is closed; says how."""


class _Job(NamedTuple):
    answer: Answer
    notify: Notify


class Sampler:
    """Lets a `LiveEngine` sample, in a thread of its own, for whoever asks in any other."""

    def __init__(self, engine: LiveEngine, *, max_waiting: int) -> None:
        """Start the thread.

        Args:
            engine: Used by nobody else from here on.
            max_waiting: Requests that may wait beside those that decode together.
        """
        self._engine, self._max_jobs = engine, engine.max_sequences + max_waiting
        self._changed = threading.Condition()
        self._jobs: dict[str, _Job] = {}
        self._new: list[Answer] = []
        self._cancelled: list[str] = []
        self._is_closed = False
        self.failure: str | None = None
        self._thread = threading.Thread(target=self._run, name="sampler", daemon=True)
        self._thread.start()

    @property
    def num_jobs(self) -> int:
        """How many requests are under way or wait."""
        return len(self._jobs)

    def submit(self, answers: Sequence[Answer], notify: Sequence[Notify]) -> None:
        """Add requests, all or none.

        Raises:
            BusyError: If there is no room for them.
            FailedError: If the engine has failed or is closed.
        """
        with self._changed:
            if self.failure is not None or self._is_closed:
                raise FailedError(self.failure or "the server is closing")
            if len(self._jobs) + len(answers) > self._max_jobs:
                raise BusyError
            for answer, told in zip(answers, notify, strict=True):
                self._jobs[answer.request.key] = _Job(answer, told)
            self._new += answers
            self._changed.notify()

    def cancel(self, keys: Sequence[str]) -> None:
        """Take requests out, as far as they have not ended."""
        with self._changed:
            self._cancelled += [key for key in keys if self._jobs.pop(key, None) is not None]
            self._changed.notify()

    def close(self) -> None:
        """End the thread, and with it what is under way."""
        with self._changed:
            self._is_closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        try:
            while self._take_changes():
                for progress in self._engine.step():
                    self._tell(progress)
        except Exception as error:  # an engine's: nothing can be sampled after it
            log.exception("the engine has failed")
            self._end(describe(error))
        else:
            self._end("the server is closing")

    def _take_changes(self) -> bool:
        """Wait until there is something to do; return whether to go on."""
        with self._changed:
            while not (self._new or self._cancelled or self._is_closed or len(self._engine)):
                self._changed.wait()
            new, self._new = self._new, []
            cancelled, self._cancelled = self._cancelled, []
            if self._is_closed:
                return False
        for answer in new:
            if answer.request.key not in cancelled:
                self._engine.add(answer.request, answer.decoding)
        for key in cancelled:
            self._engine.cancel(key)
        return True

    def _tell(self, progress: Progress) -> None:
        with self._changed:
            job = self._jobs.get(progress.key)
            if job is not None and progress.generation is not None:
                del self._jobs[progress.key]
        if job is not None:
            job.notify(progress)

    def _end(self, reason: str) -> None:
        with self._changed:
            self.failure = reason
            jobs, self._jobs = list(self._jobs.values()), {}
        for job in jobs:
            job.notify(FailedError(reason))
