"""The GPUs of this machine by their driver, without CUDA: a process that has started CUDA keeps memory and cannot fork.

Reads what `nvidia-smi` prints. Its order is that of the PCI bus, as CUDA's is with `CUDA_DEVICE_ORDER=PCI_BUS_ID`; for
machines whose GPUs are alike it makes no difference.
"""

import os
import subprocess
from typing import NamedTuple

QUERY = ("index", "uuid", "name", "memory.total", "memory.free", "driver_version")


class Gpu(NamedTuple):
    """A GPU as the driver sees it."""

    name: str
    total_gib: float
    free_gib: float
    driver: str


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA would show to this process; none where there is no driver, or it does not answer."""
    command = ["nvidia-smi", f"--query-gpu={','.join(QUERY)}", "--format=csv,noheader,nounits"]
    try:
        printed = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return []
    rows = [[part.strip() for part in line.split(",")] for line in printed.splitlines()]
    found = {(row[0], row[1]): _gpu(row) for row in rows if len(row) == len(QUERY)}
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if asked is None:
        return [gpu for gpu in found.values() if gpu is not None]
    chosen: list[Gpu] = []
    for device in asked.split(","):
        named = [gpu for (index, uuid), gpu in found.items() if device.strip() and _is(device.strip(), index, uuid)]
        if len(named) != 1 or named[0] is None:  # as CUDA does, which stops at the first that is not there
            break
        chosen.append(named[0])
    return chosen


def _is(device: str, index: str, uuid: str) -> bool:
    return device == index or (device.startswith("GPU-") and uuid.startswith(device))


def _gpu(row: list[str]) -> Gpu | None:
    """Return a line of the driver's table; None where it does not say a memory's size, as for parts of a GPU (MIG)."""
    try:
        return Gpu(row[2], float(row[3]) / 1024, float(row[4]) / 1024, row[5])
    except ValueError:
        return None
