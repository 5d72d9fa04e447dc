"""The GPUs of this machine, and what a process has to set before torch computes on one.

nvidia-smi, which comes with the driver, is asked about them, so that no process starts CUDA to know a name.
"""

import csv
import logging
import math
import os
import shutil
import subprocess
from functools import cache
from typing import NamedTuple

from tpo.store.errors import TpoError

log = logging.getLogger(__name__)

VISIBLE = "CUDA_VISIBLE_DEVICES"
ALLOCATOR = ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF")  # torch reads the first that is set
TIMEOUT_S = 60.0  # for a driver that has to wake its GPUs


class Gpu(NamedTuple):
    """A GPU as the driver reports it; sizes are nan where it does not say them, as for parts of a GPU (MIG)."""

    number: str
    uuid: str
    name: str
    driver: str  # its version
    total_gib: float
    free_gib: float


@cache
def find_gpus() -> tuple[Gpu, ...]:
    """Return the machine's GPUs, also those that CUDA_VISIBLE_DEVICES hides; none where there is no driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return ()
    asked = "index,uuid,name,driver_version,memory.total,memory.free"
    command = [program, f"--query-gpu={asked}", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("nvidia-smi does not answer, so no GPU is used that torch does not see: %s", error)
        return ()
    rows = [row for row in csv.reader(done.stdout.splitlines(), skipinitialspace=True) if len(row) == len(Gpu._fields)]
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())[:200]
        log.warning("nvidia-smi is installed and finds no GPU: %s", said)
        return ()
    parts = [[part.strip() for part in row] for row in rows]
    return tuple(
        Gpu(number, uuid, name, driver, _gib(total), _gib(free)) for number, uuid, name, driver, total, free in parts
    )


def visible_gpus() -> list[Gpu]:
    """Return the GPUs that CUDA shows to this process and whose memory is known, in its order.

    nvidia-smi's order is that of the PCI bus, as CUDA's is with `CUDA_DEVICE_ORDER=PCI_BUS_ID`; for machines whose GPUs
    are alike it makes no difference.
    """
    gpus, asked = find_gpus(), os.environ.get(VISIBLE)
    shown: list[Gpu] = []
    for device in [gpu.number for gpu in gpus] if asked is None else asked.split(","):
        named = [gpu for gpu in gpus if _is(gpu, device.strip())]
        if len(named) != 1:  # as CUDA does, which stops at the first that is not there
            break
        shown += named
    return [gpu for gpu in shown if not math.isnan(gpu.free_gib)]


def _is(gpu: Gpu, device: str) -> bool:
    return device == gpu.number or (device.startswith("GPU-") and gpu.uuid.startswith(device))


def _gib(mebibytes: str) -> float:
    try:
        return float(mebibytes) / 1024
    except ValueError:
        return math.nan


def has_gpu() -> bool:
    """Return whether torch computes on a GPU here; without a driver that is known without importing torch.

    Raises:
        TpoError: If there is one that torch cannot use: the run would go on for days on the CPU. CUDA_VISIBLE_DEVICES
            says that none is to be used.
    """
    gpus = find_gpus()
    if not gpus or _is_hidden():
        return False
    import torch

    if torch.cuda.is_available():
        return True
    built = f"is built for CUDA {torch.version.cuda}" if torch.version.cuda else "is built without CUDA"
    raise TpoError(
        f"there is a GPU, {gpus[0].name} with driver {gpus[0].driver}, and torch {torch.__version__}, which {built}, "
        "cannot use it: install what requirements.txt pins, whose CUDA 13 needs driver 580 or later. To compute on the "
        f"CPU all the same, set {VISIBLE}= (empty)"
    )


def device_name() -> str | None:
    """Return name and driver of the first visible GPU, None where there is none."""
    gpus = find_gpus()
    if not gpus or _is_hidden():
        return None
    first = os.environ.get(VISIBLE, "0").partition(",")[0].strip()
    gpu = next((gpu for gpu in gpus if first == gpu.number or gpu.uuid.startswith(first)), gpus[0])
    return f"{gpu.name}, driver {gpu.driver}"


def one_gpu() -> dict[str, str]:
    """Return the environment variable that shows a process the first of the GPUs that this one sees, and no other.

    A single process that saw several would train on all of them through torch's DataParallel, which trl refuses.
    """
    return {VISIBLE: os.environ.get(VISIBLE, "0").partition(",")[0]}


def prepare() -> None:
    """Prepare this process to compute with torch; whatever loads a model in plain torch calls it, first of all.

    Every micro-batch and every response has another length. cuDNN's attention, which torch prefers on an H100, builds a
    plan for each length, tens to hundreds of milliseconds a time; flash and memory-efficient attention do not. And
    blocks of fixed sizes, which torch's allocator keeps by default, fill the memory with gaps.
    """
    if not any(name in os.environ for name in ALLOCATOR):  # read when torch is imported
        os.environ[ALLOCATOR[0]] = "expandable_segments:True"
    import torch

    torch.backends.cuda.enable_cudnn_sdp(False)


def _is_hidden() -> bool:
    return os.environ.get(VISIBLE, "0").strip() in ("", "-1")
