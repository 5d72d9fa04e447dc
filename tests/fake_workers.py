"""What worker processes hold in tests. A module of its own, since every worker imports it: no torch, no pytest."""

import atexit
import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpo.judge.llm.question import Answer
from tpo.sample.decoding import Generation
from tpo.store.errors import TpoError
from tpo.store.processes.workers import Emit

TESTS = Path(__file__).parent


def shares(count: int) -> list[dict[str, str]]:
    """Return an environment per worker: its number, and where it finds this module."""
    path = os.pathsep.join([str(TESTS), str(TESTS.parent)])
    return [{"SHARE": str(number), "PYTHONPATH": path} for number in range(count)]


class Counter:
    """Counts its tasks and does what each says."""

    def __init__(self, *, start: int = 0) -> None:
        if start < 0:
            raise TpoError("no model of a negative size: give another")
        self.count = start
        self.child = subprocess.Popen(["sleep", "600"])  # as vLLM has processes of its own

    def __call__(self, task: str, emit: Emit) -> None:
        self.count += 1
        match task:
            case "who":
                emit((os.getpid(), self.child.pid, os.environ["SHARE"], self.count))
            case "raise":
                raise ValueError("out of memory")
            case "refuse":
                raise TpoError("this cannot be sampled: lower the temperature")
            case "die":
                os.kill(os.getpid(), signal.SIGKILL)
            case "leave":
                os._exit(3)
            case "wait":
                time.sleep(600)
            case "note_end":
                atexit.register((Path(tempfile.gettempdir()) / f"ended-{os.getpid()}").write_text, "in order")
            case "twice":
                emit("first")
                emit("second")


class FakeEngine:
    """In vLLM's place: a completion is its prompt, the number of the sample, the engine's seed and its share."""

    def __init__(self, *, seed: int, **_: Any) -> None:
        self.seed = seed

    def __call__(self, task: Any, emit: Emit) -> None:
        tail = [self.seed, int(os.environ["SHARE"])]
        emit(
            [
                [Generation([*prompt, number, *tail], "stop") for number in range(len(group))]
                for prompt, group in zip(task.prompts, task.seeds, strict=True)
            ]
        )


class FakeModel:
    """In vLLM's place as a judge: says which share answered; the second dies at its third deadly question."""

    def __init__(self, settings: Mapping[str, Any], *, seed: int) -> None:
        assert "data_parallel_size" not in settings and seed == int(os.environ["SHARE"])

    def __call__(self, asked: Mapping[str, Any], emit: Emit) -> None:
        for number, (key, (ids, question)) in enumerate(asked.items()):
            if os.environ["SHARE"] == "1" and "deadly" in question.user and number == 2:
                time.sleep(0.5)  # the other share is done by then
                os.kill(os.getpid(), signal.SIGKILL)
            emit((key, Answer(f"{os.environ['SHARE']}: {question.user}", "stop", len(ids))))
