"""Memory: what was used of it, and what of the freed is kept: asking the system again is slow, keeping all is much.

Within a step a process keeps what it frees; after a step that computed, what is free goes back to the system.
"""

import ctypes
import gc
import os
import re
import resource
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

STATUS = Path("/proc/self/status")
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
# How many kernels oneDNN keeps, each compiled for one shape: read when it computes first. A step of decoding uses about
# 30, and shapes of other steps come back seldom; of its own 1,024 a process of the quickstart held 0.7 GiB.
KERNELS, NUM_KERNELS = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", 128


def keep_few_kernels() -> None:
    """Limit the kernels that oneDNN keeps in this process and those that it starts, unless the user has set a limit."""
    os.environ.setdefault(KERNELS, str(NUM_KERNELS))


def keep_freed_memory() -> None:
    """Tell glibc to reuse freed memory in place of returning it to the system; elsewhere do nothing.

    A training step on a CPU allocates and frees gigabytes of activations. By default glibc maps and unmaps each
    large tensor, and the kernel clears every page anew; experiments/LOG.md has what a training gained.
    """
    if not sys.platform.startswith("linux"):
        return
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except AttributeError:  # another C library, such as musl
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def has_used_device() -> bool:
    """Return whether this process has used a GPU through torch: CUDA keeps some memory until the process ends."""
    torch = sys.modules.get("torch")
    return torch is not None and bool(torch.cuda.is_initialized())


def host_peak_mib() -> float:
    """Return the most memory of the host that this process has used since its start or, on Linux, `begin_step`."""
    with suppress(OSError):  # only Linux has it; a new process inherits ru_maxrss from the one that started it
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE):
            return int(found[1]) / 1024
    unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss: getrusage(2) of macOS and of Linux
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**20


def own_peak_mib() -> dict[str, float]:
    """Return the most memory that this process has used: of the host, and of the device where it used one."""
    peak = {"host": round(host_peak_mib(), 1)}
    if has_used_device():
        peak["device"] = round(sys.modules["torch"].cuda.max_memory_allocated() / 2**20, 1)
    return peak


def combined_mib(peaks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return what processes that run together have used at most: the sum of the host's memory, the most of a device."""
    found = {"host": round(sum(peak["host"] for peak in peaks), 1)}
    devices = [peak["device"] for peak in peaks if "device" in peak]
    return found | ({"device": max(devices)} if devices else {})


def begin_step() -> None:
    """Count the memory anew, for a process that has executed a step before; the host's on Linux only."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # proc(5): the peak is what is used now
    if has_used_device():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def give_back() -> None:
    """Give the memory back that nothing refers to any more, of host and device; what CUDA itself takes stays taken."""
    gc.collect()
    if sys.platform.startswith("linux"):
        with suppress(AttributeError):  # another C library than glibc
            ctypes.CDLL(None).malloc_trim(0)
    if has_used_device():
        sys.modules["torch"].cuda.empty_cache()
