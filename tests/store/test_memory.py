"""What is freed stays with the process within a step, goes back after it, and each step's peak is its own."""

import os
import subprocess
import sys

import pytest

from tpo.store.memory import KERNELS, NUM_KERNELS, keep_few_kernels

ON_LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's allocator, and reads /proc")

PROBE = """
import sys
import numpy as np
from tpo.store.memory import keep_freed_memory
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


@ON_LINUX
def test_freed_memory_is_kept() -> None:
    assert resident_mib("keep") - resident_mib("default") > 90


GIVING_BACK = """
import numpy as np
from tpo.store.memory import begin_step, give_back, host_peak_mib, keep_freed_memory
def resident():
    return int(open("/proc/self/statm").read().split()[1]) * 4096 // 2**20
keep_freed_memory()
begin_step()
before = resident()
blocks = [np.ones(2**20 // 8) for _ in range(100)]
last = np.ones(10)  # above them: the heap's end is in use
del blocks
kept, first_peak = resident(), host_peak_mib()
give_back()
left = resident()
begin_step()
second_peak = host_peak_mib()
print(kept - before, left - before, int(first_peak - before), int(second_peak - before))
"""


@ON_LINUX
def test_memory_goes_back_after_a_step_whose_peak_is_its_own() -> None:
    done = subprocess.run([sys.executable, "-c", GIVING_BACK], capture_output=True, text=True, check=True)
    kept, left, first_peak, second_peak = map(int, done.stdout.split())
    assert kept > 95 and first_peak > 95
    assert left < 10 and second_peak < 10


def test_a_limit_of_kernels_that_the_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KERNELS, raising=False)
    keep_few_kernels()
    assert os.environ[KERNELS] == str(NUM_KERNELS)
    monkeypatch.setenv(KERNELS, "7")
    keep_few_kernels()
    assert os.environ[KERNELS] == "7"
