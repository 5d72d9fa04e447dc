"""A sample of what can go wrong in a tiny run; `make faults` tries all of it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_harness import Harness, Point
from fault_points import every, take_turns
from try_faults import Trials

SEED, CALLS, FILES = 20241010, 12, 8  # under two minutes on two cores


def test_a_sample_takes_turns() -> None:
    drawn = take_turns(["a1", "a2", "a3", "a4", "b1", "c1"], lambda item: item[0], 4, seed=0)
    assert len(set(drawn)) == 4 and {item[0] for item in drawn} == {"a", "b", "c"}
    assert len(take_turns(["a"], len, 4, seed=0)) == 1


def test_of_what_depends_on_the_clock_the_first_is_tried() -> None:
    points = [Point("write a/progress.tmp", 0), Point("write a/progress.tmp", 1), Point("fsync a/rows.jsonl", 1)]
    tried = {point for point, _ in every(points)}
    assert tried == {points[0], points[2]}
    assert {fault.name for point, fault in every(points[2:])} == {"killed", "ENOSPC", "EIO"}


@pytest.fixture(scope="module")
def trials(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trials]:
    if shutil.which("cc") is None:
        pytest.skip("the shim has to be compiled")
    with Harness(tmp_path_factory.mktemp("faults")) as harness:
        yield Trials(harness)


@pytest.mark.slow
def test_the_shim_sees_what_libraries_write(trials: Trials) -> None:
    names = {f"{point.kind} {Path(point.name.split(' ', 1)[1]).name}" for point in trials.harness.points}
    assert names >= {
        "write optimizer.pt",  # torch
        "write adapter_model.safetensors",  # safetensors
        "write answers.sqlite-journal",  # SQLite
        "fsync answers.sqlite",
        "rename manifest.json",  # Python
        "write summary.json.tmp",
        "open model.safetensors",
        "connect server",
        "send server",
        "receive server",
    }


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", ["calls", "files"])
def test_nothing_is_lost(trials: Trials, what: str) -> None:
    kinds = {"calls"} if what == "calls" else {"artifacts", "checkpoints", "answers", "runs"}
    chosen = trials.draw(trials.cases(kinds), CALLS if what == "calls" else FILES, seed=SEED)
    wrong = [words for case in chosen for words in trials.try_one(case)]
    assert not wrong, "\n".join(wrong)
