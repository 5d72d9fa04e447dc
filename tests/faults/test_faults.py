"""A sample of what can go wrong in a tiny run; `make faults` tries all of it."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fault_damage import Corpus
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


class FakeHarness:
    """Two samplings, and a judgement of the first of them; no checkpoints."""

    def __init__(self, out: Path) -> None:
        self.out, self.points = out, []
        root = out / "undisturbed"
        for name, inputs in (("sample-1", {}), ("sample-2", {}), ("judge-3", {"completions": "sample-1"})):
            (root / "artifacts" / name).mkdir(parents=True)
            (root / "artifacts" / name / "manifest.json").write_text(json.dumps({"inputs": inputs}))
            (root / "artifacts" / name / "rows.jsonl").write_text(f"{name}\nb\n")
        (root / "runs").mkdir()
        (root / "runs" / "summary.json").write_text("{}")

    def new(self, name: str) -> Path:
        root = self.out / name
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        return root


def test_a_damaged_file_has_to_be_read(tmp_path: Path) -> None:
    corpus = Corpus(FakeHarness(tmp_path))  # type: ignore[arg-type]
    corpus._half_trained = tmp_path / "undisturbed"
    cases = [case for case in corpus.cases() if case.path == "artifacts/sample-1/rows.jsonl"]
    contents = {
        "cut off": "sampl",
        "emptied": "",
        "zeroed": "\0" * 11,
        "a bit flipped": "sampl" + chr(ord("e") ^ 4) + "-1\nb\n",
        "without its last byte": "sample-1\nb",
        "a line twice": "sample-1\nsample-1\nb\n",
        "a line more": "sample-1\nb\nand so on\n",
        "removed": None,
        "swapped with artifacts/sample-2/rows.jsonl": "sample-2\nb\n",
    }
    assert {case.damage for case in cases} == contents.keys()
    for case in cases:
        root = corpus.make(case)
        path = root / case.path
        assert (path.read_text() if path.exists() else None) == contents[case.damage], case.damage
        left = {path.name for path in (root / "artifacts").iterdir()}
        assert left == {"sample-1", "sample-2"}, "the judgement was computed from the damaged rows"
        assert not (root / "runs").exists()
    assert (tmp_path / "undisturbed/artifacts/sample-1/rows.jsonl").read_text() == "sample-1\nb\n"


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


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("what", ["calls", "files"])
def test_nothing_is_lost(trials: Trials, what: str) -> None:
    kinds = {"calls"} if what == "calls" else {"artifacts", "checkpoints", "answers", "runs"}
    chosen = trials.draw(trials.cases(kinds), CALLS if what == "calls" else FILES, seed=SEED)
    wrong = [words for case in chosen for words in trials.try_one(case)]
    assert not wrong, "\n".join(wrong)
