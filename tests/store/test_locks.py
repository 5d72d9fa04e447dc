"""What a lock is made of; `test_concurrency.py` has the processes that compete for one."""

import errno
import fcntl
import json
import logging
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
from tpo.store.artifacts import LOCK, Store
from tpo.store.locks import LockError, Mount, adopt, find_mount, hold, keeps_locks_local
from tpo.store.stage import Step

REPOSITORY = Path(__file__).parents[2]

# The NFS lines are those of a Linux 6.1 client, their addresses changed.
MOUNTS = r"""/dev/vda / ext4 rw,relatime 0 0
proc /proc proc rw,nosuid,nodev,noexec,relatime 0 0
server:/ /shared nfs4 rw,relatime,vers=4.2,rsize=262144,wsize=262144,namlen=255,hard,proto=tcp,timeo=600,retrans=2,sec=sys,clientaddr=10.0.0.2,local_lock=none,addr=10.0.0.1 0 0
server:/old /shared/old nfs rw,relatime,vers=3,rsize=262144,wsize=262144,namlen=255,hard,nolock,proto=tcp,timeo=600,retrans=2,sec=sys,mountaddr=10.0.0.1,mountvers=3,mountport=35654,mountproto=udp,local_lock=all,addr=10.0.0.1 0 0
server:/v3 /shared/v3 nfs rw,relatime,vers=3,rsize=262144,wsize=262144,namlen=255,hard,proto=tcp,timeo=600,retrans=2,sec=sys,mountaddr=10.0.0.1,mountvers=3,mountport=35654,mountproto=udp,local_lock=none,addr=10.0.0.1 0 0
10.0.0.3@tcp:/scratch /scratch lustre rw,flock,lazystatfs 0 0
server:/space /with\040space nfs4 rw,vers=4.2,local_lock=none 0 0
tmpfs /covered tmpfs rw 0 0
server:/covered /covered nfs4 rw,vers=4.1,local_lock=none 0 0
"""  # noqa: E501


@pytest.mark.parametrize(
    ("path", "point", "kind", "is_local"),
    [
        pytest.param("/home/me/artifacts", "/", "ext4", False, id="own_disk"),
        pytest.param("/shared", "/shared", "nfs4", False, id="mount_point_itself"),
        pytest.param("/shared/artifacts/sample-0", "/shared", "nfs4", False, id="nfs4"),
        pytest.param("/shared/old/artifacts", "/shared/old", "nfs", True, id="nolock"),
        pytest.param("/shared/v3/artifacts", "/shared/v3", "nfs", False, id="nfs3"),
        pytest.param("/shared/older", "/shared", "nfs4", False, id="name_that_begins_like_a_mount"),
        pytest.param("/scratch/me", "/scratch", "lustre", False, id="lustre"),
        pytest.param("/with space/x", "/with space", "nfs4", False, id="escaped_space"),
        pytest.param("/covered/x", "/covered", "nfs4", False, id="mounted_over"),
    ],
)
def test_mount_of_a_path(path: str, point: str, kind: str, is_local: bool) -> None:
    mount = find_mount(MOUNTS, Path(path))
    assert mount is not None
    assert (mount.point, mount.kind, keeps_locks_local(mount)) == (Path(point), kind, is_local)


def test_no_mounts_no_answer() -> None:
    assert find_mount("", Path("/x")) is None


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("nfs", "rw,local_lock=flock", True),
        ("nfs", "rw,local_lock=posix", False),  # of fcntl's locks only
        ("nfs4", "rw,local_lock=none", False),
        ("lustre", "rw,localflock", True),
        ("cifs", "rw,vers=3.1.1,nobrl", True),
        ("smb3", "rw,vers=3.1.1", False),
        ("fuse.sshfs", "rw", True),
        ("ext4", "rw,nolock", False),  # nobody else sees these files
    ],
)
def test_which_locks_hold_on_one_machine_only(kind: str, options: str, expected: bool) -> None:
    assert keeps_locks_local(Mount(Path("/x"), kind, tuple(options.split(",")))) is expected


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that says it is an NFS mount without locks."""
    folder = tmp_path / "shared"
    folder.mkdir()
    (tmp_path / "mounts").write_text(f"/dev/vda / ext4 rw 0 0\nserver:/x {folder} nfs rw,vers=3,nolock 0 0\n")
    monkeypatch.setattr(tpo.store.locks, "MOUNTS", tmp_path / "mounts")
    return folder


def test_local_locks_are_told_once(mounted: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        with hold(mounted / name, purpose="test"):
            pass
    with hold(mounted.parent / "c", purpose="test"):
        pass
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert f"{mounted} (nfs, mounted with rw,vers=3,nolock)" in record.getMessage()
    assert "two machines" in record.getMessage()


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EBADF, errno.EIO])
def test_file_system_without_locks_is_named_and_nothing_runs(
    code: int, mounted: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(descriptor: int, operation: int) -> None:
        raise OSError(code, os.strerror(code))

    def execute(path: Path) -> None:
        raise AssertionError("computed without a lock")

    monkeypatch.setattr(fcntl, "flock", refuse)
    step = Step("sample", 1, {})
    with pytest.raises(LockError) as caught:
        Store(mounted / "artifacts", execute=execute).run(step)
    message = str(caught.value)
    assert f"{mounted / 'artifacts' / step.artifact_id} on {mounted} (nfs, mounted with rw,vers=3,nolock)" in message
    assert os.strerror(code) in message and "artifacts_dir" in message and "Lustre mounted with flock" in message
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
