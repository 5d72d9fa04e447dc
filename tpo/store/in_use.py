"""What stores are asked for, noted so that `python -m tpo.gc` deletes none of it.

A file in `<root>/.in_use/` for each process, with a lock that the kernel releases when the process ends, however it
ends. Where no file can be written nothing is deleted either, so that is no reason to fail. And a file in the folder of
each run, evaluation or measured judge that has not ended, beside the file in which it will name all that it rests on.
"""

import logging
import os
import re
import secrets
import socket
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tpo.store.files import translate_disk_errors, write_json
from tpo.store.locks import HeldError, LockError, hold
from tpo.store.progress import Listener
from tpo.store.stage import Step
from tpo.store.store import Store

log = logging.getLogger(__name__)

IN_USE = ".in_use"
ASKED = ".asked"  # how the name ends of a note in a run's folder
ARTIFACT_ID = re.compile(r"\b[a-z][a-z_]*-[0-9a-f]{12}\b")
TEMPORARY_S = 60.0  # a process locks and renames its new note sooner


class Noting(Listener):
    """Notes what a store is asked for."""

    def begin(self, step: Step) -> None:
        """Note a step that is computed."""
        self._note(step.artifact_id, step.inputs.values())

    def opened(self, artifact_id: str) -> None:
        """Note an artifact that no step asked for."""
        self._note(artifact_id)

    def end(self, step: Step, manifest: dict[str, Any], *, is_reused: bool) -> None:
        """Note a step whose artifact is there."""
        self._note(step.artifact_id, step.inputs.values())

    def _note(self, artifact_id: str, inputs: Iterable[str] = ()) -> None:
        raise NotImplementedError


class InUse(Noting):
    """The note of a process; a context, at whose end it goes."""

    def __init__(self, root: Path) -> None:
        """Write below the directory `root` of artifacts, when there is something to note."""
        name = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._file, self._noted, self._stack = root / IN_USE / name, set[str](), ExitStack()

    def __enter__(self) -> "InUse":
        """Return it."""
        return self

    def __exit__(self, *_: object) -> None:
        """Delete the note, and those of processes that were killed meanwhile."""
        if self._noted:
            self._file.unlink(missing_ok=True)
        self._stack.close()
        if self._noted:
            with suppress(OSError, LockError):
                ids_in_use(self._file.parent.parent)

    def _note(self, artifact_id: str, inputs: Iterable[str] = ()) -> None:
        if artifact_id in self._noted:
            return
        with suppress(OSError, LockError):
            if not self._noted:
                ids_in_use(self._file.parent.parent)  # without those of killed processes
                temporary = self._file.with_suffix(".tmp")
                self._stack.enter_context(hold(temporary, purpose="the note of what is in use"))
                temporary.replace(self._file)  # whoever finds it finds it locked
            self._noted.add(artifact_id)
            with self._file.open("a", encoding="utf-8") as file:
                file.write("".join(f"\n{name}" for name in (artifact_id, *inputs)))


class Asked(Noting):
    """The note in a run's folder; also tells where a run that has ended there rests on something else."""

    def __init__(self, file: Path, asked: Sequence[str]) -> None:
        """Write the note, with what a killed process noted there and what was asked for already.

        Args:
            file: In which the run will name all that it rests on, and one before may have.
            asked: What was asked for already.
        """
        self._file, self._path, self._before = file, file.with_suffix(ASKED), _read(file)
        self._asked = dict.fromkeys([*sorted(_read(self._path)), *asked])
        self._write()
        for artifact_id in asked:
            self._compare(artifact_id)

    def begin(self, step: Step) -> None:
        """Note a step that is computed."""
        self._compare(step.artifact_id)
        super().begin(step)

    def end(self, step: Step, manifest: dict[str, Any], *, is_reused: bool) -> None:
        """Note a step whose artifact is there."""
        self._compare(step.artifact_id)
        super().end(step, manifest, is_reused=is_reused)

    def _compare(self, artifact_id: str) -> None:
        if self._before and artifact_id not in self._before:
            log.warning(
                "%s is of other inputs than there are now: it does not name %s. Instructions, a model or this code "
                "have changed since; it is replaced when this run ends",
                self._file,
                artifact_id,
            )
            self._before = set()  # once is enough

    def _note(self, artifact_id: str, inputs: Iterable[str] = ()) -> None:
        if artifact_id not in self._asked:  # which its request, or its manifest, says the inputs of
            self._asked[artifact_id] = None
            self._write()

    def _write(self) -> None:
        with translate_disk_errors(self._path):
            write_json(self._path, list(self._asked))


@contextmanager
def noting(store: Store, file: Path) -> Iterator[None]:
    """Keep a note of what a store is asked for beside `file`, until that is written, when the context ends well."""
    store.listeners.append(Asked(file, [artifact.artifact_id for artifact in store.asked]))
    yield
    file.with_suffix(ASKED).unlink(missing_ok=True)


def ids_in_use(root: Path) -> set[str]:
    """Return the ids that running processes have asked for; delete the notes of those that were killed."""
    found: set[str] = set()
    for file in (root / IN_USE).glob("*"):
        try:
            if file.suffix == ".tmp" and time.time() - file.stat().st_mtime < TEMPORARY_S:
                continue  # of a process that is about to lock it
            with hold(file, purpose="gc", waits=False):
                file.unlink()
        except FileNotFoundError:
            continue
        except HeldError:
            found |= _read(file)
    return found


def _read(file: Path) -> set[str]:
    with suppress(FileNotFoundError):
        return set(ARTIFACT_ID.findall(file.read_text(encoding="utf-8", errors="replace")))
    return set()
