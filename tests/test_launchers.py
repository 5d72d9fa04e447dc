"""Launchers give equal numbers and compute each stage once.

Those marked `launchers` run the presets of conf/hydra/launcher/ that need no GPU and no Slurm.
"""

import copy
import importlib.util
import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import make_model
from test_run import REPOSITORY

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


@pytest.mark.long
@pytest.mark.launchers
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
