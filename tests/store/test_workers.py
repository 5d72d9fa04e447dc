"""Worker processes: who does what, and that none survives a failure, a close or its parent."""

import ctypes
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import length_hint
from pathlib import Path
from typing import Any

import pytest
import torch
from fake_workers import Counter, Who, await_end, is_alive, shares, take_three

from tpo.store.errors import TpoError
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


def ask(workers: Workers, count: int) -> list[Who]:
    """Who the workers are, by their shares: no worker gets a second task before every one has had its first."""
    found = sorted(workers.run(["who"] * count), key=lambda who: who.share)
    assert [who.share for who in found] == [str(number) for number in range(count)]
    return found


def pids_of(workers: Workers, count: int) -> list[int]:
    return [pid for who in ask(workers, count) for pid in (who.pid, who.child)]


def test_every_worker_sees_its_share_and_keeps_what_it_holds(start: Callable[..., Workers]) -> None:
    workers = start(2, arguments=[{"start": 10}, {"start": 20}])
    first = ask(workers, 2)
    assert [who.count for who in first] == [11, 21]
    assert len({os.getpid(), *(who.pid for who in first)}) == 3
    assert [who.count for who in ask(workers, 2)] == [12, 22]
    assert sorted(workers.run(["twice", "twice"])) == ["first", "first", "second", "second"]
    assert list(workers.run([])) == []
    workers.make(Counter, [{"start": 30}, {"start": 40}])
    anew = ask(workers, 2)
    assert [who.pid for who in anew] == [who.pid for who in first], "the same processes"
    assert [who.count for who in anew] == [31, 41]


def test_whoever_is_free_takes_the_next_task(start: Callable[..., Workers]) -> None:
    workers = start(2)
    found = list(workers.run([0.5, *["who"] * 9]))
    assert found[-1] == 0.5 and len({who.pid for who in found[:-1]}) == 1, "nine by the other meanwhile"
    assert sorted(who.count for who in found[:-1]) == list(range(1, 10))


def test_tasks_are_taken_when_there_is_room_for_them(start: Callable[..., Workers]) -> None:
    """So an endless source does not fill memory, and a worker holds as many as its stream function wants."""
    workers = start(2)
    workers.make(take_three, [{}, {}])
    source = iter(range(1000))
    results = workers.run(source)
    first = next(results)
    assert len(first) == 3 and length_hint(source) > 980, "each has given three at most, and holds three"
    assert sorted(task for group in [first, *results] for task in group) == list(range(1000))


def test_large_tasks_and_results_do_not_block_each_other(start: Callable[..., Workers]) -> None:
    workers = start(2)
    tasks: list[Any] = [os.urandom(2**20) for _ in range(8)]
    assert sorted(map(len, workers.run(tasks))) == [2**20] * 8


FAILURES = {
    "raise": r"worker . of 2 \(SHARE=., .*\) failed: ValueError: out of memory",
    "refuse": r"worker . of 2 .* failed: this cannot be sampled: lower the temperature",
    "die": r"worker . of 2 .* was killed by SIGKILL",
    "leave": r"worker . of 2 .* ended with exit code 3",
}


@pytest.mark.parametrize("task", FAILURES)
def test_the_first_failure_ends_all(start: Callable[..., Workers], task: str) -> None:
    workers = start(2)
    pids = pids_of(workers, 2)
    assert all(map(is_alive, pids))
    began = time.monotonic()
    with pytest.raises(TpoError, match=FAILURES[task]):
        list(workers.run(["wait", task]))
    assert await_end(pids), "processes of the workers too"
    assert time.monotonic() - began < 5


def test_an_error_of_the_source_ends_all(start: Callable[..., Workers]) -> None:
    workers = start(2)
    pids = pids_of(workers, 2)

    def tasks() -> Iterator[str]:
        yield "wait"
        raise KeyboardInterrupt  # as Ctrl-C, which reaches the parent wherever it is

    with pytest.raises(KeyboardInterrupt):
        list(workers.run(tasks()))
    assert await_end(pids)


def test_whoever_stops_reading_ends_all(start: Callable[..., Workers]) -> None:
    workers = start(2)
    pids = pids_of(workers, 2)
    results = workers.run(["twice", "wait"])
    assert [next(results), next(results)] == ["first", "second"], "as they come"
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
print(*[pid for who in workers.run(["who", "who"]) for pid in who[:2]], flush=True)
if sys.argv[1] == "busy":
    list(workers.run(["wait", "wait"]))
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


def test_ctrl_c_reaches_the_parent_only(start: Callable[..., Workers]) -> None:
    workers = start(2)
    assert all(os.getsid(who.pid) == who.pid for who in ask(workers, 2)), "a terminal signals its own session"


@pytest.mark.skipif(sys.platform != "linux", reason="the system has no subreapers")
def test_children_that_nobody_waits_for_do_not_keep_a_close_waiting(start: Callable[..., Workers]) -> None:
    """As in a container whose first process waits for no orphan."""
    control = ctypes.CDLL(None).prctl
    assert control(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER: orphans below become this process's own
    try:
        workers = start(1)
        [who] = ask(workers, 1)
        begun = time.monotonic()
        workers.close()
        assert time.monotonic() - begun < 2
        assert os.waitpid(who.child, os.WNOHANG) == (who.child, signal.SIGKILL), "a zombie until now"
    finally:
        control(36, 0, 0, 0, 0)


def test_idle_workers_end_like_any_program(start: Callable[..., Workers]) -> None:
    workers = start(2)
    found = ask(workers, 2)
    assert workers.are_alive
    list(workers.run(["note_end", "note_end"]))
    workers.end()
    assert not workers.are_alive and not any(is_alive(pid) for who in found for pid in (who.pid, who.child))
    for who in found:
        note = Path(tempfile.gettempdir()) / f"ended-{who.pid}"
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
