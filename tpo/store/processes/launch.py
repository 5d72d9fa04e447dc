"""Starting a step in a process of its own, or in several that train together.

Several are started by `accelerate launch`, from the config file that the step's request holds: each executes
`tpo.store.execute` on the same directory, and the one of rank 0 writes the artifact.
"""

import ctypes
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tpo.store.errors import ArtifactError, describe

STAGE = "tpo.store.execute"  # what the new processes execute
ERROR = "error.tmp"  # in the artifact's directory: the first error of any rank; no artifact's files end in .tmp
PR_SET_PDEATHSIG = 1  # sys/prctl.h


def start(path: Path, accelerate: dict[str, Any] | None) -> None:
    """Execute the step in `path` in one new process, or as `accelerate`, the config file of a launch, says.

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
        # close_fds=False hands on the artifact's lock, the only inheritable file.
        done = subprocess.run([*command, STAGE, str(path)], check=False, close_fds=False)
    if done.returncode != 0:
        error = (path / ERROR).read_text() if (path / ERROR).exists() else "its message is above"
        raise failure(path, f"failed (exit {done.returncode}): {error}")


def failure(path: Path, how: str) -> ArtifactError:
    """Return the error for the stage in `path` that failed in another process."""
    return ArtifactError(
        f"the stage {path.name} {how}. Completed stages are kept: mend the cause and run the same command again"
    )


def join(accelerate: dict[str, Any] | None) -> int:
    """Return the rank of this process in the step's training, which is 0 where it is the only one.

    Raises:
        ArtifactError: If the step is to be executed by more processes than were started.
    """
    if accelerate is None:
        return 0
    wanted, started = accelerate["num_processes"], int(os.environ.get("WORLD_SIZE", "1"))
    if wanted != started:
        raise ArtifactError(
            f"train.num_processes={wanted}, but {started} were started for this step: run the experiment, not tpo.store.execute"
        )
    return int(os.environ["RANK"])


def end_with_launcher() -> None:
    """Have this process killed as soon as the launcher that started it is gone.

    The launcher holds the artifact's lock and gives each rank a session of its own, so ranks that outlived it would
    go on writing into a directory that the next attempt already works in.
    """
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def report(path: Path, error: Exception) -> None:
    """Keep the error for `start`, unless another rank failed before: when one is gone, the others fail too."""
    try:
        with (path / ERROR).open("x") as file:
            file.write(describe(error))
    except FileExistsError:
        pass
