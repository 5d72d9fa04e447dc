"""Processes that want the same thing at the same time, killed, stopped and left alone."""

import fcntl
import hashlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from commands import run_command
from hydra import compose, initialize_config_dir
from test_locks import is_locked, wait_until
from test_resume import assert_same_results, start_cli
from test_run import REPOSITORY, compose_config, tiny_overrides

import tpo.config.compose
from tpo.config.schema import EvaluateConfig, register
from tpo.results.folder import own_folder
from tpo.results.run import Run
from tpo.results.tracking import TRACKED
from tpo.sample.stages import PROMPTS
from tpo.store.files import write_sealed
from tpo.store.layout import LOCK
from tpo.store.stage import Step

# --- a fake stage, real processes ---------------------------------------------------------------------------------

STEP = Step("fake", 1, {"num_rows": 4})
# A stage that grows four rows, notes who computes which, and can be held up before one of them until a
# file appears.
FAKE_STAGE = """
import json, logging, os, sys, time
from pathlib import Path
from tpo.store.artifacts import finish
from tpo.store.store import Store
from tpo.store.files import file_digest
from tpo.store.rows import grow_rows
from tpo.store.stage import Step
from tpo.store.records import Prompt

folder, stop_before = Path(sys.argv[1]), sys.argv[2]
names = [f"prompt-{number}" for number in range(4)]

def compute(keys):
    for (name,) in keys:
        with (folder / "computed").open("a") as file:
            file.write(f"{os.getpid()} {name}\\\\n")
        while name == stop_before and not (folder / "go").exists():
            time.sleep(0.01)
        yield Prompt(name, name, "category", "source", "split", (), name)

def execute(path):
    started = time.time()
    grow_rows(path, Prompt, keys=[(name,) for name in names], compute=compute, unit="prompt")
    finish(path, metrics={}, started=started)

logging.basicConfig(level=logging.INFO, format="%(created)f %(message)s")
artifact = Store(folder / "artifacts", execute=execute).run(Step("fake", 1, {"num_rows": 4}))
print(json.dumps([artifact.is_reused, file_digest(artifact.path / "manifest.json"), len(list(artifact.rows(Prompt)))]))
""".replace("\\\\n", "\\n")


class Running:
    """A process whose output can be read while it runs."""

    def __init__(self, log: Path, *arguments: str, **more: Any) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                [sys.executable, *arguments],
                **{"cwd": REPOSITORY, "stdout": subprocess.PIPE, "stderr": file, "text": True, **more},
            )
        self.pid = self.process.pid

    def said(self, words: str) -> list[str]:
        """Return the lines of the log with these words."""
        return [line for line in self.log.read_text().splitlines() if words in line]

    def wait_until_said(self, words: str) -> None:
        wait_until(lambda: self.said(words) != [] or self.process.poll() is not None)
        assert self.said(words), self.log.read_text()

    def result(self) -> Any:
        """Return what the process printed at its end."""
        text = self.process.communicate(timeout=120)[0]
        assert self.process.returncode == 0, self.log.read_text()
        return json.loads(text.splitlines()[-1])

    def kill(self) -> float:
        """Kill the process and return when."""
        killed = time.time()
        self.process.kill()
        self.process.wait()
        return killed


@contextmanager
def fakes(folder: Path) -> Iterator[Callable[..., Running]]:
    """Give a function that starts the fake stage; whatever is left of the processes is killed at the end."""
    started: list[Running] = []

    def start(stop_before: str = "") -> Running:
        log = folder / f"log-{len(started)}.txt"
        started.append(Running(log, "-c", FAKE_STAGE, str(folder), stop_before))
        return started[-1]

    try:
        yield start
    finally:
        for running in started:
            with suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGCONT)
            running.kill()


def computed(folder: Path) -> list[tuple[int, str]]:
    """Return who computed which row, in order; nothing before the first."""
    path = folder / "computed"
    lines = path.read_text().splitlines() if path.exists() else []
    return [(int(process), name) for process, name in (line.split() for line in lines)]


NAMES = ["prompt-0", "prompt-1", "prompt-2", "prompt-3"]


def test_of_processes_that_race_for_an_artifact_one_computes_it(tmp_path: Path) -> None:
    with fakes(tmp_path) as start:
        racers = [start("prompt-3") for _ in range(5)]
        wait_until(lambda: sum(bool(racer.said("waiting for")) for racer in racers) == 4)  # all want it, one has it
        (tmp_path / "go").touch()
        results = [racer.result() for racer in racers]
    [winner] = {process for process, _ in computed(tmp_path)}
    assert [name for _, name in computed(tmp_path)] == NAMES
    assert [is_reused for is_reused, *_ in results] == [racer.pid != winner for racer in racers]
    digest = hashlib.sha256((tmp_path / "artifacts" / STEP.artifact_id / "manifest.json").read_bytes()).hexdigest()
    assert {(found, num_rows) for _, found, num_rows in results} == {(digest, 4)}


def test_waiter_takes_over_from_a_killed_holder_at_once_and_goes_on_from_its_rows(tmp_path: Path) -> None:
    with fakes(tmp_path) as start:
        holder = start("prompt-2")
        wait_until(lambda: len(computed(tmp_path)) == 3)  # in the middle of the third row
        waiter = start()
        waiter.wait_until_said("waiting for")
        killed = holder.kill()
        is_reused, _, num_rows = waiter.result()
    assert (is_reused, num_rows) == (False, 4)
    names = [(process == waiter.pid, name) for process, name in computed(tmp_path)]
    assert names == [*[(False, name) for name in NAMES[:3]], *[(True, name) for name in NAMES[2:]]]
    [line] = waiter.said(f"{STEP.artifact_id}: computing")
    delay = float(line.split()[0]) - killed
    print(f"taken over after {1000 * delay:.1f} ms")
    assert delay < 10, "the kernel wakes the waiter; no timeout has to pass"  # generous: a loaded machine
    assert waiter.said("continuing after 2 of 4 rows")


def test_waiter_says_once_what_it_waits_for_and_waits_for_a_stopped_holder(tmp_path: Path) -> None:
    with fakes(tmp_path) as start:
        holder = start("prompt-1")
        wait_until(lambda: len(computed(tmp_path)) == 2)
        holder.process.send_signal(signal.SIGSTOP)
        waiter = start()
        waiter.wait_until_said("waiting for")
        (tmp_path / "go").touch()
        time.sleep(0.5)  # time enough to compute without the lock
        assert waiter.process.poll() is None and len(computed(tmp_path)) == 2
        holder.process.send_signal(signal.SIGCONT)
        assert [holder.result()[0], waiter.result()[0]] == [False, True]
    [line] = waiter.said("waiting")
    assert f"{STEP.artifact_id}: waiting for process {holder.pid} on {socket.gethostname()} (since 20" in line
    assert {process for process, _ in computed(tmp_path)} == {holder.pid}
    assert not waiter.said("computing") and waiter.said("reused")


def test_nobody_waits_for_what_is_there(tmp_path: Path) -> None:
    with fakes(tmp_path) as start:
        assert start().result()[0] is False
        with (tmp_path / "artifacts" / STEP.artifact_id / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            assert start().result()[0] is True


# --- a stage in a process of its own --------------------------------------------------------------------------------

ISOLATED = """
import json, logging, sys
from pathlib import Path
from tpo.store.stage import Step
from tpo.store.open import open_store

logging.basicConfig(level=logging.INFO)
with open_store(Path(sys.argv[1]), isolate=True) as store:
    artifact = store.run(Step(**json.loads(sys.argv[2])))
print(json.dumps([artifact.is_reused, artifact.metrics["num_prompts"]]))
"""


def test_isolated_stage_outlives_its_killed_parent_and_its_result_is_used(tmp_path: Path) -> None:
    # A real stage. The manifest of an input that it does not need is a pipe, so it lasts as long as this test wants.
    gate, manifest = tmp_path / "gate-0" / "manifest.json", tmp_path / "manifest.json"
    gate.parent.mkdir()
    os.mkfifo(gate)
    write_sealed(manifest, {"artifact_id": "gate-0", "files": {}, "metrics": {}})
    settings = {"kind": "builtin", "num_train": 2, "num_validation": 1, "num_test": 1}
    step = Step("prompts", 1, {"settings": settings}, {"gate": gate.parent.name}, work=PROMPTS.work)
    arguments = ("-c", ISOLATED, str(tmp_path), json.dumps(step.to_request()))
    parent = Running(tmp_path / "parent.txt", *arguments)
    with open_when_read(gate) as writer:
        parent.kill()
        waiter = Running(tmp_path / "waiter.txt", *arguments)
        waiter.wait_until_said("waiting for")
        assert waiter.process.poll() is None
        writer.write(manifest.read_text())
        manifest.replace(gate)  # for whoever reads it again
    is_reused, num_prompts = waiter.result()
    assert is_reused and num_prompts > 4
    [line] = waiter.said("waiting for")
    left = f"{step.artifact_id}: waiting for a stage that process {parent.pid} on {socket.gethostname()}, which is gone"
    assert left in line
    assert parent.said("computing") and not waiter.said("computing")


@contextmanager
def open_when_read(pipe: Path) -> Iterator[Any]:
    """Open a pipe for writing as soon as somebody reads from it."""
    descriptor = -1

    def is_read() -> bool:
        nonlocal descriptor
        with suppress(OSError):  # ENXIO: no reader yet
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
        return descriptor >= 0

    wait_until(is_read)
    os.set_blocking(descriptor, True)
    with open(descriptor, "w", encoding="utf-8") as file:
        yield file


# --- sweeps -----------------------------------------------------------------------------------------------------------

SWEEP_CONFIG = """
defaults: [_self_]
x: 0
hydra:
  sweep: {dir: out, subdir: "job-${hydra.job.num}"}
  output_subdir: null
  callbacks: {sweep_report: {_target_: tpo.config.sweep.SweepReport}}
"""
SWEEP_APP = """
import os
import time
from pathlib import Path
import hydra

@hydra.main(config_path=".", config_name="config", version_base="1.3")
def main(config):
    Path(f"started-{config.x}-{os.getpid()}").touch()
    while config.x == 2 and not Path("go").exists():
        time.sleep(0.01)

main()
"""


def test_same_sweep_started_twice_reports_all_jobs_twice(tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(SWEEP_APP)
    (tmp_path / "config.yaml").write_text(SWEEP_CONFIG)

    def start(name: str) -> Running:
        environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
        return Running(tmp_path / name, "app.py", "-m", "x=1,2", cwd=tmp_path, env=environment)

    both = []
    for name in ("first.txt", "second.txt"):
        both.append(start(name))
        wait_until((tmp_path / f"started-2-{both[-1].pid}").exists)
    (tmp_path / "go").touch()
    for running in both:
        running.process.communicate(timeout=120)
        assert running.process.returncode == 0 and running.said("sweep of 2 jobs: 2 completed")
    assert len([*(tmp_path / "out").glob("sweep-*")]) == 1


@pytest.mark.parametrize(
    ("config_name", "overrides", "folder"),
    [
        ("config", [], "experiment=None"),
        ("config", ["experiment=smoke"], "experiment=smoke"),
        ("config", ["experiment=ablation_rho_small"], "experiment=ablation_rho_small"),
        ("evaluate", ["policy=seed", "eval=gsm8k"], "eval=gsm8k"),
        ("agreement", ["data=x", "judge=length"], "judge=length"),
    ],
)
def test_logs_of_experiments_lie_apart(config_name: str, overrides: list[str], folder: str) -> None:
    register()
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        composed = compose(config_name, [*overrides, "runs_dir=here"], return_hydra_config=True)
        assert composed.hydra.run.dir == composed.hydra.sweep.dir == f"here/hydra/{folder}"
        assert composed.hydra.callbacks.sweep_report._target_ == "tpo.config.sweep.SweepReport"


@pytest.mark.parametrize(
    ("entry", "overrides", "name"),
    [
        pytest.param("run", ["experiment=smoke", "num_iterations=-1"], "experiment=smoke", id="run"),
        pytest.param("evaluate", ["policy=seed", "eval.confidence=2"], "eval=held_out", id="evaluate"),
    ],
)
def test_log_of_a_job_is_where_the_sweep_says_and_names_the_process(
    entry: str, overrides: list[str], name: str, tmp_path: Path
) -> None:
    # Jobs that end at the checks.
    done = run_command(f"tpo.{entry}", "-m", *overrides, f"runs_dir={tmp_path}")
    [folder] = (tmp_path / "hydra" / name).glob("sweep-*/job-0")
    assert done.returncode == 1 and f"log in {folder}" in done.stderr
    assert f"#0 failed: {' '.join(overrides)}" in done.stderr
    [log] = folder.glob("*.log")
    assert re.match(r"\[[-0-9]+ [:0-9,]+\]\[\d+\]\[tpo\.config\.sweep\]\[ERROR\] - job 0 failed", log.read_text())


# --- evaluations ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_evaluation_started_twice_is_measured_and_tracked_once(tiny_model: Path, tmp_path: Path) -> None:
    left_out = ("train.", "pairs.", "tracking", "prompts.num_test")
    shared = [item for item in tiny_overrides(tiny_model, tmp_path) if not item.startswith(left_out)]
    overrides = [*shared, "policy=seed", "prompts.num_test=2", "tracking=wandb", "tracking.mode=offline"]
    config = tpo.config.compose.compose_config(EvaluateConfig, overrides)
    with own_folder("evaluate-held_out", asdict(config)) as path:
        both = [Running(tmp_path / name, "-m", "tpo.evaluate", *overrides) for name in ("first.txt", "second.txt")]
        for running in both:
            running.wait_until_said(f"{path}: waiting for process {os.getpid()}")
        assert {file.name for file in path.iterdir()} == {"config.json", LOCK}
    said = [running.process.communicate(timeout=120)[0] for running in both]
    assert [running.process.returncode for running in both] == [0, 0], [running.log.read_text() for running in both]
    assert {text.splitlines()[-1] for text in said} == {str(path)}
    log = (tmp_path / "runs" / "hydra" / "eval=held_out" / "evaluate.log").read_text().splitlines()
    counts = Counter(line.split()[-2].rstrip(":") for line in log if line.endswith(": computing"))
    assert set(counts) == {found.parent.name for found in tmp_path.glob("artifacts/*/manifest.json")}
    assert set(counts.values()) == {1} and len(counts) == 8
    assert json.loads((path / "summary.json").read_text())["win_rate"]["num_prompts"] == 2
    assert len(list(path.glob("wandb/offline-run-*"))) == 1 and (path / TRACKED).exists()


# --- two whole runs ---------------------------------------------------------------------------------------------------


def test_run_that_failed_is_free_for_the_next_job_of_the_process(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = compose_config(tiny_overrides(tiny_model, tmp_path))
    plain = asdict(config)
    with (
        pytest.raises(RuntimeError, match="half way") as half_way,
        own_folder("test", plain) as path,
        Run(config, path, experiment="test"),
    ):
        assert is_locked(path / LOCK)
        raise RuntimeError("half way")
    assert not is_locked(path / LOCK)

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no tracking")

    monkeypatch.setattr("tpo.results.run.load_tracker", fail)
    with pytest.raises(RuntimeError, match="no tracking") as at_once, own_folder("test", plain) as path:
        Run(config, path, experiment="test")
    assert not is_locked(path / LOCK)
    assert half_way.tb and at_once.tb  # as a sweep keeps its jobs' errors, and with them all that they refer to


def smoke_overrides(model: Path, root: Path) -> list[str]:
    """The preset `smoke` with the tiny model, tracked offline."""
    tiny = [override for override in tiny_overrides(model, root) if override != "tracking=none"]
    return ["experiment=smoke", *tiny, "num_iterations=1", "tracking=wandb", "tracking.mode=offline"]


def find_torn(root: Path, seen: Counter[str]) -> list[str]:
    """Return the files of runs that are not whole, and count those that are."""
    torn = []
    for path in (root / "runs").glob("smoke-*/**/*"):
        content = b""
        if "wandb" not in path.relative_to(root).parts and path.suffix in {".json", ".html", ".png"}:
            with suppress(FileNotFoundError):
                content = path.read_bytes()
            try:
                match path.suffix:
                    case ".json":
                        json.loads(content)
                    case ".html":
                        assert content.rstrip().endswith(b"</html>")
                    case ".png":
                        assert content.endswith(b"IEND\xaeB`\x82")
                seen[path.suffix] += 1
            except (ValueError, AssertionError):
                torn.append(f"{path}: {content[:50]!r}")
    return torn


@contextmanager
def watched(root: Path) -> Iterator[Counter[str]]:
    """Read the files of the run again and again meanwhile; fail where one was seen half written."""
    torn: list[str] = []
    seen: Counter[str] = Counter()
    is_over = threading.Event()

    def watch() -> None:
        while not is_over.wait(0.002):
            torn.extend(find_torn(root, seen))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        thread.join()
    assert torn == []


def stages_computed(*logs: Path) -> Counter[str]:
    lines = [line for log in logs for line in log.read_text().splitlines() if line.endswith(": computing")]
    return Counter(line.split()[-2].rstrip(":") for line in lines)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_on_the_same_run_compute_each_stage_once_and_end_alike(tiny_model: Path, tmp_path: Path) -> None:
    overrides = smoke_overrides(tiny_model, tmp_path)
    with watched(tmp_path) as seen:
        (first, log), (second, other_log) = start_cli(tmp_path, overrides), start_cli(tmp_path, overrides)
        wait_until(lambda: first.poll() is not None or second.poll() is not None, timeout_s=600)
        summaries = list((tmp_path / "runs").glob("*/summary.json"))
        before = summaries[0].read_bytes()
        assert [first.wait(), second.wait()] == [0, 0], log.read_text()[-2000:] + other_log.read_text()[-2000:]
    assert {".json", ".html", ".png"} <= set(seen), "nothing was watched"
    counts = stages_computed(log, other_log)
    names = {path.parent.name for path in (tmp_path / "artifacts").glob("*/manifest.json")}
    assert set(counts) == names and set(counts.values()) == {1} and len(counts) > 10
    assert (
        all(stages_computed(found) for found in (log, other_log))
        or "waiting" in log.read_text() + other_log.read_text()
    )
    # Both end with the same folder and the same summary, whichever wrote it last.
    [folder] = {(found.parent / "said.txt").read_text().splitlines()[-1] for found in (log, other_log)}
    assert summaries == [Path(folder) / "summary.json"]
    assert summaries[0].read_bytes() == before
    assert not any(stage["is_reused"] for stage in json.loads(before)["stages"]), "the run computed them all"
    # One of the two tracked the run.
    assert len(list(Path(folder).glob("wandb/offline-run-*"))) == 1
    assert json.loads((Path(folder) / "tracking.json").read_text())["run_id"] == Path(folder).name
    assert list(tmp_path.glob("runs/**/*.tmp")) == list(tmp_path.glob("artifacts/**/*.tmp")) == []


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_one_of_two_processes_killed_at_a_random_moment(tiny_model: Path, tmp_path: Path) -> None:
    undisturbed = tmp_path / "undisturbed"
    process, log = start_cli(undisturbed, smoke_overrides(tiny_model, undisturbed))
    assert process.wait() == 0, log.read_text()[-2000:]
    num_stages = len(stages_computed(log))
    for seed, role in ((1, "works"), (2, "works"), (3, "works"), (4, "waits")):
        generator = random.Random(seed)
        num_begun, delay = generator.randint(1, num_stages), generator.uniform(0, 1)
        root = tmp_path / f"seed-{seed}"
        pairs = [start_cli(root, smoke_overrides(tiny_model, root)) for _ in range(2)]
        logs = [log for _, log in pairs]
        # Counted in stages, because the same seconds fall elsewhere on a loaded machine.
        wait_until(lambda logs=logs, count=num_begun: len(stages_computed(*logs)) >= count, timeout_s=600)
        time.sleep(delay)
        pairs.sort(key=lambda pair: len(stages_computed(pair[1])), reverse=role == "works")
        (victim, victims_log), (survivor, survivors_log) = pairs
        is_hit = victim.poll() is None
        with suppress(ProcessLookupError):
            os.killpg(victim.pid, signal.SIGKILL)
        victim.wait()
        print(f"seed {seed}: the one that {role} killed {delay:.2f} s after stage {num_begun} of {num_stages} began")
        said = survivors_log.parent / "said.txt"
        assert is_hit and survivor.wait() == 0, survivors_log.read_text()[-2000:] + said.read_text()[-2000:]
        assert_same_results(root, undisturbed)
        counts = stages_computed(victims_log, survivors_log)
        assert sum(counts.values()) - len(counts) <= (role == "works"), "only the stage that was hit is begun twice"
        names = [[path.parent.name for path in found.glob("runs/*/tracking.json")] for found in (root, undisturbed)]
        assert names[0] == names[1] and len(names[0]) == 1, "tracked to its end"
