"""A forked command behaves as `python -m` does: each little module is executed in both ways."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import commands
import pytest
from commands import Fork, Server, run_command, server_environment, start_command

PROGRAMS = {
    "ends": "print('done')",
    "exit_of_a_number": "import sys; print('out'); sys.exit(3)",
    "exit_of_a_sentence": "import sys; sys.exit('error: nothing is there')",
    "exit_of_none": "import sys; sys.exit(None)",
    "killed": "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
    "interrupted": "import os, signal; signal.signal(2, signal.default_int_handler); os.kill(os.getpid(), 2)",
    "broken_pipe": "import os; r, w = os.pipe(); os.close(r); os.dup2(w, 1); print('x' * 100_000, flush=True)",
    "at_exit": "import atexit; atexit.register(print, 'last'); print('first')",
    "a_thread": "import threading, time\nthreading.Thread(target=lambda: (time.sleep(0.1), print('late'))).start()",
    "arguments": "import sys; print(sys.argv[1:], sys.argv[0] == __file__, __name__)",
    "main": "import sys; print(sys.modules['__main__'].__spec__.name, sys.modules['__main__'].__dict__ is globals())",
    "place": "import os, sys; print(os.getcwd() == sys.path[0], 'beside' in [m for m in ['beside'] if __import__(m)])",
    "environment": "import os; print(sorted(os.environ.items()))",
    "input": "print(input(), input())",
    "session": "import os; print(os.getsid(0) == os.getpid(), os.getppid() > 1, os.isatty(1))",
    "signals": "import signal; print([signal.getsignal(n) for n in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGTERM)])",
    "children": "import subprocess; print(subprocess.run(['sh', '-c', 'exit 4']).returncode)",
    "streams": "import sys; print([(s.encoding, s.errors, s.line_buffering) for s in (sys.stdout, sys.stderr)])",
    "files": "import os; print(sorted(os.listdir('/dev/fd'))[:3], len(os.listdir('/dev/fd')) < 9)",
}


@pytest.fixture(scope="module", autouse=True)
def _light_server() -> Iterator[None]:
    """Fork from a process that has none of the heavy libraries, as the interpreter that is compared with has none.

    Their functions at exit make Python end with 1 in place of SIGINT after an interruption that nobody caught.
    """
    own = Server()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commands, "server", lambda: own)
        yield
    own.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_fork_is_as_a_new_process(name: str, tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(PROGRAMS[name])
    (tmp_path / "beside.py").touch()
    (tmp_path / "typed").write_text("one\ntwo\n")
    environment = {**os.environ, "ONLY_HERE": "1", "PYTHONPATH": str(tmp_path), "OMP_NUM_THREADS": "1"}
    arguments = ["seed=1", "--help"]
    with (tmp_path / "typed").open() as typed, (tmp_path / "typed").open() as again:
        forked = run_command("program", *arguments, cwd=tmp_path, env=environment, stdin=typed)
        fresh = subprocess.run(
            [sys.executable, "-m", "program", *arguments],
            **{"cwd": tmp_path, "env": environment, "stdin": again, "capture_output": True, "text": True},
            **{"start_new_session": True, "check": False},
        )
    assert (forked.returncode, forked.stdout) == (fresh.returncode, fresh.stdout)
    if "Traceback" in fresh.stderr:  # the fork's has the frames of its server
        assert forked.stderr.splitlines()[-1] == fresh.stderr.splitlines()[-1]
    else:
        assert forked.stderr == fresh.stderr


def test_one_that_takes_too_long_is_killed_with_its_children(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(
        "import os, subprocess; child = subprocess.Popen(['sleep', '60']); print(child.pid, flush=True); child.wait()"
    )
    with (tmp_path / "said").open("w+") as said, pytest.raises(subprocess.TimeoutExpired):
        run_command("program", cwd=tmp_path, stdout=said, timeout=1)
    child = int((tmp_path / "said").read_text())
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_one_that_runs_can_be_asked_and_sent_a_signal(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import time; time.sleep(60)")
    with (tmp_path / "said").open("w") as said:
        running = start_command("program", cwd=tmp_path, stdout=said, stderr=said)
    changed = {name for name, _ in {**os.environ}.items() ^ server_environment().items()}
    assert isinstance(running, Fork) and running.poll() is None, changed
    running.terminate()
    assert running.wait(10) == -signal.SIGTERM == running.poll()


@pytest.mark.parametrize("change", [{"HF_HOME": "/x"}, {"PYTHONHASHSEED": "0"}, {"OMP_NUM_THREADS": "2"}])
def test_what_is_read_at_an_import_takes_a_new_interpreter(change: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "program.py").touch()
    with (tmp_path / "said").open("w") as said:
        started = start_command("program", cwd=tmp_path, env={**os.environ, **change}, stdout=said, stderr=said)
    assert isinstance(started, subprocess.Popen) and started.wait(60) == 0


def test_a_folder_with_another_copy_of_the_package_takes_a_new_interpreter(tmp_path: Path) -> None:
    (tmp_path / "tpo").mkdir()
    (tmp_path / "tpo" / "__init__.py").touch()
    (tmp_path / "program.py").write_text("import tpo; print(tpo.__file__)")
    assert run_command("program", cwd=tmp_path).stdout == f"{tmp_path}/tpo/__init__.py\n"
