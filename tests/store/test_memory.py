"""Freed memory stays with the process once it was told to keep it."""

import subprocess
import sys

import pytest

PROBE = """
import sys
import numpy as np
from tpo.store.execute import keep_freed_memory
if sys.argv[1] == "keep":
    keep_freed_memory()
block = np.ones(100 * 2**20 // 8)
del block
pages = int(open("/proc/self/statm").read().split()[1])
print(pages * 4096 // 2**20)
"""


def resident_mib(mode: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROBE, mode], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator")
def test_freed_memory_is_kept() -> None:
    assert resident_mib("keep") - resident_mib("default") > 90
