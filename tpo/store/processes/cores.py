"""How many cores this process may compute on, and how many processes with one thread each share its work."""

import math
import os
import sys
from pathlib import Path

from tpo.store.errors import TpoError

AUTO = "auto"

CGROUP = Path("/sys/fs/cgroup")


def usable_cores() -> list[int]:
    """Return the numbers of the cores that this process may run on; of all where the system (macOS) does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def num_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    The least of the cores that it may run on, the quota of its control group (a container's limit) and
    OMP_NUM_THREADS, with which a user or a launcher of several jobs limits each of them.
    """
    limits = [len(usable_cores())]
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # the further ones are of nested regions
    if threads.isdecimal():
        limits.append(int(threads))
    if (quota := _quota(CGROUP)) is not None:
        limits.append(math.ceil(quota))
    return max(1, min(limits))


def count_workers(wanted: int | str, *, at: str) -> int:
    """Return how many processes with one thread each compute what is written in plain torch; 1 means this process.

    Args:
        wanted: The setting: a number, or "auto" for one a core, and 1 where there is a GPU. Only Linux forks safely.
        at: The setting's name.

    Raises:
        TpoError: If there are to be several where there cannot be.
    """
    import torch

    unfit = ""
    if torch.cuda.is_available():
        unfit = "a GPU computes for one process"
    elif not sys.platform.startswith("linux"):
        unfit = f"processes that share memory are forked on Linux only, and this is {sys.platform}"
    if wanted == AUTO:
        return 1 if unfit else num_cores()
    if int(wanted) > 1 and unfit:
        raise TpoError(f"{at}={wanted}: {unfit}: set it to 1 or {AUTO}")
    return int(wanted)


def _quota(folder: Path) -> float | None:
    """Return the cores' worth of time that a control group may use, None where it is not limited."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except OSError:
        try:  # version 1 of control groups
            quota, period = ((folder / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    return None if quota.strip() in ("max", "-1") else int(quota) / int(period)
