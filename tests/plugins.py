"""Hydra's launchers and sweepers, which are not in every environment: what needs one is marked `launchers`."""

from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml

CONF = Path(__file__).parent.parent / "conf"
PLUGINS = {"joblib", "submitit_slurm", "submitit_local", "ray", "optuna"}  # options that a package brings


def needs_plugin(override: str) -> bool:
    """Return whether an override chooses an option of a plugin: one that conf/hydra/ fills, or a reader's own file."""
    name = override.replace("=", "/")
    path = CONF / f"{name}.yaml"
    return name.startswith("hydra/") and (
        not path.exists() or yaml.safe_load(path.read_text())["defaults"][0] in PLUGINS
    )


def marks(overrides: Iterable[str]) -> list[pytest.MarkDecorator]:
    """Return the marks of a test with these overrides."""
    return [pytest.mark.launchers] if any(map(needs_plugin, overrides)) else []
