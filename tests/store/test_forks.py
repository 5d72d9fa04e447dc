"""Workers that share what was made once: who does what, and that none survives a failure, a close or its parent."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
from fake_workers import FakeModel, Forked, await_end, is_alive

from tpo.store.errors import TpoError
from tpo.store.processes import forks
from tpo.store.processes.forks import ForkedWorkers, preload
from tpo.store.processes.order import in_order, numbered

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def import_torch_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forks, "IMPORTED", ["torch"])


@pytest.fixture
def start() -> Iterator[Callable[..., ForkedWorkers]]:
    pools: list[ForkedWorkers] = []

    def run(count: int, **arguments: Any) -> ForkedWorkers:
        pools.append(ForkedWorkers(FakeModel, arguments, count=count))
        return pools[-1]

    yield run
    for pool in pools:
        pool.close()


def ask(workers: ForkedWorkers, count: int) -> list[Forked]:
    """Who the workers are: none gets a second task before every one has had its first."""
    found: list[Forked] = list(workers.run(["who"] * count))
    assert len({who.pid for who in found}) == count
    return found


def pids_of(found: Iterable[Forked]) -> list[int]:
    return [pid for who in found for pid in (who.pid, who.stem)]


def test_the_model_is_made_once_and_is_in_memory_once(start: Callable[..., ForkedWorkers]) -> None:
    size = 2**27
    workers = start(3, size=size)
    found = ask(workers, 3)
    (made_by,) = {who.made_by for who in found}
    assert {who.stem for who in found} == {made_by} and made_by != os.getpid()
    assert all(who.sum == size for who in found), "each has read all of it"
    assert all(who.private < size / 4 for who in found), "and has no copy"
    assert {who.threads for who in found} == {1}
    assert sorted(workers.run(["who", 0.1, "who"]), key=str)[0] == 0.1, "and goes on"


def test_the_next_step_has_other_processes_and_no_imports(start: Callable[..., ForkedWorkers]) -> None:
    first = ask(start(2), 2)
    began = time.monotonic()
    second = ask(start(2), 2)
    assert time.monotonic() - began < 2, "torch alone would take longer where it is imported first"
    assert not {who.pid for who in first} & {who.pid for who in second}


def test_closed_workers_are_gone_whatever_they_do(start: Callable[..., ForkedWorkers]) -> None:
    workers = start(2)
    pids = pids_of(ask(workers, 2))
    results = workers.run(["twice", "wait"])
    assert next(results) == "first"
    results.close()
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids), "not even as zombies"
    assert not workers.are_alive


FAILURES = {
    "raise": r"worker . of 2 failed: ValueError: out of memory",
    "refuse": r"worker . of 2 failed: this cannot be sampled: lower the temperature",
    "die": r"worker . of 2 was killed by SIGKILL; .* enough memory\?",
    "leave": r"worker . of 2 ended with exit code 3",
    "kill_stem": r"worker . of 2 is gone",
}


@pytest.mark.parametrize("task", FAILURES)
def test_the_first_failure_ends_all(start: Callable[..., ForkedWorkers], task: str) -> None:
    workers = start(2)
    pids = pids_of(ask(workers, 2))
    began = time.monotonic()
    with pytest.raises(TpoError, match=FAILURES[task]):
        list(workers.run(["wait", task]))
    assert await_end(pids)
    assert time.monotonic() - began < 5


def test_an_error_of_the_source_ends_all(start: Callable[..., ForkedWorkers]) -> None:
    workers = start(2)
    pids = pids_of(ask(workers, 2))

    def tasks() -> Iterator[str]:
        yield "wait"
        raise KeyboardInterrupt  # as Ctrl-C, which reaches the parent wherever it is

    with pytest.raises(KeyboardInterrupt):
        list(workers.run(tasks()))
    assert await_end(pids)


@pytest.mark.parametrize(
    ("size", "error"),
    [
        (-1, "^no model of a negative size: give another$"),
        (-2, "^ValueError: a fault$"),
        (-3, "the process that loads the model was killed by SIGKILL. Is there enough memory?"),
    ],
)
def test_a_model_that_cannot_be_made_says_why(size: int, error: str, start: Callable[..., ForkedWorkers]) -> None:
    with pytest.raises(TpoError, match=error):
        start(2, size=size)
    assert not multiprocessing.active_children()
    ask(start(2), 2)


def test_a_killed_fork_server_is_replaced(start: Callable[..., ForkedWorkers]) -> None:
    workers = start(2)
    ask(workers, 2)
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGKILL)
    ask(workers, 2)
    workers.close()
    ask(start(2), 2)
    assert forkserver._forkserver._forkserver_pid != pid  # type: ignore[attr-defined]


PARENT = """
import os, sys, time
sys.path.insert(0, "tests")
from fake_workers import FakeModel
from multiprocessing import forkserver
from tpo.store.processes import forks
forks.IMPORTED = []
workers = forks.ForkedWorkers(FakeModel, {}, count=2)
found = list(workers.run(["who", "who"]))
print(*[pid for who in found for pid in (who.pid, who.stem)], forkserver._forkserver._forkserver_pid, flush=True)
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
    assert len(pids) == 5
    if state != "done":
        assert all(map(is_alive, pids))
        process.kill()
    process.communicate()
    assert await_end(pids)


def test_ctrl_c_reaches_the_parent_only(start: Callable[..., ForkedWorkers]) -> None:
    """The fork server ignores it; stem and workers have a session of their own, to which no terminal sends it."""
    for who in ask(start(2), 2):
        assert os.getsid(who.pid) == who.stem
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    os.kill(pid, signal.SIGINT)
    time.sleep(0.1)
    assert is_alive(pid)
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, [])


def test_preloading_twice_starts_one_fork_server() -> None:
    preload()
    pid = forkserver._forkserver._forkserver_pid  # type: ignore[attr-defined]
    preload()
    assert forkserver._forkserver._forkserver_pid == pid  # type: ignore[attr-defined]


def test_results_are_put_in_order() -> None:
    workers = ForkedWorkers(numbered, {"factory": FakeModel}, count=2)
    try:
        tasks = [0.3, *[0.001] * 20, 0.2, *[0.002] * 5]
        assert list(in_order(workers.run, tasks)) == tasks
        assert list(in_order(workers.run, [])) == []
    finally:
        workers.close()
