"""What vLLM is started with, and what happens when its engine dies; the engine itself is in test_vllm_engine.py."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from fake_workers import shares

from tpo.store.environment import peak_memory_mib
from tpo.store.processes import kept as kept_module
from tpo.store.processes import vllm as vllm_process
from tpo.store.processes.vllm import engine_peaks_mib, prepare_environment
from tpo.store.processes.workers import Workers

VARIABLES = ("PATH", "VLLM_USE_FLASHINFER_SAMPLER", "VLLM_WORKER_MULTIPROC_METHOD", "VLLM_CPU_OMP_THREADS_BIND")


@pytest.fixture
def variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Sets environment variables, unsets the others of vLLM's, and restores all."""

    def set_to(**values: str) -> None:
        for name in VARIABLES:
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    before = {name: os.environ.get(name) for name in VARIABLES}
    yield set_to
    for name, value in before.items():  # what was set past monkeypatch
        os.environ.pop(name, None) if value is None else os.environ.update({name: value})


def test_vllm_finds_ninja_and_does_not_compile_a_sampler(variables: Callable[..., None]) -> None:
    folder = str(Path(sys.executable).parent)
    variables(PATH="/usr/bin:/bin")
    prepare_environment()
    prepare_environment()
    assert os.environ["PATH"] == f"{folder}:/usr/bin:/bin", "once, before the others"
    assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == "0"
    variables(PATH=f"/usr/bin:{folder}", VLLM_USE_FLASHINFER_SAMPLER="1")
    prepare_environment()
    assert os.environ["PATH"] == f"/usr/bin:{folder}", "it is there"
    assert os.environ["VLLM_USE_FLASHINFER_SAMPLER"] == "1", "the user's word counts"
    variables()
    prepare_environment()
    assert os.environ["PATH"].split(":")[0] == folder and "/usr/bin" in os.environ["PATH"].split(":")


class FakeLLM:
    """In the place of `vllm.LLM`, as far as its workers are asked."""

    def collective_rpc(self, method: str) -> list[dict[str, float]]:
        assert method == "peak_memory_mib" and callable(getattr(vllm_process.EngineExtension, method))
        return [{"host": 1000.0, "device": 20000.0}, {"host": 500.0, "device": 30000.0}]


def test_a_steps_memory_is_that_of_vllms_processes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = peak_memory_mib()
    assert alone.keys() == {"host"} and engine_peaks_mib() == []
    monkeypatch.setattr(vllm_process, "_llm", FakeLLM())
    found = peak_memory_mib()
    assert found["device"] == 30000, "each has a GPU of its own"
    assert found["host"] == pytest.approx(alone["host"] + 1500, abs=50)


def test_memory_of_several_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    workers = Workers(shares(2))
    try:
        monkeypatch.setattr(kept_module, "_kept", kept_module.Kept("several", workers, is_torch=False))
        peaks: list[dict[str, Any]] = engine_peaks_mib()
        assert len(peaks) == 2 and all(peak["host"] > 10 for peak in peaks)
        assert peak_memory_mib()["host"] > sum(peak["host"] for peak in peaks)
    finally:
        workers.end()


SCRIPT = """
import sys, threading, time
import tpo.store.processes.vllm as process
from types import SimpleNamespace
process.POLL_S = process.GRACE_S = 0.05
class Client:
    resources = SimpleNamespace(engine_dead=False)
client, is_ending = Client(), threading.Event()
thread = threading.Thread(target=process._watch, args=(client, is_ending), daemon=True)
thread.start()
time.sleep(0.2)
assert thread.is_alive()
if sys.argv[1] == "ending":  # in order: vLLM calls its engine core dead, and takes its time
    is_ending.set()
if sys.argv[1] != "alive":
    client.resources.engine_dead = True
    time.sleep(30 if sys.argv[1] == "dead" else 0.5)
"""


@pytest.mark.parametrize(("case", "code"), [("dead", 1), ("alive", 0), ("ending", 0)])
def test_a_process_ends_with_its_engine(case: str, code: int) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, case],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == code, done.stderr
    assert ("run the same command again" in done.stderr) == (case == "dead")
