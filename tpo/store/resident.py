"""A process beside this one that executes the stages with vLLM, one after the other, and keeps their vLLM between them.

vLLM takes long to start, and the stages of an iteration that sample from one policy, from the
adapters of a training's epochs, or ask one judge, want the same. The process ends when a stage wants another, and
before one that needs the device itself: vLLM gives its memory back in no other way. Its successor starts at once, and
imports vLLM while the other stage computes.
"""

import contextlib
import importlib
import logging
import threading
import time
from pathlib import Path
from typing import NamedTuple

from tpo.store.errors import TpoError, describe
from tpo.store.files import translate_disk_errors
from tpo.store.processes.launch import failure
from tpo.store.processes.workers import Emit, Workers

log = logging.getLogger(__name__)


class StageEnd(NamedTuple):
    """How the execution of a stage ended."""

    error: str | None = None  # what went wrong
    is_occupied: bool = False  # whether the process keeps another vLLM than the stage wants
    is_keeping: bool = False  # whether it keeps any from now on


class Resident:
    """The process, as the one that gives it stages sees it.

    It ends moments after this one, however this one ends: long before whoever then gets the lock on an artifact has
    loaded what it needs to write there.
    """

    def __init__(self) -> None:
        """Start nothing yet."""
        self._workers: Workers | None = None
        self._keeps_vllm = False

    def execute(self, path: Path) -> None:
        """Execute the stage that `path/request.json` asks for.

        Raises:
            ArtifactError: If it fails. The process has ended then, and the next stage begins in a fresh one.
        """
        try:
            outcome = self._try(path)
            if outcome.is_occupied:
                self.close()
                outcome = self._try(path)
        except TpoError as ended:  # or it was killed
            outcome = StageEnd(error=str(ended))
        error = "it wants two different models in vLLM" if outcome.is_occupied else outcome.error
        if error is not None:
            self.close()
            raise failure(path, f"failed: {error}")

    def make_room(self) -> None:
        """Have the process hold nothing of the device: one that does makes way for a fresh one."""
        if not self._keeps_vllm:
            return
        self.close()
        try:
            self._start()
        except TpoError as error:  # whose turn it is has no use for it
            log.warning("no process for vLLM yet: %s", error)
            self._workers = None

    def close(self) -> None:
        """End the process, and wait until it is gone with all that it started."""
        if self._workers is not None:
            self._workers.end()
        self._workers, self._keeps_vllm = None, False

    def _start(self) -> Workers:
        self._workers = Workers([{}])
        self._workers.make(Stages, [{}])
        return self._workers

    def _try(self, path: Path) -> StageEnd:
        if self._workers is not None and not self._workers.are_alive:
            log.warning("the process that waited for stages with vLLM is gone, perhaps for want of memory: another")
            self.close()
        workers = self._workers or self._start()
        self._keeps_vllm = True  # as far as is known
        [(_, outcome)] = workers.run({0: path})
        found: StageEnd = outcome
        self._keeps_vllm = found.is_keeping
        return found


class Stages:
    """The process itself."""

    def __init__(self) -> None:
        """Begin to import vLLM, which the other process need not wait for."""
        self._importing = threading.Thread(target=_import_vllm, daemon=True)
        self._importing.start()

    def __call__(self, path: Path, emit: Emit) -> None:
        """Execute a stage; `emit` gets its one `StageEnd`."""
        from tpo.store.execute import execute
        from tpo.store.processes.vllm import OccupiedError, is_keeping

        started = time.time()
        self._importing.join()
        error, is_occupied = None, False
        try:
            with translate_disk_errors(path):
                execute(path, started=started)
        except OccupiedError:
            is_occupied = True
        except Exception as failed:
            if not isinstance(failed, TpoError):
                log.exception("%s failed", path.name)
            error = describe(failed)
        emit(StageEnd(error, is_occupied, is_keeping()))


def _import_vllm() -> None:
    with contextlib.suppress(Exception):  # the stage will say what is wrong
        importlib.import_module("vllm.entrypoints.llm")
