"""What a step reports reaches whoever waits: in order, once, also from another process, and is gone at the end."""

import json
import logging
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tpo.store.artifacts import finish
from tpo.store.progress import PROGRESS, Listener, Progress, State, Watch, warning_parent, watching
from tpo.store.stage import Step
from tpo.store.store import Store

STEP = Step("fake", 1, {})


class Told(Listener):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def begin(self, step: Step) -> None:
        self.heard.append("begin")

    def progressed(self, step: Step, state: State) -> None:
        self.heard.append((state.done, state.total, state.unit))

    def measured(self, step: Step, number: int, values: dict[str, Any]) -> None:
        self.heard.append((number, values))

    def warned(self, step: Step, text: str) -> None:
        self.heard.append(text)

    def end(self, step: Step, manifest: dict[str, Any], *, is_reused: bool) -> None:
        self.heard.append("reused" if is_reused else "computed")


def store_of(root: Path, work: Callable[[Path], None], told: Told) -> Store:
    def execute(path: Path) -> None:
        work(path)
        finish(path, metrics={}, started=time.time())

    return Store(root, execute=execute, listeners=[told])


def test_a_step_is_told_of_from_begin_to_end_and_leaves_nothing(tmp_path: Path) -> None:
    def work(path: Path) -> None:
        with Progress(path, total=4, unit="row", done=1) as progress:
            progress.measured(1, {"loss": 0.5})
            progress.advance(3)

    told = Told()
    store = store_of(tmp_path, work, told)
    store.run(STEP)
    assert told.heard == ["begin", (1, {"loss": 0.5}), (4, 4, "row"), "computed"]
    store.run(STEP)
    assert told.heard[4:] == ["reused"]
    assert {path.name for path in (tmp_path / STEP.artifact_id).iterdir()} == {"request.json", "manifest.json", ".lock"}


def test_tokens_a_second_are_those_of_this_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    watch = Watch(tmp_path, STEP, [])
    with Progress(tmp_path, total=10, unit="completion", done=4) as progress:
        watch.read()
        assert watch.state == State(4, 10, "completion", "4 of 10 completions")
        for _ in range(3):
            now[0] += 0.5
            progress.advance(num_tokens=600)
    watch.read()
    assert watch.state == State(7, 10, "completion", "7 of 10 completions", 1200.0)


def test_another_attempt_is_read_from_its_start_and_half_a_line_later(tmp_path: Path) -> None:
    told = Told()
    watch, path = Watch(tmp_path, STEP, [told]), tmp_path / PROGRESS
    path.write_text(json.dumps({"measured": [1, {}]}) + '\n{"measu')
    watch.read()
    with path.open("a") as file:
        file.write('red": [2, {}]}\n')
    watch.read()
    watch.read()
    with path.open("a") as file:
        file.write(json.dumps({"measured": [3, {}]}) + "\n")
    path.unlink()  # by what is about to begin another attempt, whose file could get its inode
    path.write_text(json.dumps({"measured": [1, {"loss": 2}]}) + "\n" + json.dumps({"measured": [2, {}]}) + "\n")
    watch.read()
    with path.open("a") as file:
        file.write('{"measu')  # killed, and its successor
        file.write(json.dumps({"measured": [3, {}]}) + "\n" + json.dumps({"measured": [4, {}]}) + "\n")
    path.unlink()  # complete
    watch.close()
    assert told.heard == [(1, {}), (2, {}), (3, {}), (1, {"loss": 2}), (2, {}), (4, {})]


def test_a_listener_that_fails_at_the_end_ends_no_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Failing(Listener):
        def measured(self, step: Step, number: int, values: dict[str, Any]) -> None:
            raise RuntimeError("no network")

    with watching(tmp_path, STEP, [Failing()]):
        (tmp_path / PROGRESS).write_text(json.dumps({"measured": [1, {}]}) + "\n")
    assert "progress is no longer shown" in caplog.text


CHILD = """
import logging, sys, time
from pathlib import Path
from tpo.store.progress import Progress, warning_parent
path = Path(sys.argv[1])
with warning_parent(path), Progress(path, total=2, unit="step") as progress:
    logging.getLogger("tpo.somewhere").warning("a fast path was given up")
    logging.getLogger("elsewhere").warning("noise of a library")
    progress.measured(1, {"loss": 0.7})
    progress.advance()
    (path / "half.txt").touch()
    while not (path / "seen.txt").exists():
        time.sleep(0.01)
"""


def test_a_child_process_is_heard_while_it_works(tmp_path: Path) -> None:
    class Awaited(Told):
        def measured(self, step: Step, number: int, values: dict[str, Any]) -> None:
            super().measured(step, number, values)
            (tmp_path / "artifacts" / STEP.artifact_id / "seen.txt").touch()  # the child waits for this

    def work(path: Path) -> None:
        subprocess.run([sys.executable, "-c", CHILD, str(path)], check=True, timeout=60)

    told = Awaited()
    store_of(tmp_path / "artifacts", work, told).run(STEP)
    assert "a fast path was given up" in told.heard and (1, {"loss": 0.7}) in told.heard
    assert not any("noise" in str(item) for item in told.heard) and told.heard[-1] == "computed"


def test_an_interruption_says_what_is_kept(tmp_path: Path) -> None:
    def work(path: Path) -> None:
        with Progress(path, total=512, unit="completion") as progress:
            progress.advance(120)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt) as caught:
        store_of(tmp_path, work, Told()).run(STEP)
    assert caught.value.__notes__ == ["120 of 512 completions of fake"]


def test_a_listener_that_fails_ends_no_step(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Told):
        def progressed(self, step: Step, state: State) -> None:
            if len(self.heard) < 2:
                self.heard.append("failed")
                raise ValueError("broken")

    def work(path: Path) -> None:
        with Progress(path, total=1, unit="row"):
            deadline = time.monotonic() + 20
            while "failed" not in told.heard and time.monotonic() < deadline:
                time.sleep(0.05)

    told = Broken()
    with caplog.at_level(logging.ERROR):
        store_of(tmp_path, work, told).run(STEP)
    assert told.heard == ["begin", "failed", "computed"] and "progress is no longer shown" in caplog.text


def test_warnings_go_to_the_parent_only_while_the_step_is_executed(tmp_path: Path) -> None:
    with warning_parent(tmp_path):
        logging.getLogger("tpo.x").warning("%s is slow", "it")
        logging.getLogger("tpo.x").info("nobody needs to see this")
    logging.getLogger("tpo.x").warning("too late")
    assert [json.loads(line) for line in (tmp_path / PROGRESS).read_text().splitlines()] == [{"warned": "it is slow"}]
