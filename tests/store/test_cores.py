"""How many cores there are for this process: the least of what it may run on, its container's quota and OpenMP's."""

import os
import sys
from pathlib import Path

import pytest
import torch

from tpo.store.errors import TpoError
from tpo.store.processes import cores
from tpo.store.processes.cores import AUTO, count_workers, num_cores


@pytest.fixture(autouse=True)
def eight_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(sys, "platform", "linux")


@pytest.mark.parametrize(
    ("threads", "quota", "expected"),
    [
        (None, None, 8),
        ("4", None, 4),
        ("16", None, 8),
        ("3,2", None, 3),
        ("", None, 8),
        ("0", None, 1),
        (None, "max 100000", 8),
        (None, "250000 100000", 3),
        (None, "50000 100000", 1),
        ("2", "600000 100000", 2),
    ],
)
def test_the_least_limit_holds(
    threads: str | None, quota: str | None, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if threads is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", threads)
    if quota is not None:
        (tmp_path / "cpu.max").write_text(quota + "\n")
    assert num_cores() == expected == count_workers(AUTO, at="engine.num_workers")


@pytest.mark.parametrize(("quota", "expected"), [("-1", 8), ("400000", 4)])
def test_version_1_of_control_groups(quota: str, expected: int, tmp_path: Path) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(quota + "\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert num_cores() == expected


def test_the_number_that_is_set_holds() -> None:
    assert [count_workers(number, at="engine.num_workers") for number in (1, 3, 12)] == [1, 3, 12]


def test_elsewhere_this_process_computes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert count_workers(AUTO, at="engine.num_workers") == 1
    with pytest.raises(TpoError, match="engine.num_workers=2: .* on Linux only, and this is darwin: set it to 1"):
        count_workers(2, at="engine.num_workers")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert count_workers(AUTO, at="engine.num_workers") == count_workers(1, at="engine.num_workers") == 1
