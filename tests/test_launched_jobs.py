"""Launchers end with their command and keep jobs apart: one that fails stops no other, each is tracked by itself."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from fake_workers import is_alive
from test_launchers import LAUNCHERS, environment
from test_locks import wait_until
from test_planted_secrets import assert_no_file_has_one, planted, run
from test_run import compose_config, tiny_overrides

# --- a command that is killed -----------------------------------------------------------------------------------

APP_CONFIG = """
defaults: [_self_, {override hydra/launcher: joblib}]
x: 0
hydra:
  sweep: {dir: out, subdir: "job-${hydra.job.num}"}
  output_subdir: null
  launcher: {n_jobs: 2}
  callbacks: {sweep_report: {_target_: tpo.config.sweep.SweepReport}}
"""
APP = """
import os
import time
from pathlib import Path
import hydra

@hydra.main(version_base="1.3", config_path=".", config_name="config")
def work(config):
    Path(f"working-{config.x}").write_text(str(os.getpid()))
    time.sleep(300)

work()
"""


@pytest.mark.launchers
def test_workers_end_soon_after_a_command_that_was_killed(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(APP_CONFIG)
    (tmp_path / "app.py").write_text(APP)
    command = [sys.executable, "app.py", "-m", "x=1,2"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), start_new_session=True) as sweep:
        wait_until(lambda: len(list(tmp_path.glob("working-*"))) == 2 or sweep.poll() is not None)
        sweep.kill()
    pids = [int(path.read_text()) for path in tmp_path.glob("working-*")]
    assert len(pids) == 2 and sweep.pid not in pids
    wait_until(lambda: not any(is_alive(pid) for pid in pids), timeout_s=20)


# --- a job that fails -------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.launchers
@pytest.mark.parametrize("launcher", ["one_gpu", *LAUNCHERS])
def test_failed_job_stops_no_other_and_runs_are_tracked_apart(launcher: str, tiny_model: Path, tmp_path: Path) -> None:
    """The first job fails after it began to track, and where there is a pool of two, leaves its process to another.

    The environment has secrets (not Ray's), and nothing that is written or printed, nor a command line, has one.
    """
    settings = tiny_overrides(tiny_model, Path("."), "num_iterations=1", "train.num_epochs=1", "prompts.num_test=3")
    settings = [item for item in settings if item != "tracking=none"] + ["tracking=wandb"]
    command = ["-m", f"hydra/launcher={launcher}", "pairs.min_margin=1000,0,0.001", *settings]
    # Ray talks to its own processes over gRPC, which heeds proxies; it was not tried behind one.
    given = environment() if launcher == "ray_local" else planted(environment())
    said = run("tpo.run", *command, cwd=tmp_path, env=given, status=1)
    report = said[said.index("sweep of 3 jobs") :].splitlines()
    assert report[0] == "sweep of 3 jobs: 2 completed"
    assert report[1].startswith("  #0 failed: pairs.min_margin=1000 ") and "there is no pair to train on" in report[2]
    configs = {path.parent: json.loads(path.read_text()) for path in tmp_path.glob("runs/custom-*/config.json")}
    runs = {config["pairs"]["min_margin"]: path for path, config in configs.items()}
    assert sorted(runs) == [0, 0.001, 1000]
    failed = ["pairs.min_margin=1000", *settings]
    assert asdict(compose_config(failed)) == configs[runs[1000]]
    assert not (runs[1000] / "summary.json").exists()
    for min_margin in (0, 0.001):
        path = runs[min_margin]
        [entry] = json.loads((path / "summary.json").read_text())["iterations"][1:]
        assert entry["num_pairs"] > 0
        assert json.loads((path / "tracking.json").read_text())["run_id"] == path.name
        [file] = path.glob("wandb/offline-run-*/*.wandb")
        assert file.name == f"run-{path.name}.wandb"
    assert assert_no_file_has_one(tmp_path) > 40
    if launcher == "local_array":
        assert [*tmp_path.rglob("*.pkl")], "submitit wrote its pickles, and these were searched"
