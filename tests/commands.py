"""Commands of this repository as processes: forks of one that has imported what they import.

`python -m tpo.run` takes two seconds to import what it needs, ten where it comes to a model; a fork takes none. A fork
has the semantics of a new process: the module is executed as `__main__`, with arguments, folder, environment, standard
streams and a session of its own, and the interpreter ends as it does. What only a new interpreter can show (variables
that are read at an import, another copy of `tpo` in the folder) is given one: see `needs_interpreter`.
"""

import atexit
import ctypes
import functools
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import tpo  # noqa: F401  # which sets variables that belong to the environment below

REPOSITORY = Path(__file__).parent.parent
ENVIRONMENT = {**os.environ}  # as it is before a test changes it
LIGHT = (
    *("hydra._internal.hydra", "hydra.experimental.compose", "tpo.config.entry", "tpo.config.check"),
    *("tpo.config.sweep", "tpo.config.accelerate", "tpo.evaluate.inherit", "tpo.plan.tables", "tpo.plan.stages"),
    *("tpo.results.tracking.labels", "scipy.stats", "torch"),
)
# No W&B, and so no trainer of trl, which imports it: it makes a temporary folder that the first command would delete.
HEAVY = (
    *("transformers.models.llama.modeling_llama", "trl", "peft", "datasets", "matplotlib.pyplot", "openai"),
    *("tpo.loop", "tpo.pipeline", "tpo.sample.engines.torch.engine", "tpo.results.run"),
)


# --- what tests call --------------------------------------------------------------------------------------------------


class Fork:
    """A command that was started, with what tests ask of a `subprocess.Popen`."""

    def __init__(self, answers: socket.socket) -> None:
        self._answers = answers
        self.pid = self._receive()["pid"]
        self.returncode: int | None = None
        self.seconds = 0.0  # that were computed

    def _receive(self) -> Any:
        answer = self._answers.recv(1000)
        if not answer:
            raise RuntimeError("the process that forks commands is gone: what it wrote stands in pytest's output")
        return json.loads(answer)

    def poll(self) -> int | None:
        """Return the exit status, negative where a signal ended it, or None while it runs."""
        if self.returncode is None and select.select([self._answers], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status when the command has ended.

        Raises:
            subprocess.TimeoutExpired: If it runs for longer.
        """
        if self.returncode is None:
            if not select.select([self._answers], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0)
            answer = self._receive()
            self._answers.close()
            self.returncode, self.seconds = os.waitstatus_to_exitcode(answer["status"]), answer["seconds"]
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, if the command has not ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Kill it."""
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        """Ask it to end."""
        self.send_signal(signal.SIGTERM)


class Server:
    """The process that imports and forks."""

    def __init__(self, script: Path = Path(__file__), *arguments: str, **more: Any) -> None:
        """Start it.

        Args:
            script: Ends with a call of `serve`, whose first argument is a file descriptor.
            arguments: The script's others.
            more: Of `subprocess.Popen`.
        """
        self._control, theirs = socket.socketpair()
        command = [sys.executable, script, str(theirs.fileno()), *arguments]
        given = {"env": server_environment(), "stdin": subprocess.DEVNULL, **more}
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()], **given)
        theirs.close()

    def start(self, *, stdin: IO[Any] | int, stdout: IO[Any], stderr: IO[Any], **request: Any) -> Fork:
        """Fork a process for a request (see `execute`), with these streams."""
        ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET if sys.platform == "linux" else socket.SOCK_DGRAM)
        with theirs, tempfile.TemporaryFile("w+") as file:
            json.dump(request, file)
            file.flush()
            streams = [stream if isinstance(stream, int) else stream.fileno() for stream in (stdin, stdout, stderr)]
            socket.send_fds(self._control, [b"."], [file.fileno(), theirs.fileno(), *streams])
        return Fork(ours)

    def close(self) -> None:
        """End it."""
        self._control.close()
        self.process.wait()


@functools.cache
def server() -> Server:
    """The one of this process of pytest; it ends with it."""
    return Server()


def server_environment() -> dict[str, str]:
    """Return the environment for the imports: one thread, since a process of several cannot be forked."""
    one = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**ENVIRONMENT, "PYTHONPATH": str(REPOSITORY), **dict.fromkeys(one, "1")}


# What is read at the start of Python or at an import; torch sets variables of its own in the process of pytest.
AT_IMPORT = ("PYTHON", "LD_", "OMP_", "HF_", "TRANSFORMERS_", "MPL", "LC_", "LANG", "XDG_", "HOME", "TMPDIR")


def needs_interpreter(folder: Path, environment: Mapping[str, str]) -> bool:
    """Whether a process would import other things, or other values into them, than the one that forks."""
    warm = server_environment()
    changed = {name for name in {*environment, *warm} if environment.get(name) != warm.get(name)}
    # In the process of pytest, lm_eval sets the second, and cv2, which vLLM imports, the last.
    changed -= {"PYTHONPATH", "HF_XET_HIGH_PERFORMANCE", "LD_LIBRARY_PATH"}
    is_other = (folder / "tpo").exists() and not folder.samefile(REPOSITORY)
    return is_other or any(name.startswith(AT_IMPORT) for name in changed)


def start_command(
    module: str,
    *arguments: str,
    stdout: IO[Any],
    stderr: IO[Any],
    stdin: IO[Any] | int | None = None,
    cwd: Path = REPOSITORY,
    env: Mapping[str, str] | None = None,
    loads_models: bool = False,
    runs_vllm: bool = False,
) -> Fork | subprocess.Popen[bytes]:
    """Start `python -m module arguments`.

    Args:
        module: Of this repository, or one that it has to do with.
        arguments: Of its command line.
        stdout: A file.
        stderr: A file.
        stdin: A file; nothing by default.
        cwd: The folder in which it is started.
        env: The whole environment, that of pytest by default.
        loads_models: Whether it is to come to a model or a figure, for which the heavy libraries are imported before.
        runs_vllm: Whether it starts vLLM, whose processes are forks then too (see `forked_vllm.py`).
    """
    environment = {"OMP_NUM_THREADS": "1", **(os.environ if env is None else env)}
    environment.setdefault("PYTHONPATH", str(REPOSITORY))
    streams = {"stdin": subprocess.DEVNULL if stdin is None else stdin, "stdout": stdout, "stderr": stderr}
    if needs_interpreter(cwd, environment):
        command = [sys.executable, "-m", module, *arguments]
        return subprocess.Popen(command, cwd=cwd, env=environment, start_new_session=True, **streams)
    with open(os.devnull, "rb") as nothing:
        streams["stdin"] = nothing if stdin is None else stdin
        preload = (*(HEAVY if loads_models else ()), *(["forked_vllm"] if runs_vllm else ()))
        request = {"module": module, "arguments": arguments, "folder": str(cwd), "environment": environment}
        return server().start(**request, **streams, preload=preload)


def run_command(module: str, *arguments: str, timeout: float = 300, **more: Any) -> subprocess.CompletedProcess[str]:
    """Execute `python -m module arguments` to its end (see `start_command`), and return what it printed.

    Raises:
        subprocess.TimeoutExpired: If it takes longer than `timeout` seconds; its session is killed then.
    """
    with tempfile.TemporaryFile("w+") as said, tempfile.TemporaryFile("w+") as complained:
        process = start_command(module, *arguments, **{"stdout": said, "stderr": complained, **more})
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise
        texts = []
        for file in (said, complained):
            file.seek(0)
            texts.append(file.read())
    return subprocess.CompletedProcess(["python", "-m", module, *arguments], status, *texts)


# --- the process that forks -------------------------------------------------------------------------------------------


def serve(control: socket.socket) -> dict[str, Any]:
    """Fork a process for each request that comes; return the request, in that process.

    The process that serves ends when its parent does, and all commands with it.
    """
    end_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the processes that wait for commands
    while True:
        byte, received, *_ = socket.recv_fds(control, 1, 5)
        if not byte:
            sys.exit()
        with open(received[0], closefd=False) as file:
            file.seek(0)
            request = json.load(file)
        for name in request.get("preload", ()):
            importlib.import_module(name)
        gc.freeze()  # a collection in the command would look at all that was imported, and copy its pages
        if os.fork() == 0:
            control.close()
            if _is_command(received):
                return request
        for descriptor in received:
            os.close(descriptor)


def _is_command(received: list[int]) -> bool:
    """Fork once more; return True in the command, and report its end in the process that is its parent."""
    request, answers, *streams = received
    end_with_parent()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs ignore
    child = os.fork()
    if child == 0:
        end_with_parent()
        os.setsid()
        for place, descriptor in enumerate(streams):
            os.dup2(descriptor, place)
        for descriptor in received:
            os.close(descriptor)
        return True
    for descriptor in (request, *streams):
        os.close(descriptor)
    with socket.socket(fileno=answers) as channel:
        channel.send(json.dumps({"pid": child}).encode())
        _, status, usage = os.wait4(child, 0)
        try:
            channel.send(json.dumps({"status": status, "seconds": usage.ru_utime + usage.ru_stime}).encode())
        finally:
            os._exit(0)


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone: nothing of tests that were stopped stays behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; not inherited by a fork


def execute(request: dict[str, Any]) -> None:
    """Be `python -m module arguments`, in the child.

    Args:
        request: `module`, `arguments`, `folder` and `environment`.
    """
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        own = getattr(sys, name)
        raw = open(descriptor, "wb" if descriptor else "rb", closefd=False)  # noqa: SIM115
        settings = {"encoding": own.encoding, "errors": own.errors, "write_through": own.write_through}
        stream = io.TextIOWrapper(raw, **settings, line_buffering=own.line_buffering or raw.raw.isatty())
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    paths = [path for path in request["environment"].get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.path[:2] = [os.getcwd(), *paths]  # in place of this file's folder and of the server's PYTHONPATH
    importlib.invalidate_caches()
    tempfile.tempdir = None
    if "triton" in sys.modules:  # its bindings complain at the end of Python of what is not freed, a page of text
        atexit.register(gc.unfreeze)
    sys.argv = ["-m", *request["arguments"]]
    sys.modules.pop(request["module"], None)  # of which runpy would warn
    runpy.run_module(request["module"], run_name="__main__", alter_sys=True)


def warm_up() -> None:
    """Import what every command imports, and find the schemas and plugins that there are, as each would."""
    for name in LIGHT:
        importlib.import_module(name)
    importlib.import_module("tpo.config.schema").register()
    importlib.import_module("hydra.core.plugins").Plugins.instance()


if __name__ == "__main__":
    warm_up()
    execute(serve(socket.socket(fileno=int(sys.argv[1]))))
