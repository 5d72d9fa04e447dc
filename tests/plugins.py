"""Hydra's launchers and sweepers, which are not in every environment."""

import importlib.util
from pathlib import Path

import pytest
import yaml

CONF = Path(__file__).parent.parent / "conf"
PLUGINS = {  # hydra's option -> the package that brings it
    "joblib": "hydra_joblib_launcher",
    "submitit_slurm": "hydra_submitit_launcher",
    "submitit_local": "hydra_submitit_launcher",
    "ray": "hydra_ray_launcher",
    "optuna": "hydra_optuna_sweeper",
}


def is_installed(plugin: str) -> bool:
    if importlib.util.find_spec("hydra_plugins") is None:  # the namespace of all plugins
        return False
    return importlib.util.find_spec(f"hydra_plugins.{plugin}") is not None


def skip_without_plugin(override: str) -> None:
    """Skip the test where `override` chooses a preset of conf/hydra/ whose plugin is not installed."""
    name = override.replace("=", "/")
    if not name.startswith("hydra/"):
        return
    plugin = PLUGINS.get(yaml.safe_load((CONF / f"{name}.yaml").read_text())["defaults"][0])
    if plugin is not None and not is_installed(plugin):
        pytest.skip(f"{plugin} is not installed (requirements-launchers.txt)")
