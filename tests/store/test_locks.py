"""What a lock is made of; `test_concurrency.py` has the processes that compete for one."""

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import tpo.store.locks
from tpo.store.layout import LOCK
from tpo.store.locks import LockError, adopt, hold
from tpo.store.stage import Step
from tpo.store.store import Store

REPOSITORY = Path(__file__).parents[2]


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.EIO])
def test_file_system_without_locks_is_named_and_nothing_runs(
    code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    def execute(path: Path) -> None:
        raise AssertionError("computed without a lock")

    monkeypatch.setattr(fcntl, "flock", refuse)
    step = Step("sample", 1, {})
    with pytest.raises(LockError) as caught:
        Store(tmp_path, execute=execute).run(step)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path / step.artifact_id} cannot be locked: {os.strerror(code)}.")
    assert "artifacts_dir" in message and "Lustre mounted with flock" in message
    assert not tpo.store.locks._held, "a lock that failed leaves no open file"


def test_lock_file_is_open_for_writing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # NFS answers EBADF to an exclusive lock on a file that is open for reading only; a local disk does not.
    modes = []
    flock = fcntl.flock

    def watch(descriptor: int, operation: int) -> None:
        modes.append(fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE)
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", watch)
    with hold(tmp_path / LOCK, purpose="test"):
        pass
    assert set(modes) == {os.O_RDWR}


def test_folder_is_looked_at_anew_once_the_lock_is_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Without this, an NFS client did not see for 29 s that the last holder had finished (Linux 6.1, version 4.2).
    opened: list[tuple[Path, bool]] = []
    system_open = os.open

    def watch(path: Path, flags: int, *more: int) -> int:
        opened.append((Path(path), is_locked(tmp_path / LOCK)))
        return system_open(path, flags, *more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", watch)
        with hold(tmp_path / LOCK, purpose="test"):
            pass
    assert opened == [(tmp_path / LOCK, False), (tmp_path, True)]


def test_holder_signs(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    path.write_text("what an earlier holder, whose name was longer, wrote" * 10)
    with hold(path, purpose="test"):
        note = json.loads(path.read_text())
    assert (note["process"], note["host"]) == (os.getpid(), socket.gethostname())


# --- what keeps a lock --------------------------------------------------------------------------------------------


def wait_until(condition: Callable[[], bool], timeout_s: float = 120) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def is_locked(path: Path) -> bool:
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def test_lock_is_held_for_the_context_alone_also_when_it_fails(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    with pytest.raises(RuntimeError, match="inside"), hold(path, purpose="test"):
        assert is_locked(path)
        raise RuntimeError("inside")
    assert not is_locked(path) and path.exists()


# Holds the lock, has another process beside it, prints that one's id and waits to be killed.
HOLDER = """
import os, subprocess, sys, time
from pathlib import Path
from tpo.store.locks import hold

path, other = Path(sys.argv[1]), sys.argv[2]
with hold(path, purpose="test", is_inheritable=other != "program_that_may_not"):
    if other != "fork":
        print(subprocess.Popen(["sleep", "60"], close_fds=False, stdout=subprocess.DEVNULL).pid, flush=True)
    elif os.fork() == 0:
        print(os.getpid(), flush=True)
    time.sleep(60)
"""
# A stage in a process of its own, and a worker that it forks.
STAGE = """
import os, sys, time
from pathlib import Path
from tpo.store.locks import adopt

adopt(Path(sys.argv[1]))
if os.fork() == 0:
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def start(script: str, *arguments: str | Path, **more: Any) -> tuple[subprocess.Popen[str], int]:
    """Return the process and the number that it prints."""
    command = [sys.executable, "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, **more)
    assert process.stdout is not None
    with process.stdout:
        return process, int(process.stdout.readline())


@pytest.mark.parametrize(("other", "keeps_lock"), [("program", True), ("program_that_may_not", False), ("fork", False)])
def test_who_keeps_the_lock_of_a_killed_process(other: str, keeps_lock: bool, tmp_path: Path) -> None:
    path = tmp_path / LOCK
    holder, survivor = start(HOLDER, path, other)
    try:
        assert is_locked(path)
        holder.kill()
        holder.wait()
        assert is_locked(path) is keeps_lock
    finally:
        os.kill(survivor, signal.SIGKILL)
    wait_until(lambda: not is_locked(path))


def test_worker_of_a_killed_stage_does_not_keep_the_lock(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    os.set_inheritable(descriptor, True)
    stage, worker = start(STAGE, path, close_fds=False)
    os.close(descriptor)  # as when the process that started the stage is killed
    try:
        assert is_locked(path)
        stage.kill()
        stage.wait()
        os.kill(worker, 0)  # it lives
        assert not is_locked(path)
    finally:
        os.kill(worker, signal.SIGKILL)


LEAVER = """
import os, sys
from pathlib import Path
from tpo.store.locks import hold
from test_locks import is_locked

path = Path(sys.argv[1])
with hold(path, purpose="test"):
    child = os.fork()
    if child:
        print(int(os.waitpid(child, 0)[1] == 0 and is_locked(path)), flush=True)
"""


def test_fork_that_leaves_the_context_does_no_harm(tmp_path: Path) -> None:
    path = {"PYTHONPATH": os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])}
    process, is_well = start(LEAVER, tmp_path / LOCK, env={**os.environ, **path})
    assert is_well and process.wait() == 0


def test_lock_that_was_given_back_is_free_whoever_inherited_it(tmp_path: Path) -> None:
    path = tmp_path / LOCK
    with hold(path, purpose="test", is_inheritable=True):
        program = subprocess.Popen(["sleep", "60"], close_fds=False)
    assert not is_locked(path)
    program.kill()
    program.wait()


def test_adopting_without_a_lock_does_nothing(tmp_path: Path) -> None:
    adopt(tmp_path / LOCK)
    (tmp_path / LOCK).touch()
    adopt(tmp_path / LOCK)
    assert not tpo.store.locks._held
