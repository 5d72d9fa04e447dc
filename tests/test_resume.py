"""A killed run continues where it stopped, and ends with the very files of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from commands import Fork, start_command
from test_run import compose_config, tiny_overrides, without_stages

import tpo.run
import tpo.store.execute
import tpo.store.open
from tpo.sample.stages import PROMPTS
from tpo.store.stage import Step
from tpo.store.store import Store

NOT_CONTENT = ("started", "seconds", "peak_memory_mib", "environment", "digest")  # of a manifest: when, where, how fast


def read_manifests(root: Path) -> dict[str, Any]:
    """Artifact id to what was computed: metrics without speeds, and the digest of every file."""
    found = {}
    for path in (root / "artifacts").glob("*/manifest.json"):
        manifest = {key: value for key, value in json.loads(path.read_text()).items() if key not in NOT_CONTENT}
        manifest["metrics"] = {key: value for key, value in manifest["metrics"].items() if key != "tokens_per_second"}
        found[path.parent.name] = manifest
    return found


def read_summary(root: Path) -> dict[str, Any]:
    (path,) = (root / "runs").glob("*/summary.json")
    return without_stages(json.loads(path.read_text()))


def list_files(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in (root / "artifacts").rglob("*") if path.is_file()}


def assert_same_results(root: Path, undisturbed: Path) -> None:
    expected, found = read_manifests(undisturbed), read_manifests(root)
    assert len(expected) > 15
    assert found.keys() == expected.keys()
    for name in expected:
        assert found[name] == expected[name]
    assert read_summary(root) == read_summary(undisturbed)
    assert list_files(root) == list_files(undisturbed), "a kill left something behind"


class Killed(BaseException):
    """Stands in for SIGKILL."""


@pytest.mark.slow
def test_kill_after_every_stage_redoes_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ("num_iterations=1", "prompts.num_test=2", "prompts.num_validation=1", "prompts.num_train=3")

    def run(root: Path) -> None:
        tpo.run.run_tpo(compose_config(tiny_overrides(tiny_model, root, *sizes)), experiment="test")

    run(tmp_path / "undisturbed")
    execute, executed, allowed = tpo.store.execute.execute, [], 0

    def execute_one(path: Path) -> None:
        if len(executed) == allowed:
            raise Killed
        executed.append(path.name)
        execute(path)

    monkeypatch.setattr(tpo.store.open, "execute", execute_one)
    for _ in range(60):
        allowed = len(executed) + 1
        try:
            run(tmp_path / "killed")
        except Killed:
            continue
        break
    assert len(executed) == len(set(executed)) == len(read_manifests(tmp_path / "undisturbed"))
    assert_same_results(tmp_path / "killed", tmp_path / "undisturbed")


@pytest.mark.parametrize("leftover", ["manifest.json.tmp", "request.json.tmp"])
def test_half_written_file_of_a_killed_attempt_does_not_enter_the_manifest(tmp_path: Path, leftover: str) -> None:
    settings = {"kind": "builtin", "num_train": 2, "num_validation": 1, "num_test": 1}
    step = Step("prompts", 1, {"settings": settings}, work=PROMPTS.work)
    path = tmp_path / step.artifact_id
    path.mkdir()
    (path / leftover).write_text('{"half": ')
    store = Store(tmp_path, execute=tpo.store.execute.execute)
    artifact = store.run(step)
    assert set(artifact.manifest["files"]) == {"rows.jsonl"}
    assert store.run(step).is_reused


def start_cli(root: Path, overrides: list[str]) -> tuple[Fork | subprocess.Popen[bytes], Path]:
    root.mkdir(exist_ok=True)
    folder = root / f"log-{len(list(root.glob('log-*')))}"
    folder.mkdir()
    log = folder / "tpo.log"
    log.touch()
    with (folder / "said.txt").open("wb") as file:
        process = start_command(
            *("tpo.run", *overrides, f"hydra.run.dir={folder}"), stdout=file, stderr=file, loads_models=True
        )
    return process, log


def stages_begun(log: Path) -> list[str]:
    """The stages that an attempt began to compute, in order."""
    return [line.split()[-2].rstrip(":") for line in log.read_text().splitlines() if line.endswith(": computing")]


def moment(fraction: float, durations: dict[str, float]) -> tuple[str, float]:
    """The stage that computes when a fraction of all work is done, and for how many seconds it has by then."""
    left = fraction * sum(durations.values())
    for name, seconds in durations.items():
        if left < seconds:
            return name, left
        left -= seconds
    raise ValueError(f"{fraction} is not below 1")


def test_moment() -> None:
    durations = {"a": 1.0, "b": 0.0, "c": 3.0}
    assert [moment(fraction, durations) for fraction in (0, 0.125, 0.25, 0.75)] == [
        ("a", 0.0),
        ("a", 0.5),
        ("c", 0.0),
        ("c", 2.0),
    ]


def wait_until_begun(process: Fork | subprocess.Popen[bytes], log: Path, stages: set[str]) -> None:
    """Return when one of the stages is being computed, or the process is over."""
    deadline = time.monotonic() + 300
    while not stages.intersection(stages_begun(log)) and process.poll() is None:
        assert time.monotonic() < deadline, f"nothing was computed: {log.read_text()[-2000:]}"
        time.sleep(0.02)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_five_kills_at_random_moments_change_nothing(tiny_model: Path, tmp_path: Path) -> None:
    # Enough work that five moments fall into sampling, judging, training and evaluation.
    sizes = (
        *("prompts.num_train=16", "prompts.num_validation=8", "prompts.num_test=20", "sample.num_samples=6"),
        *("sample.max_thought_tokens=40", "sample.max_response_tokens=60", "train.num_epochs=4"),
        "engine.max_sequences=8",
    )
    undisturbed = tmp_path / "undisturbed"
    process, log = start_cli(undisturbed, tiny_overrides(tiny_model, undisturbed, *sizes))
    assert process.wait() == 0, log.read_text()[-2000:]
    manifests = {name: undisturbed / "artifacts" / name / "manifest.json" for name in stages_begun(log)}
    durations = {name: float(json.loads(path.read_text())["seconds"]) for name, path in manifests.items()}

    # Each in a fifth of the work, so that together the five attempts walk through the run. Within a stage, because the
    # same seconds of a run fall elsewhere on a loaded machine.
    generator = random.Random(20241010)
    fractions = [(part + generator.random()) / 5.5 for part in range(5)]
    root, num_hits = tmp_path / "killed", 0
    overrides = tiny_overrides(tiny_model, root, *sizes)
    for stage, delay in (moment(fraction, durations) for fraction in fractions):
        process, log = start_cli(root, overrides)
        names = list(durations)
        wait_until_begun(process, log, set(names[names.index(stage) :]))
        time.sleep(delay)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            num_hits += 1
        process.wait()
        print(f"to be killed {delay:.2f} s into {stage}, was in {stages_begun(log)[-1]}")
    assert num_hits >= 4, "the kills must hit a running process"
    process, log = start_cli(root, overrides)
    assert process.wait() == 0, log.read_text()[-2000:]
    assert_same_results(root, undisturbed)
