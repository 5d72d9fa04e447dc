"""Worker processes: who does what, and that none survives a failure, a close or its parent."""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import vllm_settings
from fake_workers import Counter, FakeEngine, FakeModel, shares

from tpo.judge.llm import local
from tpo.judge.llm.ask import load_llm
from tpo.judge.llm.cache import Asked
from tpo.judge.llm.question import Question
from tpo.judge.llm.settings import LLMConfig, LocalLLMConfig
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding
from tpo.sample.engines import vllm as vllm_workers
from tpo.store.errors import TpoError
from tpo.store.processes import vllm as vllm_process
from tpo.store.processes.vllm import OccupiedError
from tpo.store.processes.workers import Workers, share_devices

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def start() -> Iterator[Callable[..., Workers]]:
    pools: list[Workers] = []

    def run(count: int, arguments: Sequence[Mapping[str, Any]] | None = None) -> Workers:
        pools.append(Workers(shares(count)))
        pools[-1].make(Counter, arguments or [{}] * count)
        return pools[-1]

    yield run
    for pool in pools:
        pool.close()


def is_alive(pid: int) -> bool:
    """Return whether a process runs; a zombie, which nobody has waited for, does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_end(pids: Sequence[int]) -> bool:
    end = time.monotonic() + 30
    while any(map(is_alive, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    return not any(map(is_alive, pids))


def pids_of(workers: Workers, count: int) -> list[int]:
    return [pid for _, found in workers.run(dict.fromkeys(range(count), "who")) for pid in found[:2]]


def test_every_worker_sees_its_share_and_keeps_what_it_holds(start: Callable[..., Workers]) -> None:
    workers = start(2, arguments=[{"start": 10}, {"start": 20}])
    first = dict(workers.run({0: "who", 1: "who"}))
    assert [first[number][2:] for number in (0, 1)] == [("0", 11), ("1", 21)]
    assert os.getpid() not in {first[0][0], first[1][0]} and first[0][0] != first[1][0]
    ((number, found),) = workers.run({1: "who"})
    assert (number, found[0], found[3]) == (1, first[1][0], 22), "the same process, and the other did nothing"
    assert sorted(workers.run({0: "twice", 1: "twice"})) == [(0, "first"), (0, "second"), (1, "first"), (1, "second")]
    assert list(workers.run({})) == []
    workers.make(Counter, [{"start": 30}, {"start": 40}])
    anew = dict(workers.run({0: "who", 1: "who"}))
    assert [anew[number][0] for number in (0, 1)] == [first[number][0] for number in (0, 1)], "the same processes"
    assert [anew[number][2:] for number in (0, 1)] == [("0", 31), ("1", 41)]


FAILURES = {
    "raise": r"worker 2 of 2 \(SHARE=1, .*\) failed: ValueError: out of memory",
    "refuse": r"worker 2 of 2 .* failed: this cannot be sampled: lower the temperature",
    "die": r"worker 2 of 2 .* was killed by SIGKILL",
    "leave": r"worker 2 of 2 .* ended with exit code 3",
}


@pytest.mark.parametrize("task", FAILURES)
def test_the_first_failure_ends_all(start: Callable[..., Workers], task: str) -> None:
    workers = start(2)
    pids = pids_of(workers, 2)
    assert all(map(is_alive, pids))
    with pytest.raises(TpoError, match=FAILURES[task]):
        list(workers.run({0: "wait", 1: task}))
    assert await_end(pids), "processes of the workers too"


def test_whoever_stops_reading_ends_all(start: Callable[..., Workers]) -> None:
    workers = start(2)
    pids = pids_of(workers, 2)
    results = workers.run({0: "twice", 1: "wait"})
    assert [next(results), next(results)] == [(0, "first"), (0, "second")], "as they come"
    results.close()
    assert await_end(pids)


def test_a_worker_that_cannot_start_says_why(start: Callable[..., Workers]) -> None:
    with pytest.raises(TpoError, match="worker 1 of 2 .* failed: no model of a negative size: give another"):
        start(2, arguments=[{"start": -1}, {"start": 0}])


PARENT = """
import os, sys, time
sys.path.insert(0, "tests")
from fake_workers import Counter, shares
from tpo.store.processes.workers import Workers
workers = Workers(shares(2))
workers.make(Counter, [{}, {}])
print(*[pid for _, found in workers.run({0: "who", 1: "who"}) for pid in found[:2]], flush=True)
if sys.argv[1] == "busy":
    list(workers.run({0: "wait", 1: "wait"}))
elif sys.argv[1] == "idle":
    time.sleep(600)
"""


@pytest.mark.parametrize("state", ["busy", "idle", "done"])
def test_no_worker_outlives_its_parent(state: str) -> None:
    process = subprocess.Popen([sys.executable, "-c", PARENT, state], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    pids = list(map(int, process.stdout.readline().split()))
    assert len(pids) == 4
    if state != "done":
        assert all(map(is_alive, pids))
        time.sleep(0.2)
        process.kill()
    process.communicate()
    assert await_end(pids)


def test_idle_workers_end_like_any_program(start: Callable[..., Workers]) -> None:
    workers = start(2)
    pids = pids_of(workers, 2)
    assert workers.are_alive
    (first, _, second, _) = pids
    list(workers.run({0: "note_end", 1: "note_end"}))
    workers.end()
    assert not workers.are_alive and not any(map(is_alive, pids))
    for pid in (first, second):
        note = Path(tempfile.gettempdir()) / f"ended-{pid}"
        assert note.read_text() == "in order"
        note.unlink()


def test_killed_workers_are_gone_with_what_they_started(start: Callable[..., Workers]) -> None:
    workers = start(2)
    pids = pids_of(workers, 2)
    workers.close()
    assert not any(map(is_alive, pids)) and not workers.are_alive


DEVICES: list[tuple[int, str | None, int, int, list[str]]] = [
    (8, None, 2, 1, ["0", "1"]),
    (8, None, 2, 4, ["0,1,2,3", "4,5,6,7"]),
    (3, "5,2,7", 3, 1, ["5", "2", "7"]),
    (4, "GPU-a,GPU-b,GPU-c,GPU-d", 2, 2, ["GPU-a,GPU-b", "GPU-c,GPU-d"]),
    (2, "3,1,-1,0", 2, 1, ["3", "1"]),  # CUDA shows what stands before -1
]


@pytest.mark.parametrize(("count", "visible", "num_workers", "per_worker", "expected"), DEVICES)
def test_gpus_are_divided_in_order(
    count: int,
    visible: str | None,
    num_workers: int,
    per_worker: int,
    expected: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    set_visible(monkeypatch, visible)
    found = share_devices(num_workers, per_worker=per_worker, group="engine")
    assert found == [{"CUDA_VISIBLE_DEVICES": devices} for devices in expected]


@pytest.mark.parametrize(
    ("count", "visible", "num_workers", "per_worker"), [(4, None, 5, 1), (4, None, 2, 4), (1, "3", 2, 1)]
)
def test_too_few_gpus_are_refused(
    count: int, visible: str | None, num_workers: int, per_worker: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    set_visible(monkeypatch, visible)
    expected = (
        rf"judge.vllm.data_parallel_size={num_workers} .* needs {num_workers * per_worker} GPUs.* there are {count}"
    )
    with pytest.raises(TpoError, match=expected):
        share_devices(num_workers, per_worker=per_worker, group="judge.vllm")


@pytest.mark.parametrize(
    ("cores", "num_workers", "expected"),
    [({0, 1}, 2, ["0", "1"]), ({2, 3, 5, 8, 9}, 2, ["2,3", "5,8"]), ({4}, 2, None)],
)
def test_cores_are_divided_where_there_is_no_gpu(
    cores: set[int], num_workers: int, expected: list[str] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores)
    if expected is None:
        with pytest.raises(TpoError, match="needs 2 cores, and there are 1"):
            share_devices(num_workers, per_worker=1, group="engine")
        return
    found = share_devices(num_workers, per_worker=1, group="engine")
    assert found == [{"VLLM_CPU_OMP_THREADS_BIND": share} for share in expected]


def set_visible(monkeypatch: pytest.MonkeyPatch, visible: str | None) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)


# What divides its work among them


@pytest.mark.parametrize("count", [1, 2, 3])
def test_completions_are_in_the_order_of_the_prompts(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_workers, "VllmWorker", FakeEngine)
    monkeypatch.setattr(vllm_workers, "share_devices", lambda number, **_: shares(number))
    monkeypatch.setattr(vllm_process, "_cached", None)
    policy = Policy("model", None, "model", "float32", 512, None)
    config = vllm_settings(data_parallel_size=count)
    engine = vllm_workers.VllmWorkers(config, policy, end_ids=frozenset(), seed=3)
    try:
        for num_prompts in (5, 1):
            prompts = [[100 + number] for number in range(num_prompts)]
            seeds = [[0] * (1 + number % 2) for number in range(num_prompts)]
            groups = engine.generate(prompts, seeds=seeds, decoding=Decoding(0, 1, 8))
            found = [[generation.token_ids[:2] for generation in group] for group in groups]
            assert found == [[[100 + at, sample] for sample in range(1 + at % 2)] for at in range(num_prompts)]
            tails = {tuple(generation.token_ids[2:]) for group in groups for generation in group}
            assert len(tails) == min(count, num_prompts) == len({seed for seed, _ in tails}), "a stream for each"
        engine.close()
        other = vllm_workers.VllmWorkers(config, policy, end_ids=frozenset(), seed=4)
        assert other._workers is engine._workers, "kept for the next stage"
        ((again,),) = other.generate([[100]], seeds=[[0]], decoding=Decoding(0, 1, 8))
        assert tuple(again.token_ids[2:]) not in tails, "with a stream of its own"
        with pytest.raises(OccupiedError):
            vllm_workers.VllmWorkers(config, replace(policy, model_path="other"), end_ids=frozenset(), seed=3)
    finally:
        engine._workers.close()


def test_questions_are_divided_and_answers_kept(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "VllmModel", FakeModel)
    monkeypatch.setattr(local, "share_devices", lambda number, **_: shares(number))
    monkeypatch.setattr(vllm_process, "_cached", None)
    vllm = LocalLLMConfig(max_model_len=64, data_parallel_size=2, dtype="float32")
    config = LLMConfig(backend="vllm", name=str(tiny_model), vllm=vllm)
    llm = load_llm(config, policy=None, cache_path=tmp_path / "answers.sqlite")
    questions = [Question(None, f"Number {number}", 0.0, 8) for number in range(5)]
    answers = llm.ask([*questions, Question(None, "word " * 80, 0.0, 8)])
    assert [answer.text for answer in answers] == [*(f"{at % 2}: Number {at}" for at in range(5)), ""]
    assert answers[-1].error == "too_long"

    deadly = [Question(None, f"A deadly number {number}", 0.0, 8) for number in range(10)]
    with pytest.raises(TpoError, match="worker 2 of 2 .* was killed by SIGKILL"):
        llm.ask(deadly)
    kept = [item.text for item in llm.cache.find(_keys(llm, deadly)).values()]
    assert {"1: A deadly number 1", "1: A deadly number 3"} <= set(kept) and len(kept) == 7


def _keys(llm: Any, questions: Sequence[Question]) -> list[str]:
    return [Asked(llm.backend.identity(), question).key for question in questions]
