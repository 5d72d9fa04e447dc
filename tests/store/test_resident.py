"""The process that keeps vLLM between stages, here with stages that need none; with vLLM it is in test_vllm_run.py."""

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
from tpo.store.artifacts import Store
from tpo.store.errors import ArtifactError, TpoError
from tpo.store.resident import Resident, StepEnd
from tpo.store.stage import RunsOn, Step

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

    def run(self, tasks: list[Path]) -> Iterator[StepEnd]:
        self.notes.append(tasks[0].name)
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


KEEPS, OCCUPIED = StepEnd(has_engine=True), StepEnd(is_occupied=True, has_engine=True)


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
    ([OCCUPIED, OCCUPIED], "it wants two different models in vLLM"),
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


# --- which stages go there --------------------------------------------------------------------------------------

HERE, APART, RESIDENT, ROOM = "here", "apart", "resident", "room"
ROUTES: list[tuple[RunsOn, dict[str, Any] | None, list[str]]] = [
    (RunsOn.VLLM, None, [RESIDENT]),
    (RunsOn.HOST, None, [HERE]),
    (RunsOn.DEVICE, None, [ROOM, HERE]),
    (RunsOn.DEVICE, {"num_processes": 2}, [ROOM, APART]),
]


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize(("runs_on", "processes", "route"), ROUTES)
def test_stages_are_executed_where_they_belong(
    runs_on: RunsOn,
    processes: dict[str, Any] | None,
    route: list[str],
    isolate: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notes: list[str] = []

    class FakeResident:
        def execute(self, path: Path) -> None:
            notes.append(RESIDENT)

        def make_room(self) -> None:
            notes.append(ROOM)

        def close(self) -> None:
            notes.append("close")

    monkeypatch.setattr(tpo.store.open, "Resident", FakeResident)
    monkeypatch.setattr(tpo.store.open, "execute", lambda path: notes.append(HERE))
    monkeypatch.setattr(tpo.store.processes.launch, "start", lambda path, accelerate: notes.append(APART))
    with (
        pytest.raises(ArtifactError, match="manifest.json"),  # nobody wrote one
        tpo.store.open.open_store(tmp_path, isolate=isolate) as store,
    ):
        store.run(Step("any", 1, {}, runs_on=runs_on, processes=processes))
    expected = [APART if isolate and place == HERE else place for place in route]
    assert notes == [*expected, "close"], "it is closed after an error too"
