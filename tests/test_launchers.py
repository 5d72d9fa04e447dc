"""Launchers give equal numbers, compute each stage once and keep jobs apart.

Those marked `launchers` run the presets of conf/hydra/launcher/ that need no GPU and no Slurm.
"""

import copy
import importlib.util
import json
import os
import subprocess
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from conftest import make_model
from fake_workers import is_alive
from test_locks import wait_until
from test_planted_secrets import assert_no_file_has_one, planted, run
from test_run import REPOSITORY, compose_config, tiny_overrides

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
LAUNCHERS = ("processes", "local_array", "ray_local")


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("launchers", REPOSITORY / "experiments" / "launchers.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["launchers"] = module
    spec.loader.exec_module(module)
    return module


script = load_script()


def environment() -> dict[str, str]:
    """The environment of a user, who sets nothing about threads, as the tests do."""
    unset = {name: text for name, text in os.environ.items() if name not in THREADS}
    return unset | {"PYTHONPATH": str(REPOSITORY)}


def of_one_thread() -> dict[str, str]:
    """The same for jobs that are to compute the same bits: their launchers would give them other shares of the cores,
    and sums of other shares are rounded otherwise."""
    return environment() | {"OMP_NUM_THREADS": "1"}


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


# --- summaries --------------------------------------------------------------------------------------------------


SUMMARY: dict[str, Any] = {
    "seed": 0,
    "iterations": [{"win_rate": {"rate": 0.5}, "drops": {}}, {"win_rate": {"rate": 0.75}, "drops": {"tied": 1}}],
    "stages": [{"artifact_id": "model-0", "seconds": 1.5, "is_reused": False}],
    "digest": "0a",
}


def changed(path: tuple[Any, ...], value: Any) -> dict[str, Any]:
    """The summary with another value at the path."""
    found = copy.deepcopy(SUMMARY)
    part: Any = found
    for key in path[:-1]:
        part = part[key]
    part[path[-1]] = value
    return found


@pytest.mark.parametrize(
    ("path", "value", "expected"),
    [
        pytest.param(("stages", 0, "seconds"), 2.5, None, id="time"),
        pytest.param(("stages", 0, "is_reused"), True, None, id="reused"),
        pytest.param(("digest",), "0b", None, id="digest"),
        pytest.param(("seed",), 1, "seed: 0 and 1", id="top"),
        pytest.param(
            ("iterations", 1, "win_rate", "rate"),
            0.75 + 2**-53,
            "iterations/1/win_rate/rate: 0.75 and 0.7500000000000001",
            id="last_digit",
        ),
        pytest.param(("iterations", 0, "drops"), {"tied": 1}, "iterations/0/drops: {} and absent", id="key_more"),
        pytest.param(("iterations", 1, "drops"), {}, "iterations/1/drops/tied: 1 and absent", id="key_less"),
        pytest.param(("stages",), [], "stages/0/artifact_id: model-0 and absent", id="item_less"),
        pytest.param(("judge",), None, "judge: absent and None", id="none_is_a_value"),
    ],
)
def test_first_difference(path: tuple[Any, ...], value: Any, expected: str | None) -> None:
    assert load_script().first_difference(SUMMARY, changed(path, value)) == expected


# --- the real pipeline ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("launchers")


@pytest.fixture(scope="module")
def smoke(folder: Path) -> tuple[str, ...]:
    """A sweep of the preset `smoke` with four layers as wide as the embedded model's."""
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9, "num_key_value_heads": 3}
    model = make_model(folder / "model", num_hidden_layers=4, initializer_range=0.04, **sizes)
    judge = ("judge.positive=' Yes'", "judge.negative=' No'")  # with the space, single tokens of this tokenizer
    # As many sampling processes under each launcher, since their number decides which prompts share a batch.
    settings = ("model=pretrained", f"model.name={model}", "engine.num_workers=2")
    return ("experiment=smoke", "thought=generic,none", *settings, *judge)


@pytest.fixture(scope="module")
def basic(folder: Path, smoke: tuple[str, ...]) -> Any:
    """The sweep through Hydra's own launcher."""
    return script.sweep(script.BASIC, smoke, out=Path("out"), cwd=folder, env=of_one_thread())


@pytest.mark.launchers
@pytest.mark.xdist_group("summaries")  # which share the basic launcher's
@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_summaries_are_those_of_the_basic_launcher(
    launcher: str, basic: Any, folder: Path, smoke: tuple[str, ...]
) -> None:
    swept = script.sweep(launcher, smoke, out=Path("out"), cwd=folder, env=of_one_thread())
    assert len(basic.summaries) == 2 and all(len(run["iterations"]) == 2 for run in basic.summaries.values())
    assert script.differences(swept, basic) == dict.fromkeys(basic.summaries)

    # Both jobs wanted the same at the same time: model, instructions, the baseline's answers and their scores.
    stages = basic.times_computed()
    shared = set.intersection(*({row["artifact_id"] for row in run["stages"]} for run in basic.summaries.values()))
    assert len(shared) == 4 and swept.times_computed() == stages == dict.fromkeys(stages, 1)
    root = folder / "out" / launcher
    assert {path.parent.name for path in root.glob("artifacts/*/manifest.json")} == set(stages)
    logs = [path.read_text().splitlines() for path in root.glob("runs/hydra/**/job-*/*.log")]
    assert len(logs) == 2
    computed = [line.split()[-2].rstrip(":") for log in logs for line in log if line.endswith(": computing")]
    assert Counter(computed) == stages


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
