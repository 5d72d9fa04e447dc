"""A child process that executes steps on the device, one after the other, and keeps what they load between them.

vLLM takes long to start, and several steps of an iteration want the same engine: those that sample from one policy or
from the adapters of a training's epochs, and those that ask one judge. On a GPU the same holds for a judge's model in
plain torch. vLLM gives the device's memory back only when its process ends, and CUDA some of it. So the child ends when
a step wants an engine with other arguments, before vLLM starts where the child has used the device, and before a step
that uses the device elsewhere; a new child starts at once and imports vLLM while that step computes.
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
from tpo.store.memory import give_back, has_used_device
from tpo.store.processes.kept import OccupiedError, become_keeper, kept, let_go
from tpo.store.processes.launch import failure
from tpo.store.processes.workers import Workers
from tpo.store.progress import warning_parent
from tpo.store.stage import RunsOn

log = logging.getLogger(__name__)


class StepEnd(NamedTuple):
    """How the execution of a step in the child ended."""

    error: str | None = None  # what went wrong
    is_occupied: bool = False  # whether the child holds memory of the device that the step has to have
    holds_device: bool = False  # whether the child holds any of it after the step


class Resident:
    """The child process, seen from its parent.

    The child ends moments after its parent, however the parent ends. Another process that then gets the lock on the
    artifact needs longer to load a model, so the two never write to it at a time.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._workers: Workers | None = None
        self._holds_device = False
        self._uses_vllm = False  # whether any step has wanted it

    def execute(self, path: Path, runs_on: RunsOn = RunsOn.VLLM) -> None:
        """Execute the step that `path/request.json` asks for in the child.

        Args:
            path: The artifact's directory.
            runs_on: What the step computes with.

        Raises:
            ArtifactError: If it fails. The child has ended then, and the next step starts another.
        """
        self._uses_vllm |= runs_on == RunsOn.VLLM
        try:
            outcome = self._try(path, runs_on)
            if outcome.is_occupied:
                self.close()
                outcome = self._try(path, runs_on)
        except TpoError as ended:  # the child ended or was killed
            outcome = StepEnd(error=str(ended))
        error = "it wants two different models at a time" if outcome.is_occupied else outcome.error
        if error is not None:
            self.close()
            raise failure(path, f"failed: {error}")

    def make_room(self) -> None:
        """Free the device: end a child that holds memory of it, and start one that does not, if vLLM was wanted."""
        if not self._holds_device:
            return
        self.close()
        if not self._uses_vllm:
            return
        try:
            self._start(RunsOn.VLLM)
        except TpoError as error:  # the step whose turn it is does not need the child
            log.warning("the process for vLLM did not start: %s", error)
            self._workers = None

    def close(self) -> None:
        """End the child and wait until it and all processes that it started are gone."""
        if self._workers is not None:
            self._workers.end()
        self._workers, self._holds_device = None, False

    def _start(self, runs_on: RunsOn) -> Workers:
        self._workers = Workers([{}])
        self._workers.make(ChildSteps, [{"imports_vllm": runs_on == RunsOn.VLLM}])
        return self._workers

    def _try(self, path: Path, runs_on: RunsOn) -> StepEnd:
        if self._workers is not None and not self._workers.are_alive:
            log.warning(
                "the process that waited for steps on the device is gone, perhaps for want of memory: starting another"
            )
            self.close()
        workers = self._workers or self._start(runs_on)
        self._holds_device = True  # must be assumed until the child says what it has
        found: StepEnd
        [found] = workers.run([(path, runs_on)])
        self._holds_device = found.holds_device
        return found


class ChildSteps:
    """What the child does: it executes the steps that its parent sends."""

    def __init__(self, *, imports_vllm: bool) -> None:
        """Begin to import vLLM in a thread, where it is wanted, so that the parent does not wait for it."""
        become_keeper()
        self._importing = threading.Thread(target=_import_vllm if imports_vllm else lambda: None, daemon=True)
        self._importing.start()

    def __call__(self, steps: Iterable[tuple[Path, RunsOn]]) -> Iterator[StepEnd]:
        """Execute steps and yield how each ended."""
        for path, runs_on in steps:
            yield self._execute(path, runs_on)

    def _execute(self, path: Path, runs_on: RunsOn) -> StepEnd:
        from tpo.store.execute import execute

        started = time.time()
        self._importing.join()
        if _is_in_the_way(runs_on):
            return StepEnd(is_occupied=True, holds_device=True)
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
        give_back()
        return StepEnd(error, is_occupied, holds_device=kept() is not None or has_used_device())


def _is_in_the_way(runs_on: RunsOn) -> bool:
    """Return whether this process holds device memory that a step needs, whatever the step then asks for."""
    if runs_on == RunsOn.DEVICE:
        return not let_go()
    return runs_on == RunsOn.VLLM and kept() is None and has_used_device()


def _import_vllm() -> None:
    with contextlib.suppress(Exception):  # the step that needs vLLM reports what is wrong
        importlib.import_module("vllm.entrypoints.llm")
