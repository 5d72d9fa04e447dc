import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from omegaconf import OmegaConf

import tpo.config.devices
from tpo.config.devices import OneGpuPerWorker, claim
from tpo.store.errors import TpoError

REPOSITORY = Path(__file__).parents[2]
WORKER = """
import sys, time
from pathlib import Path
from tpo.config.devices import claim
file = claim(["0", "1"], folder=Path(sys.argv[1]), poll_s=0.05)
print(Path(file.name).name[-1], flush=True)
time.sleep(60)
"""


def worker(folder: Path) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    )


def test_workers_hold_different_gpus_and_a_killed_one_gives_its_own_back(tmp_path: Path) -> None:
    workers = [worker(tmp_path), worker(tmp_path)]
    try:
        found = [process.stdout.readline().strip() for process in workers if process.stdout]
        assert sorted(found) == ["0", "1"]
        workers.append(worker(tmp_path))
        time.sleep(0.5)
        assert workers[2].poll() is None  # waits
        workers[0].kill()
        assert workers[2].stdout is not None
        assert workers[2].stdout.readline().strip() == found[0]
    finally:
        for process in workers:
            process.kill()
            process.wait()


def test_devices_are_those_that_are_visible(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpo.config.devices, "_held", [])
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,GPU-8f1c,5")
    first = claim(["3"], folder=tmp_path)
    callback = OneGpuPerWorker(num_gpus=2)
    callback.on_job_start(OmegaConf.create())
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-8f1c"
    callback.on_job_start(OmegaConf.create())  # the worker's next job
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "GPU-8f1c"
    first.close()
    for file in tpo.config.devices._held:
        file.close()


def test_without_a_choice_devices_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert OneGpuPerWorker(num_gpus=3)._devices == ["0", "1", "2"]


@pytest.mark.parametrize(("visible", "num_gpus"), [("0,1", 3), ("0", 0), ("0", -1), (None, 0), (None, -1)])
def test_more_workers_than_gpus_are_refused(
    visible: str | None, num_gpus: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(TpoError, match=f"n_jobs={num_gpus}"):
        OneGpuPerWorker(num_gpus=num_gpus)
