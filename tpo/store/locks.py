"""Exclusive locks on files, between processes of one machine or of several that share a file system.

flock(2), because the kernel releases a lock when its holder dies, however it dies: there are no stale locks, no timeout
and no clock. On file systems that machines share:

- NFS: Linux sends flock to the server as a lock on the whole file. This needs the file open for writing (version 4), a
  lock service on both sides (version 3), and none of the mount options `nolock`, `local_lock=flock`, `local_lock=all`,
  with which a lock holds on one machine only. The locks of a machine that crashes are released when its lease ends
  (version 4, 90 s by default) or when it is back (version 3). A lock holder that loses its connection to the server
  loses the lock to another machine, and continues to write when it is connected again: this is not detected.
- Lustre: needs the mount option `flock`; with `localflock` a lock holds on one machine only, with neither flock fails.
- SMB with `nobrl` and sshfs: a lock holds on one machine only. For other file systems see their documentation.

Where the file system refuses locks, nothing runs. Whether they hold on one machine only cannot be detected: check the
mount's options (`findmnt -T artifacts`) before two machines compute in one folder.

Tried with Linux 6.1 on NFS 4.2 and 3, two mounts in one virtual machine that share no cache: one process computes, the
other waits and reuses; a killed holder's work is continued within 0.1 s from its last row; a child keeps the lock of
its killed parent; four processes on both mounts count to 40. Not tried: separate machines, a server that restarts,
Lustre, SMB.
"""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from tpo.store.errors import TpoError

log = logging.getLogger(__name__)

GRACE_S = 0.1  # shorter waits are not logged; a new holder has written its note by then

_held: set[int] = set()  # descriptors of the locks that this process holds or waits for


class LockError(TpoError):
    """A file system that refuses to lock."""


class HeldError(LockError):
    """A lock that another process holds, and that is not waited for."""


@contextmanager
def hold(path: Path, *, purpose: str, is_inheritable: bool = False, waits: bool = True) -> Iterator[None]:
    """Hold the lock on the file `path`; wait until its holder, if there is one, releases it.

    A wait is logged once, with the lock holder. Inside the context this process sees what the last holder wrote beside
    `path`, on NFS too.

    Args:
        path: Created if missing, with its folder. Where the folder was moved or deleted meanwhile, which only the
            holder should do, the lock on the new one is taken.
        purpose: What the lock is for, the first words of the line in the log.
        is_inheritable: Whether a child started with `close_fds=False` keeps the lock when this process is killed. A
            forked child never does.
        waits: False to fail where another process holds it.

    Raises:
        HeldError: If another process holds it, and this one does not wait.
        LockError: If the file system refuses to lock.
    """
    descriptor = _open(path)
    try:
        _acquire(descriptor, path, purpose, waits=waits)
        while not _is_at(descriptor, path):
            _release(descriptor)
            descriptor = _open(path)
            _acquire(descriptor, path, purpose, waits=waits)
        _write_note(descriptor)
        os.set_inheritable(descriptor, is_inheritable)
        _refresh(path.parent)
        yield
    finally:
        _release(descriptor)


def _open(path: Path) -> int:
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileNotFoundError):  # the folder was deleted since
            # For writing, as NFS demands of an exclusive lock; not truncated, which would erase what the holder wrote.
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            _held.add(descriptor)
            return descriptor


def _release(descriptor: int) -> None:
    if descriptor in _held:  # not in a forked child, which has closed its copy
        _held.remove(descriptor)
        with suppress(OSError):  # must not hide an error that is being raised
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # closing alone would leave the lock to children's copies
        os.close(descriptor)


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether an open file is the one at `path`."""
    try:
        file = path.stat()
    except FileNotFoundError:
        return False
    found = os.fstat(descriptor)
    return (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino)


def adopt(path: Path) -> None:
    """Make an inherited lock on `path` this process's own, so that its children do not inherit it.

    A worker of a killed step may outlive it, and would then keep the lock from the next attempt. Does nothing where no
    lock was inherited.
    """
    with suppress(FileNotFoundError):
        file = path.stat()
        for descriptor in map(int, os.listdir("/dev/fd")):
            with suppress(OSError):  # the listing's own descriptor is closed by now
                found = os.fstat(descriptor)
                if (found.st_dev, found.st_ino) == (file.st_dev, file.st_ino):
                    os.set_inheritable(descriptor, False)
                    _held.add(descriptor)


def _acquire(descriptor: int, path: Path, purpose: str, *, waits: bool) -> None:
    for delay in (0.0, GRACE_S):
        time.sleep(delay)
        with suppress(BlockingIOError):
            return _flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, path)
    if not waits:
        raise HeldError(f"{path.parent} is in use by {_holder(descriptor)}")
    log.warning("%s: waiting for %s", purpose, _holder(descriptor))
    return _flock(descriptor, fcntl.LOCK_EX, path)


def _flock(descriptor: int, operation: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, operation)
    except BlockingIOError:
        raise
    except OSError as error:
        raise LockError(
            f"{path.parent} cannot be locked: {error.strerror}. Without locks two processes could compute and "
            "write the same files. Put artifacts_dir and runs_dir where locks work: a disk of this machine, NFS with "
            "its lock service, Lustre mounted with flock"
        ) from error


def _write_note(descriptor: int) -> None:
    """Write the holder into the lock's file; a note for people only, so a full disk is no reason to fail."""
    note = {"process": os.getpid(), "host": socket.gethostname(), "since": datetime.now(UTC).isoformat(" ", "seconds")}
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(note).encode(), 0)
        os.fsync(descriptor)  # on NFS, other machines see it only then


def _holder(descriptor: int) -> str:
    """Return in words which process holds the lock, as far as its note says."""
    try:
        note = json.loads(os.pread(descriptor, 1000, 0))
        process, host, since = int(note["process"]), str(note["host"]), str(note["since"])
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
    if host == socket.gethostname() and not _is_alive(process):
        return f"a stage that process {process} on {host}, which is gone, left running (since {since})"
    return f"process {process} on {host} (since {since})"


def _is_alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        return True
    return True


def _refresh(folder: Path) -> None:
    """Make an NFS client see files that other machines have created in a folder.

    The client caches for up to a minute (29 s were measured) that a name does not exist. Opening a folder, like opening
    a file, makes it ask the server: nfs(5), close-to-open consistency.
    """
    os.close(os.open(folder, os.O_RDONLY | os.O_DIRECTORY))


def _close_in_child() -> None:
    for descriptor in _held:
        os.close(descriptor)
    _held.clear()


os.register_at_fork(after_in_child=_close_in_child)
