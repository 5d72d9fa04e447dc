"""One GPU to each worker process of a sweep on one machine.

A Hydra callback, which runs in the worker before its first job touches CUDA. A worker keeps its GPU for all
of its jobs: a process that has used one GPU cannot be moved to another, so the number of a job must not decide it.
"""

import fcntl
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from tpo.store.errors import TpoError


class OneGpuPerWorker(Callback):
    """Shows each worker the first GPU that no other worker of this user holds, in this sweep or another."""

    def __init__(self, num_gpus: int) -> None:
        """Choose from the first `num_gpus` of CUDA_VISIBLE_DEVICES, or of the machine where that is not set.

        Raises:
            TpoError: If fewer are visible: a worker too many would wait for a GPU that nobody gives back.
        """
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        self._devices = visible.split(",") if visible else [str(number) for number in range(num_gpus)]
        if not 1 <= num_gpus <= len(self._devices):
            raise TpoError(
                f"hydra.launcher.n_jobs={num_gpus}, but CUDA_VISIBLE_DEVICES={visible}: give as many jobs as GPUs"
            )
        self._devices = self._devices[:num_gpus]

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hold a GPU, unless this process has one already."""
        if not _held:
            _held.append(claim(self._devices, folder=Path(tempfile.gettempdir())))
            os.environ["CUDA_VISIBLE_DEVICES"] = Path(_held[0].name).name.removeprefix(f"tpo-gpu-{os.getuid()}-")


_held: list[IO[str]] = []  # open for as long as this process lives


def claim(devices: Sequence[str], *, folder: Path, poll_s: float = 1.0) -> IO[str]:
    """Return the lock file of a device that was free, after waiting for one if need be.

    The lock goes with the process, however it ends.
    """
    while True:
        for device in devices:
            file = (folder / f"tpo-gpu-{os.getuid()}-{device}").open("w")
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.close()
            else:
                return file
        time.sleep(poll_s)
