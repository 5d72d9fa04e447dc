"""Digests of an artifact's files: each computed once, and remembered beside them with the state of the file.

`.digests.json` in an artifact's directory, which is no part of its content, holds the sha256 of each file that was read
whole, with the file's size, inode, mtime and ctime at that time. While these four are the same the file is not read
again. A changed, replaced, moved or copied file has others, if only another ctime, which the kernel sets at every
change and no call sets back; it is read once more.

Not detected: a change that restores all four, for which the machine's clock has to be set back or the disk written past
the file system; data that a disk loses after they were read; a second write to a page of a mapped file that was
modified before the digest was computed and not written to the disk since. On file systems that store times in whole
seconds: a change that keeps the size, within a second before the digest was computed. On NFS another machine's change,
for as long as the client caches the file's attributes, at most a minute by default.

Deleting `.digests.json` costs one reading of the files. So does a directory that cannot be written, or a network file
system that gives each machine other inodes, once in every process.
"""

import json
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from tpo.store.files import SealError, file_digest, read_sealed, replacing, sync, sync_below, write_sealed

DIGESTS = ".digests.json"
CLOCK_TICK_S = 0.02  # Linux stamps files with the time of its last timer interrupt; they are at most 10 ms apart


class FileState(NamedTuple):
    """What changes whenever a file's content does."""

    size: int
    inode: int
    mtime_ns: int
    ctime_ns: int


class Known(NamedTuple):
    """A digest, and the state in which the file has it."""

    state: FileState
    digest: str


_computed: dict[Path, Known] = {}  # by this process


def digests(folder: Path, names: Iterable[str]) -> dict[str, str]:
    """Return the sha256 in hex of the named files of a folder, reading only those whose state is not a remembered one.

    Several processes may do so at the same time; each may then read the same file.

    Args:
        folder: An artifact's directory.
        names: Paths relative to it.

    Returns:
        Name to digest, without the names that are not files.
    """
    remembered = _recall(folder)
    found: dict[str, str] = {}
    new: dict[str, Known] = {}
    for name in names:
        file = folder / name
        if not file.is_file():
            continue
        state = _state(file)
        known = next((it for it in (remembered.get(name), _computed.get(file)) if it and it.state == state), None)
        if known is None:
            known = new[name] = _computed[file] = Known(state, _compute(file, state))
        found[name] = known.digest
    if new:
        _remember(folder, new)
    return found


def vouch(marker: Path, folder: Path, names: Iterable[str]) -> None:
    """Write to `marker` what the named files of a folder hold, once the disk holds them."""
    names = sorted(names)
    sync_below(folder, names)
    write_sealed(marker, {"files": digests(folder, names)})
    sync([marker.parent])


def unlike(marker: Path, folder: Path) -> set[str] | None:
    """Return the names of the files that are missing from a folder or are others than when `vouch` wrote the marker.

    None where there is no marker, or it is damaged: nothing is vouched for.
    """
    try:
        expected: dict[str, str] = read_sealed(marker)["files"]
    except (FileNotFoundError, SealError):
        return None
    found = digests(folder, expected)
    return {name for name, digest in expected.items() if found.get(name) != digest}


def _state(file: Path) -> FileState:
    status = file.stat()
    return FileState(status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns)


def _compute(file: Path, state: FileState) -> str:
    """Return a file's digest, not before the clock has ticked since its last change.

    A later change then gives the file another ctime than `state` has, so that `state` can stand for this content.
    """
    age_s = (time.time_ns() - state.ctime_ns) / 1e9
    time.sleep(min(max(CLOCK_TICK_S - age_s, 0), CLOCK_TICK_S))
    return file_digest(file)


def _recall(folder: Path) -> dict[str, Known]:
    """Return what is remembered of a folder's files, nothing where that cannot be read."""
    try:
        entries = json.loads((folder / DIGESTS).read_text())
        return {name: Known(FileState(*state), digest) for name, (state, digest) in entries.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _remember(folder: Path, new: dict[str, Known]) -> None:
    """Add entries to those that are there; one that another process adds at the same moment may be lost."""
    with suppress(OSError), replacing(folder / DIGESTS) as temporary:
        temporary.write_text(json.dumps(_recall(folder) | new, indent=1) + "\n")
