"""A child process that executes the steps with vLLM, one after the other, and keeps the engine between them.

vLLM takes long to start, and several steps of an iteration want the same engine: those that sample from one policy or
from the adapters of a training's epochs, and those that ask one judge. vLLM gives the device's memory back only when
its process ends. So the child ends when a step wants an engine with other arguments, and before a step that uses the
device without vLLM; a new child starts at once and imports vLLM while that step computes.
"""

import contextlib
import importlib
import logging
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from tpo.store.errors import TpoError, describe
from tpo.store.files import translate_disk_errors
from tpo.store.processes.launch import failure
from tpo.store.processes.workers import Workers
from tpo.store.progress import warning_parent

log = logging.getLogger(__name__)


class StepEnd(NamedTuple):
    """How the execution of a step in the child ended."""

    error: str | None = None  # what went wrong
    is_occupied: bool = False  # whether the child has an engine with other arguments than the step wants
    has_engine: bool = False  # whether the child has an engine after the step


class Resident:
    """The child process, seen from its parent.

    The child ends moments after its parent, however the parent ends. Another process that then gets the lock on the
    artifact needs longer to load a model, so the two never write to it at a time.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._workers: Workers | None = None
        self._has_engine = False

    def execute(self, path: Path) -> None:
        """Execute the step that `path/request.json` asks for in the child.

        Raises:
            ArtifactError: If it fails. The child has ended then, and the next step starts another.
        """
        try:
            outcome = self._try(path)
            if outcome.is_occupied:
                self.close()
                outcome = self._try(path)
        except TpoError as ended:  # the child ended or was killed
            outcome = StepEnd(error=str(ended))
        error = "it wants two different models in vLLM" if outcome.is_occupied else outcome.error
        if error is not None:
            self.close()
            raise failure(path, f"failed: {error}")

    def make_room(self) -> None:
        """Free the device: end a child that has an engine, and start one without."""
        if not self._has_engine:
            return
        self.close()
        try:
            self._start()
        except TpoError as error:  # the step whose turn it is does not need the child
            log.warning("the process for vLLM did not start: %s", error)
            self._workers = None

    def close(self) -> None:
        """End the child and wait until it and all processes that it started are gone."""
        if self._workers is not None:
            self._workers.end()
        self._workers, self._has_engine = None, False

    def _start(self) -> Workers:
        self._workers = Workers([{}])
        self._workers.make(ChildSteps, [{}])
        return self._workers

    def _try(self, path: Path) -> StepEnd:
        if self._workers is not None and not self._workers.are_alive:
            log.warning(
                "the process that waited for steps with vLLM is gone, perhaps for want of memory: starting another"
            )
            self.close()
        workers = self._workers or self._start()
        self._has_engine = True  # must be assumed until the child says what it has
        found: StepEnd
        [found] = workers.run([path])
        self._has_engine = found.has_engine
        return found


class ChildSteps:
    """What the child does: it executes the steps that its parent sends."""

    def __init__(self) -> None:
        """Begin to import vLLM in a thread, so that the parent does not wait for it."""
        self._importing = threading.Thread(target=_import_vllm, daemon=True)
        self._importing.start()

    def __call__(self, paths: Iterable[Path]) -> Iterator[StepEnd]:
        """Execute steps and yield how each ended."""
        for path in paths:
            yield self._execute(path)

    def _execute(self, path: Path) -> StepEnd:
        from tpo.store.execute import execute
        from tpo.store.processes.vllm import OccupiedError, has_engine

        started = time.time()
        self._importing.join()
        error, is_occupied = None, False
        try:
            with warning_parent(path), translate_disk_errors(path):
                execute(path, started=started)
        except OccupiedError:
            is_occupied = True
        except Exception as failed:
            if not isinstance(failed, TpoError):
                log.exception("%s failed", path.name)
            error = describe(failed)
        return StepEnd(error, is_occupied, has_engine())


def _import_vllm() -> None:
    with contextlib.suppress(Exception):  # the step that needs vLLM reports what is wrong
        importlib.import_module("vllm.entrypoints.llm")
