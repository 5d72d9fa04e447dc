"""What is known of GPUs without one: a program in the place of nvidia-smi says what there is."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import asks_for_gpus

import tpo.store.environment
import tpo.store.processes.launch
from tpo.store.errors import TpoError
from tpo.store.gpus import ALLOCATOR, VISIBLE, device_name, find_gpus, has_gpu, one_gpu, prepare
from tpo.store.open import open_store

REPOSITORY = Path(__file__).parents[2]
TWO = """\
0, GPU-aaaa1111, NVIDIA H100 80GB HBM3, 550.54.15, 81920, 79872
1, GPU-bbbb2222, NVIDIA L4, 550.54.15, 23034, 22528
"""
Driver = Callable[..., None]


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Driver]:
    """Puts a program that prints what it is given where nvidia-smi is looked for."""

    def says(text: str, *, code: int = 0) -> None:
        program = tmp_path / "nvidia-smi"
        program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}END\nexit {code}\n")
        program.chmod(0o755)
        find_gpus.cache_clear()

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.delenv(VISIBLE, raising=False)
    find_gpus.cache_clear()
    yield says
    find_gpus.cache_clear()


def test_a_machine_without_a_driver_has_none(driver: Driver) -> None:
    assert find_gpus() == () and not has_gpu() and device_name() is None


def test_gpus_are_those_that_the_driver_reports(driver: Driver) -> None:
    driver(TWO)
    first, second = find_gpus()
    assert first == ("0", "GPU-aaaa1111", "NVIDIA H100 80GB HBM3", "550.54.15", 80.0, 78.0)
    assert (second.number, second.name) == ("1", "NVIDIA L4")


@pytest.mark.parametrize(
    ("visible", "name"),
    [
        (None, "NVIDIA H100 80GB HBM3, driver 550.54.15"),
        ("1,0", "NVIDIA L4, driver 550.54.15"),
        ("GPU-bbbb", "NVIDIA L4, driver 550.54.15"),
        ("", None),
        ("-1", None),
    ],
)
def test_the_device_is_the_first_visible(
    visible: str | None, name: str | None, driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(TWO)
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert device_name() == name


def test_a_driver_without_a_gpu_is_said_and_no_error(driver: Driver, caplog: pytest.LogCaptureFixture) -> None:
    driver("Failed to initialize NVML: Driver/library version mismatch\n", code=18)
    assert find_gpus() == () and not has_gpu()
    assert "Driver/library version mismatch" in caplog.text


def test_a_gpu_that_torch_cannot_use_is_an_error_before_the_first_stage(
    driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver(TWO)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    said = f"NVIDIA H100 80GB HBM3 with driver 550.54.15, and torch {torch.__version__}, which is built for CUDA 13.0"
    with pytest.raises(TpoError, match="driver 580 or later") as raised, open_store(tmp_path):
        pass
    assert said in str(raised.value)
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(TpoError, match="which is built without CUDA, cannot use it"):
        has_gpu()
    monkeypatch.setenv(VISIBLE, "")
    assert not has_gpu(), "it was said that none is to be used"
    monkeypatch.setenv(VISIBLE, "1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert has_gpu()


def test_a_manifest_has_the_driver_and_no_cuda_is_started_for_it(
    driver: Driver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> None:
        raise AssertionError("CUDA was started")

    driver(TWO)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", fail)
    assert tpo.store.environment._device_name() == "NVIDIA H100 80GB HBM3, driver 550.54.15"


# --- what a process sees and sets -------------------------------------------------------------------------------


@pytest.mark.parametrize(("visible", "first"), [(None, "0"), ("3,1", "3"), ("GPU-a,GPU-b", "GPU-a"), ("", "")])
def test_a_step_in_one_process_sees_one_gpu(
    visible: str | None, first: str, driver: Driver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if visible is not None:
        monkeypatch.setenv(VISIBLE, visible)
    assert one_gpu() == {VISIBLE: first}
    seen = []

    def run(command: list[str], *, env: dict[str, str], **_: object) -> subprocess.CompletedProcess[str]:
        seen.append(env.get(VISIBLE))
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    for accelerate in (None, {"num_processes": 2}):
        tpo.store.processes.launch.start(tmp_path, accelerate)
    assert seen == [first, visible], "several processes share what there is"


def test_a_process_that_computes_is_prepared_before_torch_is_imported() -> None:
    script = (
        "import os, sys\n"
        "from tpo.store.gpus import ALLOCATOR, prepare\n"
        "import tpo.store.execute\n"
        "assert 'torch' not in sys.modules\n"
        "prepare()\n"
        "assert os.environ[ALLOCATOR[0]] == 'expandable_segments:True'\n"
        "import torch\n"
        "assert not torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cuda.flash_sdp_enabled()\n"
    )
    environment = {name: value for name, value in os.environ.items() if name not in ALLOCATOR}
    subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, env=environment, check=True)


def test_the_users_allocator_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ALLOCATOR[0], raising=False)
    monkeypatch.setenv(ALLOCATOR[1], "max_split_size_mb:512")
    prepare()
    assert ALLOCATOR[0] not in os.environ


# --- the tests themselves ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markers", "expected"),
    [
        ("", False),
        ("not slow", False),
        ("not slow and not gpu", False),
        ("gpu", True),
        ("slow", False),
        ("gpu or slow", True),
    ],
)
def test_default_tests_see_no_gpu(markers: str, expected: bool) -> None:
    assert asks_for_gpus(markers) == expected
