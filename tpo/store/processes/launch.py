"""Executing a step in a child process, or in several that train together.

Several processes are started by `accelerate launch`, from the config file in the step's request: each executes
`tpo.store.execute` on the same directory, and rank 0 writes the artifact.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from tpo.store.errors import ArtifactError, describe
from tpo.store.gpus import one_gpu

STAGE = "tpo.store.execute"  # the module that the child processes run
ERROR = "error.tmp"  # in the artifact's directory: of the process that failed first. No artifact has .tmp files
PR_SET_PDEATHSIG = 1  # sys/prctl.h
POLL_S = 0.5  # how often a rank looks for its launcher where the kernel does not


def start(path: Path, accelerate: dict[str, Any] | None) -> None:
    """Execute the step in `path` in a child process, or in several as `accelerate launch` starts them.

    A single process sees one GPU.

    Args:
        path: The artifact's directory.
        accelerate: Config file of `accelerate launch`; None for one process.

    Raises:
        ArtifactError: If it fails.
    """
    (path / ERROR).unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m"]
        if accelerate is not None:
            config_file = Path(folder) / "accelerate.json"
            config_file.write_text(json.dumps(accelerate))
            # Port 0 is any free one: two trainings of a sweep may run on this machine.
            command += ["accelerate.commands.launch", "--config_file", str(config_file)]
            command += ["--main_process_port", "0", "-m"]
        environment = os.environ | (one_gpu() if accelerate is None else {})
        # close_fds=False hands on the artifact's lock, the only inheritable file.
        done = subprocess.run([*command, STAGE, str(path)], check=False, close_fds=False, env=environment)
    if done.returncode != 0:
        error = (path / ERROR).read_text() if (path / ERROR).exists() else "it left no message"
        raise failure(path, f"failed (exit {done.returncode}): {error}")


def failure(path: Path, end: str) -> ArtifactError:
    """Return the error for the step in `path`, which failed in another process; `end` says how it ended."""
    return ArtifactError(
        f"the stage {path.name} {end}. Completed stages are kept: mend the cause and run the same command again"
    )


def join(accelerate: dict[str, Any] | None) -> int:
    """Return the rank of this process in the step's training; 0 where it is the only process.

    Raises:
        ArtifactError: If the request names another number of processes than were started.
    """
    if accelerate is None:
        return 0
    wanted, started = accelerate["num_processes"], int(os.environ.get("WORLD_SIZE", "1"))
    if wanted != started:
        raise ArtifactError(
            f"train.num_processes={wanted}, but {started} were started for this step: run the experiment, not "
            "tpo.store.execute"
        )
    return int(os.environ["RANK"])


def end_with_launcher() -> None:
    """Have this process, a rank of a training, killed when its launcher dies: by the kernel, or elsewhere by a thread.

    The launcher holds the artifact's lock and starts each rank in a session of its own. A rank that outlived the
    launcher would write into a directory whose lock the next attempt already holds.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        threading.Thread(target=_await_end_of, args=(os.getppid(),), daemon=True).start()


def _await_end_of(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(POLL_S)
    os.kill(os.getpid(), signal.SIGKILL)


def report(path: Path, error: Exception) -> None:
    """Write the error for `start` to read, unless another rank has: when one rank dies, the others fail as well."""
    try:
        with (path / ERROR).open("x") as file:
            file.write(describe(error))
    except FileExistsError:
        pass
