"""Calls that only Linux, glibc or x86 has: what happens where they are missing. Each test pretends to be elsewhere."""

import ctypes
import importlib.util
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest
import torch
from fake_workers import await_end, is_alive
from test_trainer import SETTINGS

from experiments.bench.machine import cpu_entry
from tpo.model import onednn
from tpo.model.load import default_device
from tpo.plan import machine
from tpo.store.gpus import find_gpus, has_gpu
from tpo.store.memory import host_peak_mib, keep_freed_memory
from tpo.store.processes import cores, workers
from tpo.store.processes.cores import num_cores, usable_cores
from tpo.store.processes.workers import kill_group, share_devices

REPOSITORY = Path(__file__).parents[1]


@pytest.fixture
def four_cores(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A system that has four cores and does not say on which a process may run, as macOS."""
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def test_all_cores_are_used_where_the_system_names_none(four_cores: None) -> None:
    assert usable_cores() == [0, 1, 2, 3] and num_cores() == 4
    shares = share_devices(2, per_worker=1, group="engine")
    assert [share["VLLM_CPU_OMP_THREADS_BIND"] for share in shares] == ["0,1", "2,3"]


@pytest.mark.parametrize(("system", "said"), [("linux", 300 * 2**10), ("darwin", 300 * 2**20)])
def test_the_peak_is_in_mib_by_either_unit(system: str, said: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=said))
    monkeypatch.setattr("tpo.store.memory.STATUS", Path("/nowhere"))  # Linux's own, which /proc need not show
    assert host_peak_mib() == 300.0


@pytest.mark.parametrize("system", ["darwin", "linux"])
def test_another_allocator_is_left_alone(system: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On macOS the C library is not looked at; on Linux it may be musl, which has no mallopt."""
    opened: list[Any] = []
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(ctypes, "CDLL", lambda name: opened.append(name) or SimpleNamespace())
    keep_freed_memory()
    assert opened == ([] if system == "darwin" else [None])


RANK = """
import ctypes, os, sys, time
sys.platform = "darwin"
ctypes.CDLL = None
from tpo.store.processes import launch
launch.POLL_S = 0.02
launch.end_with_launcher()
print(os.getpid(), flush=True)
time.sleep(600)
"""
LAUNCHER = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]], start_new_session=True)"


@pytest.fixture
def launched() -> Iterator[Callable[[], tuple[subprocess.Popen[str], int]]]:
    """Starts a launcher with a rank in a session of its own; returns it and the rank's process."""
    started: list[tuple[subprocess.Popen[str], int]] = []

    def start() -> tuple[subprocess.Popen[str], int]:
        command = [sys.executable, "-c", LAUNCHER, RANK]
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        launcher = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        assert launcher.stdout is not None
        started.append((launcher, int(launcher.stdout.readline())))
        return started[-1]

    yield start
    for launcher, rank in started:
        launcher.kill()
        launcher.communicate()
        if is_alive(rank):
            os.kill(rank, signal.SIGKILL)


def test_a_rank_ends_with_its_launcher_without_the_kernel_s_help(
    launched: Callable[[], tuple[subprocess.Popen[str], int]],
) -> None:
    launcher, rank = launched()
    time.sleep(0.2)
    assert is_alive(rank), "while its launcher runs"
    launcher.kill()
    assert await_end([rank])


@pytest.mark.parametrize("error", [ProcessLookupError, PermissionError])
def test_a_group_that_has_ended_is_no_error(error: type[OSError], monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux knows no such group any more; macOS does not permit to signal one of zombies."""

    def killpg(number: int, sent: int) -> None:
        raise error

    monkeypatch.setattr(workers.os, "killpg", killpg)
    kill_group(12345)


def test_free_memory_is_the_system_s_or_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=5 * 2**30))
    assert machine._free_host_bytes() == 5 * 2**30
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert machine._free_host_bytes() is None


def test_a_system_without_proc_names_no_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    def read_text(path: Path) -> str:
        raise FileNotFoundError(path)

    monkeypatch.setattr(Path, "read_text", read_text)
    assert cpu_entry("model name") is None


# --- torch as other machines have it ----------------------------------------------------------------------------


@pytest.fixture
def kernels(monkeypatch: pytest.MonkeyPatch) -> Iterator[SimpleNamespace]:
    """Stand-ins for oneDNN's operations that compute; a test takes one away or spoils it."""
    operations = SimpleNamespace(
        _reorder_linear_weight=lambda weight, rows: weight,
        _linear_pointwise=lambda x, weight, bias, *rest: x @ weight.T,
        _is_mkldnn_bf16_supported=lambda: True,
    )
    monkeypatch.setattr(onednn.torch.ops, "mkldnn", operations, raising=False)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: True)
    onednn.has_kernels.cache_clear()
    yield operations
    onednn.has_kernels.cache_clear()


def test_kernels_that_compute_are_used(kernels: SimpleNamespace) -> None:
    assert onednn.has_kernels()


def _fail(*_: Any) -> None:
    raise RuntimeError("could not create a primitive descriptor for a matmul primitive")


@pytest.mark.parametrize(
    "changes",
    [
        {"_linear_pointwise": None},
        {"_is_mkldnn_bf16_supported": lambda: False},
        {"_linear_pointwise": _fail},
        {"_reorder_linear_weight": _fail},
        {"_linear_pointwise": lambda x, weight, bias, *rest: x @ weight.T + 1},
    ],
    ids=["missing", "unsupported", "fails", "fails_to_reorder", "wrong"],
)
def test_kernels_that_are_missing_fail_or_are_wrong_are_not_used(
    changes: dict[str, Any], kernels: SimpleNamespace
) -> None:
    for name, operation in changes.items():
        if operation is None:
            delattr(kernels, name)
        else:
            setattr(kernels, name, operation)
    assert not onednn.has_kernels()


def test_a_build_without_onednn_has_no_kernels(kernels: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert not onednn.has_kernels()


def test_apple_s_gpu_computes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Sampling and training have one device; by itself trl's trainer would choose Apple's."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setenv("PATH", str(tmp_path))  # no nvidia-smi
    find_gpus.cache_clear()
    assert default_device() == "cpu" and not has_gpu()
    find_gpus.cache_clear()
    assert SETTINGS.arguments(tmp_path, seed=0)["use_cpu"]


# --- another system ---------------------------------------------------------------------------------------------


def test_windows_is_refused_in_a_sentence() -> None:
    code = "import sys; sys.platform = 'win32'; import tpo.run"
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert done.stderr == "tpo needs Linux or macOS: on Windows run it in WSL 2\n"
