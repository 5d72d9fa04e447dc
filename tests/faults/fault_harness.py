"""A tiny run of the whole loop that can be executed many times, with faults and without, and what it comes to.

One iteration, two epochs, a judge behind a server, on the tests' model. Everything lies in one folder and is named
relative to it, so that all attempts ask for the same artifacts.
"""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Self

from conftest import make_model
from scripted_server import GradingServer
from test_resume import read_manifests, read_summary
from test_run import REPOSITORY, tiny_overrides

from tpo.store.digests import DIGESTS

HERE = Path(__file__).parent


class Point(NamedTuple):
    """A call: its kind with the path, and how many of this name come before it."""

    name: str
    nth: int

    @property
    def kind(self) -> str:
        return self.name.split()[0]


class Armed(NamedTuple):
    """Where a call fails, and how: the arguments of shim.c's `fault_begin`. By default nothing does."""

    name: str = ""
    nth: int = 0
    action: int = 0
    error: int = 0
    later: int = 0  # kinds of calls that fail as well from there on, bits


NOTHING = Armed()


class Ended(NamedTuple):
    """How a command ended."""

    status: int | None  # None: it hung
    stderr: str
    is_reached: bool
    seconds: float  # of a processor

    @property
    def is_killed(self) -> bool:
        return self.status is not None and os.WIFSIGNALED(self.status) and os.WTERMSIG(self.status) == signal.SIGKILL

    @property
    def code(self) -> int | None:
        return None if self.status is None else os.waitstatus_to_exitcode(self.status)


@dataclass(frozen=True)
class Result:
    """What a run comes to, without when and how fast."""

    manifests: dict[str, Any]
    summary: dict[str, Any]
    answers: list[tuple[str, ...]]
    files: set[str]

    @classmethod
    def of(cls, root: Path) -> "Result":
        with sqlite3.connect(root / "artifacts" / "answers.sqlite") as database:
            answers = database.execute("SELECT key, model, request, answer FROM answers ORDER BY key").fetchall()
        database.close()
        files = {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}
        manifests = {name: _without_digest(manifest) for name, manifest in read_manifests(root).items()}
        return cls(manifests, read_summary(root), answers, files)

    def differences(self, other: "Result") -> Iterator[str]:
        """Yield in words where another result differs from this one."""
        for name in self.manifests.keys() ^ other.manifests.keys():
            yield f"{name} is in one of them only"
        for name in self.manifests.keys() & other.manifests.keys():
            if self.manifests[name] != other.manifests[name]:
                yield f"{name} differs"
        if self.summary != other.summary:
            yield "the summary differs"
        if self.answers != other.answers:
            yield "the judge's answers differ"
        if left := other.files - self.files:
            yield f"left behind: {', '.join(sorted(left))}"
        # What remembers digests is written where it can be, and read where it is.
        if lost := {name for name in self.files - other.files if Path(name).name != DIGESTS}:
            yield f"lost: {', '.join(sorted(lost))}"


def _without_digest(found: dict[str, Any]) -> dict[str, Any]:
    """Leave out a file's digest of itself, which covers times and speeds as well."""
    return {key: value for key, value in found.items() if key != "digest"}


def compile_shim(library: Path) -> Path:
    """Compile shim.c and return the library's path."""
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", "-o", library, HERE / "shim.c", "-ldl"], check=True)
    return library


class Harness:
    """The warm process, the judge's server, and a folder for attempts."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self.out.mkdir(parents=True, exist_ok=True)
        self.model = make_model(self.out / "model")
        self.server = GradingServer()
        self.overrides = tiny_overrides(
            Path("model"),
            Path("."),
            *("num_iterations=1", "on_collapse=continue", "prompts.num_train=3", "prompts.num_validation=1"),
            *("prompts.num_test=2", "sample.num_samples=2", "judge=llm_pointwise", "judge.name=fake-model"),
            *(
                f"judge.server.base_url={self.server.url}",
                "judge.server.max_concurrency=1",
                "judge.server.max_retries=2",
            ),
            *("judge.server.patience_s=0.5", "judge.server.timeout_s=5", "eval.baseline_samples=1"),
        )
        self.overrides = [
            word for word in self.overrides if not word.startswith(("judge=self", "judge.pos", "judge.neg"))
        ]
        library = compile_shim(self.out / "shim.so")
        environment = {
            **os.environ,
            "LD_PRELOAD": str(library),
            "PYTHONPATH": str(REPOSITORY),
            **dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "HF_HUB_OFFLINE"), "1"),
            **{"TOKENIZERS_PARALLELISM": "false", "CUDA_VISIBLE_DEVICES": "", "OMP_WAIT_POLICY": "passive"},
        }
        self.log = (self.out / "warm.log").open("w")
        self._warm = subprocess.Popen(
            [sys.executable, HERE / "warm.py"],
            **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": self.log},
            **{"env": environment, "cwd": self.out, "text": True},
        )
        self._ask({"folder": str(self.new("warm")), "overrides": self.overrides})
        self.seconds = 900.0  # before it is known how fast this machine is
        self.expected, self.points = self._record()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._warm.stdin.close()
        self._warm.wait()
        self.server.close()
        self.log.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        self._warm.stdin.write(json.dumps(request) + "\n")
        self._warm.stdin.flush()
        line = self._warm.stdout.readline()
        if not line:
            raise RuntimeError(f"the warm process ended: {(self.out / 'warm.log').read_text()[-3000:]}")
        return json.loads(line)

    def new(self, name: str) -> Path:
        """Return a folder in which the command can run."""
        root = self.out / name
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir()
        shutil.copytree(self.model, root / "model", copy_function=os.link)
        return root

    def run(self, root: Path, armed: Armed = NOTHING, *, record: Path | None = None) -> Ended:
        """Execute the command in a folder, with a fault or without."""
        said = {name: str(self.out / f"{root.name}.{name}") for name in ("stdout", "stderr", "reached")}
        reached = Path(said["reached"])
        reached.unlink(missing_ok=True)
        answer = self._ask(
            {
                **{"folder": str(root), "root": str(root), "overrides": self.overrides, "fault": armed._asdict()},
                **{"record": None if record is None else str(record), "seconds": self.seconds, **said},
            }
        )
        ended = Ended(answer["status"], Path(said["stderr"]).read_text(errors="replace"), False, answer["seconds"])
        return ended._replace(is_reached=reached.exists() or ended.is_killed)

    def repeat(self, root: Path) -> list[str]:
        """Execute the command once more, without a fault; return what is wrong with its end or its result."""
        ended = self.run(root)
        if ended.code != 0:
            return [f"the repetition ended with {ended.code}: {ended.stderr[-600:]}"]
        return [f"after the repetition {words}" for words in self.differences(root)]

    def differences(self, root: Path, *, is_over: bool = True) -> list[str]:
        """Return where a folder's result differs from the undisturbed one; files may differ before it is over."""
        try:
            found = Result.of(root)
        except (OSError, ValueError, sqlite3.Error) as error:
            return [f"the result cannot be read: {type(error).__name__}: {error}"]
        return list(self.expected.differences(found if is_over else replace(found, files=self.expected.files)))

    def _record(self) -> tuple[Result, list[Point]]:
        """Return what an undisturbed run comes to, and its points."""
        root, record = self.new("undisturbed"), self.out / "points.txt"
        record.unlink(missing_ok=True)
        started = time.monotonic()
        ended = self.run(root, record=record)
        if ended.code != 0:
            raise RuntimeError(f"the undisturbed run failed: {ended}")
        self.seconds = 60 + 10 * (time.monotonic() - started)
        seen: Counter[str] = Counter()
        points = []
        for name in record.read_text().splitlines():
            points.append(Point(name, seen[name]))
            seen[name] += 1
        return Result.of(root), points


def what_is_wrong_with(ended: Ended) -> list[str]:
    """Return how the end of a command that failed is not what a user can be told."""
    lines = ended.stderr.strip().splitlines()
    wrong = []
    if ended.code != 1:
        wrong.append(f"exit status {ended.code}")
    if "Traceback" in ended.stderr:
        wrong.append(f"a traceback: {' | '.join(lines[-3:])[:600]}")
    elif not lines or not re.match(r"error: \S", lines[-1]) or len(lines[-1]) > 1500:
        wrong.append(f"no sentence at the end: {' | '.join(lines[-3:])[:600]}")
    return wrong
