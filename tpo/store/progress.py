"""What a step has done so far: told by the process that computes it, to every process that waits for it.

A line for each report in `progress.tmp`, a file in the artifact's directory that is no part of the artifact and is
deleted with the manifest's arrival: whether the step runs in this process, in a child, in several that train together
or in another run that this one waits for, its parent reads the same lines. A run's terminal and its tracker are
listeners (`Listener`).
"""

import contextlib
import json
import logging
import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self, TextIO

from tpo.store.secrets import hidden
from tpo.store.stage import Step

log = logging.getLogger(__name__)

PROGRESS = "progress.tmp"  # no artifact has .tmp files, and what a killed attempt left is deleted with them
REPORT_S = 1.0  # between two reports of how much is done
POLL_S = 0.25  # between two looks at the file


class State(NamedTuple):
    """How much of a step is done.

    Attributes:
        done: Units that are done, those of earlier attempts among them.
        total: Units in all.
        unit: What a unit is: "completion", "response", "step".
        kept: What another attempt need not do again, as words: "120 of 512 completions".
        tokens_per_second: Since this attempt began; None where tokens are not counted.
        device_memory_mib: In use on the device, by whichever process; None where there is none.
    """

    done: int
    total: int
    unit: str
    kept: str
    tokens_per_second: float | None = None
    device_memory_mib: float | None = None


class Progress:
    """The end of the process that does the work: a context that writes the first and the last state for certain."""

    def __init__(self, path: Path, *, total: int, unit: str, done: int = 0) -> None:
        """Open the file.

        Args:
            path: The artifact's directory.
            total: Units in all.
            unit: What a unit is.
            done: Units that an earlier attempt did.
        """
        self._path, self.total, self.unit, self.done = path / PROGRESS, total, unit, done
        self.kept: str | None = None  # where it is not the units that are kept
        self._num_tokens, self._started, self._reported = 0, time.monotonic(), -REPORT_S
        self._file: TextIO | None = None

    def __enter__(self) -> Self:
        """Report what there is to do."""
        self._file = self._path.open("a", encoding="utf-8")
        self._report()
        return self

    def __exit__(self, *_: object) -> None:
        """Report what was done."""
        self._report()
        assert self._file is not None
        self._file.close()

    def advance(self, count: int = 1, *, num_tokens: int = 0) -> None:
        """Count units that were done, and their tokens."""
        self.done += count
        self._num_tokens += num_tokens
        if time.monotonic() - self._reported >= REPORT_S:
            self._report()

    def measured(self, number: int, values: dict[str, Any]) -> None:
        """Tell what was measured of a step of training, counted from 1, in plain JSON types."""
        self._write({"measured": [number, values]})

    def _report(self) -> None:
        self._reported = time.monotonic()
        seconds = self._reported - self._started
        state = State(
            self.done,
            self.total,
            self.unit,
            self.kept or f"{self.done:,} of {counted(self.total, self.unit)}",
            self._num_tokens / seconds if self._num_tokens and seconds > 0 else None,
            _device_memory_mib(),
        )
        self._write({"state": state._asdict()})

    def _write(self, report: dict[str, Any]) -> None:
        assert self._file is not None
        self._file.write(json.dumps(report) + "\n")
        self._file.flush()


def _device_memory_mib() -> float | None:
    torch = sys.modules.get("torch")  # to import it here would cost a step that does not need it seconds
    if torch is None or not (torch.cuda.is_available() and torch.cuda.is_initialized()):
        return None
    free, total = torch.cuda.mem_get_info()
    return float(round((total - free) / 2**20, 1))


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 stage", "1,200 stages"."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


class Listener:
    """What is told of a store's steps. This one ignores it all.

    `begin` and `end` are called by the thread that requests, the others by one that reads what a step reports.
    """

    def begin(self, step: Step) -> None:
        """Take note that a step is not there: it is computed now, here or by a process that is waited for."""

    def progressed(self, step: Step, state: State) -> None:
        """Take note of how much of the step is done."""

    def measured(self, step: Step, number: int, values: dict[str, Any]) -> None:
        """Take note of what was measured of a step of training, counted from 1; each attempt begins with the first."""

    def warned(self, step: Step, text: str) -> None:
        """Take note of what a child process that computes the step has to say to the user."""

    def opened(self, artifact_id: str) -> None:
        """Take note that an artifact is used that no step asked for."""

    def end(self, step: Step, manifest: dict[str, Any], *, is_reused: bool) -> None:
        """Take note that a step's artifact is there; also called where it was there before."""


class ToParent(logging.Handler):
    """Hands a child process's warnings to its parent."""

    def __init__(self, path: Path) -> None:
        """Write to the progress file in the artifact's directory `path`."""
        super().__init__(logging.WARNING)
        self._path = path / PROGRESS
        self.addFilter(logging.Filter("tpo"))

    def emit(self, record: logging.LogRecord) -> None:
        """Write a warning down."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"warned": hidden(record.getMessage())}) + "\n")


@contextmanager
def warning_parent(path: Path) -> Iterator[None]:
    """Hand the warnings of this process, a child that executes the step in `path`, to its parent as well."""
    handler = ToParent(path)
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)


class Watch:
    """Reads what a step reports, and tells it to listeners.

    Attributes:
        state: How much was done at the last report; None before the first.
    """

    def __init__(self, path: Path, step: Step, listeners: Sequence[Listener]) -> None:
        """Read nothing yet.

        Args:
            path: The artifact's directory.
            step: That is computed there.
            listeners: Whom to tell.
        """
        self._path, self._step, self._listeners = path / PROGRESS, step, listeners
        self._file: BinaryIO | None = None  # open, so that no other attempt's file can have its inode
        self._begun, self._lock = b"", threading.Lock()
        self.state: State | None = None

    def read(self) -> None:
        """Tell what was reported since the last time."""
        with self._lock:
            self._read()

    def close(self) -> None:
        """Tell the rest, and read no more."""
        with self._lock:
            try:
                self._read()
            finally:
                if self._file is not None:
                    self._file.close()
                    self._file = None

    def _read(self) -> None:
        text = b"" if self._file is None else self._file.read()
        with contextlib.suppress(FileNotFoundError):  # not begun, or complete
            if self._file is None or not os.path.samestat(os.fstat(self._file.fileno()), self._path.stat()):
                self._tell(self._begun + text)
                if self._file is not None:
                    self._file.close()
                self._file, self._begun = self._path.open("rb"), b""
                text = self._file.read()
        *lines, self._begun = (self._begun + text).split(b"\n")
        self._tell(b"\n".join(lines))

    def _tell(self, lines: bytes) -> None:
        state = None
        for line in lines.splitlines():
            try:
                report = json.loads(line)
            except ValueError:  # cut by a kill, and another process's next report behind it
                continue
            for kind, value in report.items():
                match kind:
                    case "state":
                        state = State(**value)
                    case "measured":
                        for listener in self._listeners:
                            listener.measured(self._step, *value)
                    case "warned":
                        for listener in self._listeners:
                            listener.warned(self._step, value)
        if state is not None:  # only the last: the ones before it are past
            self.state = state
            for listener in self._listeners:
                listener.progressed(self._step, state)


@contextmanager
def watching(path: Path, step: Step, listeners: Sequence[Listener]) -> Iterator[Watch]:
    """Tell listeners what a step reports while it is computed in the context, or by a process that it waits for.

    Args:
        path: The artifact's directory.
        step: That is computed there.
        listeners: Whom to tell; with none nothing is read.
    """
    watch, is_over = Watch(path, step, listeners), threading.Event()

    def look() -> None:
        try:
            while not is_over.wait(POLL_S):
                watch.read()
            watch.close()
        except Exception:  # to show progress must not end a run
            log.exception("%s: progress is no longer shown", step.artifact_id)

    thread = threading.Thread(target=look, daemon=True)
    if listeners:
        thread.start()
    try:
        yield watch
    finally:
        is_over.set()
        if listeners:
            thread.join()
