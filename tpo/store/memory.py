"""Memory: what was used of it, and keeping what was freed, because asking the system for it again is slow."""

import ctypes
import gc
import resource
import sys
from collections.abc import Mapping, Sequence

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h


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
    """Return the most memory of the host that this process has used."""
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
    """Count the device's memory anew, for a process that has executed a step before."""
    if has_used_device():
        sys.modules["torch"].cuda.reset_peak_memory_stats()


def give_back() -> None:
    """Give the device's memory back that nothing refers to any more; what CUDA itself takes stays taken."""
    if has_used_device():
        gc.collect()
        sys.modules["torch"].cuda.empty_cache()
