"""Sweeps and launchers as configuration: every job composes, and jobs differ only in what is swept."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from plugins import marks, needs_plugin
from test_sweep import app

from tpo.config.check import check
from tpo.config.compose import CONF, compose_config, composing
from tpo.config.fields import ConfigError
from tpo.config.schema import Config, register
from tpo.config.sweep import grid_jobs, unswept, warning_of_sweep

NUM_JOBS = {
    "main_results": 2,
    "ablation_rho": 6,
    "ablation_thought_rho": 12,
    "ablation_thought_judge_prompts": 8,
    "ablation_num_samples": 4,
    "ablation_iterations": 4,
    "ablation_irpo": 2,
    "ablation_reference": 2,
    "main_results_small": 2,
    "ablation_rho_small": 6,
    "ablation_thought_rho_small": 6,
    "ablation_thought_judge_prompts_small": 8,
    "ablation_num_samples_small": 3,
    "ablation_iterations_small": 4,
    "ablation_irpo_small": 2,
    "ablation_reference_small": 2,
}
HYDRA_PRESETS = sorted(path.relative_to(CONF).with_suffix("") for path in (CONF / "hydra").glob("*er/*.yaml"))

register()


def composed(*overrides: str, hydra: bool = False) -> DictConfig:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", overrides=list(overrides), return_hydra_config=hydra)


def sweep_of(overrides: list[str]) -> DictConfig:
    """What Hydra composes before it divides a sweep into jobs."""
    with composing() as loader:
        found: DictConfig = loader.load_configuration(
            "config", overrides, run_mode=RunMode.MULTIRUN, validate_sweep_overrides=False
        )
    return found


def flatten(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def swept(name: str) -> dict[str, str]:
    """What a preset's own file sweeps; empty where it is no sweep."""
    written = yaml.safe_load((CONF / "experiment" / f"{name}.yaml").read_text())
    params: dict[str, str] = written.get("hydra", {}).get("sweeper", {}).get("params", {})
    return params


def test_every_sweep_is_tested() -> None:
    assert {path.stem for path in (CONF / "experiment").glob("*.yaml") if swept(path.stem)} == set(NUM_JOBS)


@pytest.mark.parametrize("name", NUM_JOBS)
def test_jobs_compose_and_differ_in_what_is_swept(name: str) -> None:
    jobs = grid_jobs(composed(f"experiment={name}", hydra=True))
    assert len(jobs) == NUM_JOBS[name]
    found: list[dict[str, Any]] = []
    for overrides in jobs:
        config = compose_config(Config, overrides)
        try:
            check(config)
        except ConfigError as error:  # vllm, on a machine without a GPU
            assert "needs the package" in str(error)
        found.append(flatten(dataclasses.asdict(config)))
    keys = {key for job in found for key in job}
    differing = {key for key in keys if any(job.get(key) != found[0].get(key) for job in found)}
    for key in swept(name):
        assert any(other == key or other.startswith(f"{key}.") for other in differing), f"{key} does not differ"
    for key in differing:
        assert any(key == other or key.startswith(f"{other}.") for other in swept(name)), f"{key} differs too"
    assert len({repr(sorted(job.items())) for job in found}) == len(jobs)


@pytest.mark.parametrize("name", [name for name in NUM_JOBS if not name.endswith("_small")])
def test_each_sweep_exists_at_the_embedded_scale(name: str) -> None:
    assert list(swept(name)) == list(swept(f"{name}_small"))
    assert composed(f"experiment={name}").model.name == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert composed(f"experiment={name}_small").model.source == "embedded"


@pytest.mark.parametrize("swept", ["thought=generic,none", "train.method=lora,full", "pairs.length_penalty=0,0.5"])
def test_what_runs_without_a_preset_can_be_swept(swept: str) -> None:
    overrides = ["model.quantization=none", "tracking=none", swept]
    jobs = grid_jobs(sweep_of(overrides))
    assert len(jobs) == 2
    for job in jobs:
        check(compose_config(Config, job))


def test_rho_is_swept_as_in_the_paper() -> None:
    jobs = grid_jobs(composed("experiment=ablation_rho", hydra=True))
    assert [composed(*job).pairs.length_penalty for job in jobs] == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5]


def test_the_command_line_narrows_a_sweep() -> None:
    jobs = grid_jobs(composed("experiment=ablation_rho_small", "pairs.length_penalty=0.2", "seed=3", hydra=True))
    assert [set(job) for job in jobs] == [{"pairs.length_penalty=0.2", "experiment=ablation_rho_small", "seed=3"}]


@pytest.mark.parametrize(
    ("overrides", "keys"),
    [
        (["experiment=ablation_thought_rho_small"], "thought, pairs.length_penalty"),
        (["experiment=ablation_thought_rho_small", "thought=none"], "pairs.length_penalty"),
        (["experiment=ablation_thought_rho_small", "thought=none", "pairs.length_penalty=0"], None),
        (["experiment=quickstart"], None),
    ],
    ids=lambda value: ",".join(value) if isinstance(value, list) else "",
)
def test_a_sweep_that_is_run_as_one_job_is_warned_of(overrides: list[str], keys: str | None) -> None:
    hydra = composed(*overrides, hydra=True).hydra
    found = warning_of_sweep(unswept(hydra.sweeper.get("params") or {}, hydra.overrides.task))
    expected = None if keys is None else f"this is one job, without {keys} being swept: add -m for the sweep"
    assert found == expected


def test_options_found_by_a_pattern_are_jobs_of_the_report(tmp_path: Path) -> None:
    (tmp_path / "group").mkdir()
    for x in (1, 2):
        (tmp_path / "group" / f"option_{x}.yaml").write_text(f"# @package _global_\nx: {x}\n")
    status, said, done = app(tmp_path, "-m", "+group=glob(option_*)", "fail=[2]")
    assert status == 1 and done == ["done-1-0"]
    assert "sweep of 2 jobs: 1 completed\n  #1 failed: +group=option_2 fail=[2]\n" in said


def test_hydra_presets_are_found() -> None:
    names = {path.name for path in HYDRA_PRESETS}
    assert names == {"one_gpu", "gpus", "processes", "slurm", "local_array", "ray_local", "tpe"}


def choice(preset: Path) -> str:
    """The override that chooses a preset of conf/hydra/."""
    return f"{preset.parent}={preset.name}"


@pytest.mark.parametrize("preset", HYDRA_PRESETS, ids=str)
def test_hydra_preset_says_how_to_use_it_and_what_it_needs(preset: Path) -> None:
    text = (CONF / f"{preset}.yaml").read_text()
    assert choice(preset) in text
    assert ("requirements-launchers.txt" in text) == needs_plugin(choice(preset))


@pytest.mark.parametrize(
    "preset", [pytest.param(preset, id=str(preset), marks=marks([choice(preset)])) for preset in HYDRA_PRESETS]
)
def test_hydra_preset_composes_to_what_it_says(preset: Path) -> None:
    written = yaml.safe_load((CONF / f"{preset}.yaml").read_text())
    del written["defaults"]
    node = composed("experiment=quickstart", choice(preset), hydra=True).hydra[preset.parent.name]
    flat = flatten(OmegaConf.to_container(node, resolve=False))
    expected = flatten(written)
    assert {key: flat[key] for key in expected} == expected
