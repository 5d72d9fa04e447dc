"""Hydra's launchers and sweepers, which are not in every environment: what needs one is marked `launchers`."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

CONF = Path(__file__).parent.parent / "conf"
PLUGINS = {"joblib", "submitit_slurm", "submitit_local", "ray", "optuna"}  # options that a package brings


def needs_plugin(override: str) -> bool:
    """Return whether an override chooses a preset of conf/hydra/ that fills an option of a plugin."""
    name = override.replace("=", "/")
    return name.startswith("hydra/") and yaml.safe_load((CONF / f"{name}.yaml").read_text())["defaults"][0] in PLUGINS


def marks(overrides: Iterable[str]) -> list[pytest.MarkDecorator]:
    """Return the marks of a test with these overrides."""
    return [pytest.mark.launchers] if any(map(needs_plugin, overrides)) else []
