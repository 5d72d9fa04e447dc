"""How many cores this process may compute on."""

import math
import os
from pathlib import Path

CGROUP = Path("/sys/fs/cgroup")


def num_cores() -> int:
    """Return the number of cores that this process may use, at least 1.

    The least of the cores that it may run on, the quota of its control group (a container's limit) and
    OMP_NUM_THREADS, with which a user or a launcher of several jobs limits each of them.
    """
    limits = [len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1]
    threads = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # the further ones are of nested regions
    if threads.isdecimal():
        limits.append(int(threads))
    if (quota := _quota(CGROUP)) is not None:
        limits.append(math.ceil(quota))
    return max(1, min(limits))


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
