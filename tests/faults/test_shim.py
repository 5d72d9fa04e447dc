"""The shim, on processes that do one thing each."""

import errno
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from fault_harness import compile_shim
from fault_points import FAIL, FILL, KILL, TEAR, bits

Done = subprocess.CompletedProcess[str]
Run = Callable[..., Done]

BEGIN = """
import ctypes, os, sys
name, nth, action, error, later = sys.argv[1], *map(int, sys.argv[2:6])
log = os.open("../log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
ctypes.CDLL(None).fault_begin(os.getcwd().encode(), log, name.encode(), nth, action, error, ctypes.c_uint(later))
"""
WRITE_TWICE = """
with open("a", "wb", buffering=0) as file:
    file.write(b"first ")
    file.write(b"second")
"""


@pytest.fixture(scope="module")
def shim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("the shim has to be compiled")
    return compile_shim(tmp_path_factory.mktemp("shim") / "shim.so")


@pytest.fixture
def run(shim: Path, tmp_path: Path) -> Run:
    (tmp_path / "root").mkdir()

    def start(program: str, name: str = "", nth: int = 0, action: int = 0, error: int = 0, later: int = 0) -> Done:
        return subprocess.run(
            [sys.executable, "-S", "-c", BEGIN + program, name, *map(str, (nth, action, error, later))],
            cwd=tmp_path / "root",
            env={"LD_PRELOAD": str(shim)},
            capture_output=True,
            text=True,
            check=False,
        )

    return start


def test_names_are_those_of_every_run(run: Run, tmp_path: Path) -> None:
    done = run(
        """
os.mkdir("b")
with open("b/rows.jsonl.0123abcd.tmp", "w") as file:
    file.write("row")
os.rename("b/rows.jsonl.0123abcd.tmp", "b/rows.jsonl")
print(open("b/rows.jsonl").read())
os.truncate("b/rows.jsonl", 1)
os.unlink("b/rows.jsonl")
open("../elsewhere", "w").close()
"""
    )
    assert done.stdout == "row\n", done.stderr
    assert (tmp_path / "log").read_text().splitlines() == [
        "mkdir b",
        "create b/rows.jsonl.tmp",
        "write b/rows.jsonl.tmp",
        "rename b/rows.jsonl",
        "open b/rows.jsonl",
        "truncate b/rows.jsonl",
        "unlink b/rows.jsonl",
    ]


def test_a_call_fails_once_or_from_then_on(run: Run, tmp_path: Path) -> None:
    program = """
for name in "ab":
    try:
        open(name, "w").close()
    except OSError as error:
        print(name, error.errno)
"""
    assert run(program, "create a", 0, FAIL, errno.EROFS).stdout == f"a {errno.EROFS}\n"
    both = run(program, "create a", 0, FAIL, errno.EROFS, bits("create", "write"))
    assert both.stdout == f"a {errno.EROFS}\nb {errno.EROFS}\n"
    assert run(program, "create a", 1, FAIL, errno.EROFS).stdout == "", "there is one call of this name only"


@pytest.mark.parametrize(("action", "left"), [(KILL, b"first "), (TEAR, b"first sec")])
def test_a_process_is_killed_before_a_write_or_in_it(run: Run, tmp_path: Path, action: int, left: bytes) -> None:
    assert run(WRITE_TWICE, "write a", 1, action).returncode == -signal.SIGKILL
    assert (tmp_path / "root" / "a").read_bytes() == left


def test_a_full_disk_takes_half_of_a_write_and_nothing_more(run: Run, tmp_path: Path) -> None:
    program = WRITE_TWICE + "\nprint(len(b'second'))\nopen('b', 'w')"
    done = run(program, "write a", 1, FILL, errno.ENOSPC, bits("write", "create"))
    assert (tmp_path / "root" / "a").read_bytes() == b"first sec"
    assert f"[Errno {errno.ENOSPC}]" in done.stderr and "'b'" in done.stderr


def test_sockets_of_a_server_count_and_others_do_not(run: Run, tmp_path: Path) -> None:
    program = """
import socket
pair = socket.socketpair()
pair[0].send(b"x")
server = socket.create_server(("127.0.0.1", 0))
client = socket.create_connection(server.getsockname())
there, _ = server.accept()
client.send(b"hello")
print(there.recv(9), pair[1].recv(9))
"""
    assert run(program).stdout == "b'hello' b'x'\n"
    assert (tmp_path / "log").read_text().splitlines() == ["connect server", "send server", "receive server"]
    done = run(program, "send server", 0, FAIL, errno.ECONNRESET)
    assert "ConnectionResetError" in done.stderr
