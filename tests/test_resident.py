"""The process that keeps vLLM between stages, here with stages that need none; with vLLM it is in test_vllm_run.py."""

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tpo import resident as module
from tpo.artifacts import ArtifactError, Step, Store
from tpo.resident import Outcome, Resident

BUILTIN = {"kind": "builtin", "num_train": 2, "num_validation": 2, "num_test": 2}


@pytest.fixture
def resident() -> Iterator[Resident]:
    found = Resident()
    yield found
    found.close()


def prompts(store: Store, **settings: Any) -> Path:
    """Have the store compute the stage "prompts"."""
    return store.run(Step("prompts", 1, {"settings": BUILTIN | settings})).path


def pid_of(resident: Resident) -> int:
    assert resident._workers is not None
    (process,) = resident._workers._processes
    assert process.poll() is None
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
    assert pid_of(resident) == pid

    resident.make_room()
    successor = pid_of(resident)
    assert successor != pid and not Path(f"/proc/{pid}").exists()
    resident.make_room()
    assert pid_of(resident) == successor, "it holds nothing yet"
    prompts(store, num_test=4)
    assert pid_of(resident) == successor
    resident.close()
    assert not Path(f"/proc/{successor}").exists()


def test_a_failure_ends_the_process_and_not_the_next_stage(resident: Resident, tmp_path: Path) -> None:
    store = Store(tmp_path, execute=resident.execute)
    with pytest.raises(ArtifactError, match=r"the stage prompts-\w+ failed: .*nowhere.* run the same command again"):
        prompts(
            store,
            kind="jsonl",
            path=str(tmp_path / "nowhere.jsonl"),
            text_field="text",
            category_field="category",
            split_field=None,
        )
    assert resident._workers is None
    with pytest.raises(ArtifactError, match=r"failed: ArtifactError|failed: prompts.kind=unheard-of"):
        prompts(store, kind="unheard-of")
    with pytest.raises(ArtifactError, match=r"failed: KeyError: 'dataset'"):  # an error that nobody foresaw
        prompts(store, kind="hub")
    assert prompts(store).exists()
    os.kill(pid_of(resident), signal.SIGKILL)
    with pytest.raises(ArtifactError, match=r"failed: worker 1 of 1 was killed by SIGKILL"):
        prompts(store, num_test=3)
    assert prompts(store, num_test=3).exists()


class FakeWorkers:
    """In the place of a process: what it says to each stage is given, and how often one began is counted."""

    says: list[Outcome] = []
    count = 0

    def __init__(self, shares: Any) -> None:
        FakeWorkers.count += 1

    def make(self, work: Any, arguments: Any) -> None:
        pass

    def run(self, tasks: dict[int, Path]) -> Iterator[tuple[int, Outcome]]:
        yield 0, self.says.pop(0)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("says", "count"), [([Outcome()], 1), ([Outcome(is_occupied=True), Outcome()], 2)], ids=["free", "occupied"]
)
def test_a_stage_that_wants_another_vllm_gets_a_process_of_its_own(
    says: list[Outcome], count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "Workers", FakeWorkers)
    monkeypatch.setattr(FakeWorkers, "says", says)
    monkeypatch.setattr(FakeWorkers, "count", 0)
    Resident().execute(Path("sample-0"))
    assert says == [] and FakeWorkers.count == count
