"""The process that keeps models between stages, here without vLLM; with vLLM it is in test_vllm_run.py."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import tpo.store.open
import tpo.store.processes.launch
from tpo.sample.stages import PROMPTS
from tpo.store import resident as resident_module
from tpo.store.errors import ArtifactError, TpoError
from tpo.store.processes import kept as kept_module
from tpo.store.processes.kept import OccupiedError, kept, kept_engine
from tpo.store.resident import Resident, StepEnd
from tpo.store.stage import RunsOn, Step
from tpo.store.store import Store

BUILTIN = {"kind": "builtin", "num_train": 2, "num_validation": 2, "num_test": 2}


@pytest.fixture
def resident() -> Iterator[Resident]:
    found = Resident()
    yield found
    found.close()


def prompts(store: Store, **settings: Any) -> Path:
    """Have the store compute the stage "prompts"."""
    return store.request(PROMPTS, {"settings": BUILTIN | settings}).path


def pid_of(resident: Resident) -> int:
    assert resident._workers is not None
    (process,) = resident._workers._processes
    assert process.is_alive() and process.pid is not None
    return process.pid


def test_stages_follow_each_other_in_one_process(resident: Resident, tmp_path: Path) -> None:
    store = Store(tmp_path, execute=resident.execute)
    resident.make_room()
    assert resident._workers is None, "nothing to make room for, and nobody has asked for vLLM"
    first = prompts(store)
    assert json.loads((first / "manifest.json").read_text())["metrics"]["num_prompts"] > 0
    pid = pid_of(resident)
    assert pid != os.getpid() and (first / "rows.jsonl").exists()
    prompts(store, num_test=3)
    resident.make_room()
    assert pid_of(resident) == pid, "it holds nothing: these stages start no vLLM"
    os.kill(pid, signal.SIGKILL)
    assert resident._workers is not None
    resident._workers._processes[0].join(timeout=10)
    prompts(store, num_test=4)
    assert pid_of(resident) != pid, "one that died while it waited is replaced"
    pid = pid_of(resident)
    resident.close()
    assert not Path(f"/proc/{pid}").exists()


def test_a_failure_ends_the_process_and_not_the_next_stage(resident: Resident, tmp_path: Path) -> None:
    store = Store(tmp_path, execute=resident.execute)
    fields = {"text_field": "text", "category_field": "category", "split_field": None}
    with pytest.raises(ArtifactError, match=r"the stage prompts-\w+ failed: .*nowhere.* run the same command again"):
        prompts(store, kind="file", path=str(tmp_path / "nowhere.jsonl"), **fields)
    assert resident._workers is None
    with pytest.raises(
        ArtifactError, match="failed: ValueError: prompts=hub has other settings"
    ):  # an error that nobody foresaw
        prompts(store, kind="hub")
    assert prompts(store).exists()


class FakeWorkers:
    """In the place of a process: what it says to each stage is given, and what happened is noted."""

    says: list[StepEnd | TpoError] = []
    notes: list[str] = []
    are_alive = True

    def __init__(self, shares: Any) -> None:
        self.notes.append("start")

    def make(self, work: Any, arguments: Any) -> None:
        pass

    def run(self, tasks: list[tuple[Path, RunsOn]]) -> Iterator[StepEnd]:
        self.notes.append(tasks[0][0].name)
        match self.says.pop(0):
            case StepEnd() as outcome:
                yield outcome
            case error:
                raise error

    def end(self) -> None:
        self.notes.append("end")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> type[FakeWorkers]:
    monkeypatch.setattr(resident_module, "Workers", FakeWorkers)
    monkeypatch.setattr(FakeWorkers, "says", [])
    monkeypatch.setattr(FakeWorkers, "notes", [])
    return FakeWorkers


KEEPS, OCCUPIED = StepEnd(holds_device=True), StepEnd(is_occupied=True, holds_device=True)


def test_a_stage_that_wants_another_vllm_gets_a_fresh_process(fake: type[FakeWorkers]) -> None:
    fake.says.extend([KEEPS, OCCUPIED, KEEPS, KEEPS])
    found = Resident()
    for name in ("sample-a", "judge-b", "judge-c"):
        found.execute(Path(name))
    assert fake.notes == ["start", "sample-a", "judge-b", "end", "start", "judge-b", "judge-c"]


def test_room_is_made_once_and_by_what_holds_something(fake: type[FakeWorkers]) -> None:
    fake.says.extend([StepEnd(), KEEPS, KEEPS])
    found = Resident()
    found.execute(Path("judge-a"))  # all of whose answers were there
    found.make_room()
    assert fake.notes == ["start", "judge-a"]
    found.execute(Path("sample-b"))
    found.make_room()
    found.make_room()
    assert fake.notes == ["start", "judge-a", "sample-b", "end", "start"], "its successor can begin to import"
    found.execute(Path("sample-c"))
    assert fake.notes[-2:] == ["start", "sample-c"]


FAILURES: list[tuple[list[StepEnd | TpoError], str]] = [
    ([StepEnd(error="no such file")], "no such file"),
    ([TpoError("worker 1 of 1 was killed by SIGKILL")], "worker 1 of 1 was killed by SIGKILL"),
    ([OCCUPIED, OCCUPIED], "it wants two different models at a time"),
]


@pytest.mark.parametrize(("says", "error"), FAILURES)
def test_what_goes_wrong_is_said(says: list[StepEnd | TpoError], error: str, fake: type[FakeWorkers]) -> None:
    fake.says.extend([*says, KEEPS])
    found = Resident()
    with pytest.raises(ArtifactError, match=f"the stage sample-a failed: {error}.*run the same command again"):
        found.execute(Path("sample-a"))
    assert fake.notes[-1] == "end"
    found.execute(Path("sample-b"))
    assert fake.notes[-2:] == ["start", "sample-b"]


def test_the_successor_is_for_vllm_where_that_was_wanted(fake: type[FakeWorkers]) -> None:
    fake.says.extend([KEEPS])
    found = Resident()
    found.execute(Path("judge-a"), RunsOn.KEPT)
    found.make_room()
    assert fake.notes == ["start", "judge-a", "end"]


# --- what the child keeps, on a machine without a GPU ------------------------------------------------------------


@pytest.fixture
def keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept in this process, before and after."""
    monkeypatch.setattr(kept_module, "_kept", None)


@pytest.mark.parametrize(
    ("is_torch", "runs_on", "has_used_device", "is_in_the_way"),
    [
        (None, RunsOn.DEVICE, True, False),  # nothing is kept: what was used is given back within the process
        (None, RunsOn.VLLM, False, False),
        (None, RunsOn.VLLM, True, True),  # CUDA itself keeps half a gigabyte, which vLLM may lack
        (True, RunsOn.DEVICE, True, False),  # a judge goes
        (False, RunsOn.DEVICE, False, True),  # vLLM goes with its process only
        (True, RunsOn.KEPT, True, False),
        (False, RunsOn.VLLM, False, False),
    ],
)
def test_what_holds_the_device_makes_room(
    is_torch: bool | None,
    runs_on: RunsOn,
    has_used_device: bool,
    is_in_the_way: bool,
    keeps: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resident_module, "has_used_device", lambda: has_used_device)
    if is_torch is not None:
        kept_engine("a judge" if is_torch else "vLLM", object, is_torch=is_torch)
    assert resident_module._is_in_the_way(runs_on) == is_in_the_way
    assert (kept() is None) == (is_torch is None or (is_torch and runs_on == RunsOn.DEVICE))


def test_a_process_keeps_one_thing(keeps: None) -> None:
    made = [
        kept_engine({"model": "a", "revision": None}, object),
        kept_engine({"revision": None, "model": "a"}, object),
    ]
    assert made[0] is made[1] is kept()
    for is_torch in (False, True):
        with pytest.raises(OccupiedError):
            kept_engine({"model": "b", "revision": None}, object, is_torch=is_torch)
    assert kept_engine({"model": "a", "revision": None}, object) is made[0], "still there"


def test_a_judge_takes_the_place_of_another_and_vllm_does_not(keeps: None) -> None:
    first = kept_engine("a", object, is_torch=True)
    assert kept_engine("b", object, is_torch=True) is not first
    with pytest.raises(OccupiedError):
        kept_engine("vLLM", object)


# --- which stages go there --------------------------------------------------------------------------------------

HERE, APART, RESIDENT, ROOM = "here", "apart", "resident", "room"
SHARED = {"num_processes": 2}
# Where a step goes without a GPU and with one, then the latter with isolate_stages=true.
ROUTES: list[tuple[RunsOn, dict[str, Any] | None, list[str], list[str], list[str]]] = [
    (RunsOn.VLLM, None, [RESIDENT], [RESIDENT], [RESIDENT]),
    (RunsOn.HOST, None, [HERE], [HERE], [APART]),
    (RunsOn.DEVICE, None, [ROOM, HERE], [RESIDENT], [ROOM, APART]),
    (RunsOn.KEPT, None, [ROOM, HERE], [RESIDENT], [RESIDENT]),
    (RunsOn.DEVICE, SHARED, [ROOM, APART], [ROOM, APART], [ROOM, APART]),
]


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("has_gpu", [False, True])
@pytest.mark.parametrize(("runs_on", "processes", "without", "on_gpu", "isolated"), ROUTES)
def test_stages_are_executed_where_they_belong(
    runs_on: RunsOn,
    processes: dict[str, Any] | None,
    without: list[str],
    on_gpu: list[str],
    isolated: list[str],
    has_gpu: bool,
    isolate: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []

    class FakeResident:
        def execute(self, path: Path, asked: RunsOn) -> None:
            assert asked == runs_on
            notes.append(RESIDENT)

        def make_room(self) -> None:
            notes.append(ROOM)

        def close(self) -> None:
            notes.append("close")

    monkeypatch.setattr(tpo.store.open, "has_gpu", lambda: has_gpu)
    monkeypatch.setattr(tpo.store.open, "Resident", FakeResident)
    monkeypatch.setattr(tpo.store.open, "execute", lambda path: notes.append(HERE))
    monkeypatch.setattr(tpo.store.processes.launch, "start", lambda path, accelerate: notes.append(APART))
    with (
        pytest.raises(ArtifactError, match="manifest.json"),  # nobody wrote one
        tpo.store.open.open_store(tmp_path, isolate=isolate) as store,
    ):
        store.run(Step("any", 1, {}, runs_on=runs_on, processes=processes))
    expected = (isolated if isolate else on_gpu) if has_gpu else [_apart(place, isolate) for place in without]
    assert notes == [*expected, "close"], "it is closed after an error too"


def _apart(place: str, isolate: bool) -> str:
    return APART if isolate and place == HERE else place
