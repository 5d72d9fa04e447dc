"""Host memory: keep what was freed, because asking the operating system for it again is slow."""

import ctypes
import sys

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
    except AttributeError:  # another C library
        return
    mallopt(M_MMAP_MAX, 0)
    mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
