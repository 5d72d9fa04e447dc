"""Which artifacts running processes have asked for, so that `python -m tpo.gc` deletes none of them.

A file in `<root>/.in_use/` for each process, with a lock that the kernel releases when the process ends, however it
ends. Where no file can be written nothing is deleted either, so that is no reason to fail.
"""

import os
import re
import secrets
import socket
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from tpo.store.locks import HeldError, LockError, hold
from tpo.store.progress import Listener
from tpo.store.stage import Step

IN_USE = ".in_use"
ARTIFACT_ID = re.compile(r"\b[a-z][a-z_]*-[0-9a-f]{12}\b")
TEMPORARY_S = 60.0  # a process locks and renames its new note sooner


class InUse(Listener):
    """Notes what a store is asked for; a context, at whose end the note goes."""

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
