"""A killed run continues where it stopped, and ends with the very files of an undisturbed one."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from test_run import REPOSITORY, compose_config, tiny_overrides, without_stages

import tpo.run
import tpo.stage
from tpo.artifacts import Step, Store

NOT_CONTENT = ("started", "seconds", "peak_memory_mib", "environment")  # of a manifest: when, where, how fast


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


def test_kill_after_every_stage_redoes_nothing(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = ("num_iterations=1", "prompts.num_test=2", "prompts.num_validation=1", "prompts.num_train=3")

    def run(root: Path) -> None:
        tpo.run.run_tpo(compose_config(tiny_overrides(tiny_model, root, *sizes)), experiment="test")

    run(tmp_path / "undisturbed")
    execute, executed, allowed = tpo.stage.execute, [], 0

    def execute_one(path: Path) -> None:
        if len(executed) == allowed:
            raise Killed
        executed.append(path.name)
        execute(path)

    monkeypatch.setattr(tpo.stage, "execute", execute_one)
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
    step = Step("prompts", 1, {"settings": {"kind": "builtin", "num_train": 2, "num_validation": 1, "num_test": 1}})
    path = tmp_path / step.artifact_id
    path.mkdir()
    (path / leftover).write_text('{"half": ')
    store = Store(tmp_path, execute=tpo.stage.execute)
    artifact = store.run(step)
    assert set(artifact.manifest["files"]) == {"rows.jsonl"}
    assert store.run(step).is_reused


def start_cli(root: Path, overrides: list[str]) -> tuple[subprocess.Popen[bytes], Path]:
    root.mkdir(exist_ok=True)
    log = root / f"log-{len(list(root.glob('log-*')))}.txt"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "tpo.run", *overrides],
            cwd=REPOSITORY,
            env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"},
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process, log


def wait_until_computing(process: subprocess.Popen[bytes], log: Path) -> None:
    """Return when the imports are over and work began, so that a kill hits work."""
    for _ in range(1200):
        if b": computing" in log.read_bytes() or process.poll() is not None:
            return
        time.sleep(0.05)
    raise AssertionError(f"nothing was computed within a minute: {log.read_text()[-2000:]}")


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_five_kills_at_random_moments_change_nothing(tiny_model: Path, tmp_path: Path) -> None:
    # Enough work that five moments fall into sampling, judging, training and evaluation.
    sizes = (
        *("prompts.num_train=16", "prompts.num_validation=8", "prompts.num_test=20", "sample.num_samples=6"),
        *("sample.max_thought_tokens=40", "sample.max_response_tokens=60", "train.num_epochs=4"),
        *("engine.max_sequences=8", "engine.chunk_prompts=2"),
    )
    undisturbed = tmp_path / "undisturbed"
    process, log = start_cli(undisturbed, tiny_overrides(tiny_model, undisturbed, *sizes))
    wait_until_computing(process, log)
    started = time.monotonic()
    assert process.wait() == 0, log.read_text()[-2000:]
    seconds = time.monotonic() - started

    # Of a third of the work each, so that together the five attempts walk through the run.
    generator = random.Random(20241010)
    moments = [generator.uniform(0.02, 0.33) * seconds for _ in range(5)]
    print(f"undisturbed {seconds:.1f} s; kills at {', '.join(f'{moment:.2f}' for moment in moments)} s of work")
    root, num_hits = tmp_path / "killed", 0
    overrides = tiny_overrides(tiny_model, root, *sizes)
    for moment in moments:
        process, log = start_cli(root, overrides)
        wait_until_computing(process, log)
        time.sleep(moment)
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            num_hits += 1
        process.wait()
        stages = [line for line in log.read_text().splitlines() if ": computing" in line]
        print(f"killed in {stages[-1].split(' - ')[-1] if stages else 'nothing'}")
    assert num_hits >= 4, "the kills must hit a running process"
    process, log = start_cli(root, overrides)
    assert process.wait() == 0, log.read_text()[-2000:]
    assert_same_results(root, undisturbed)
