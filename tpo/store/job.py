"""A step as its work gets it, and the work that its request names."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tpo.store.artifacts import Artifact

Metrics = dict[str, Any]  # what a stage counted and measured, plain JSON types


@dataclass(frozen=True)
class Job:
    """One step to compute, where a job of Hydra's is a whole run.

    Attributes:
        path: The artifact's directory, to write to.
        config: The step's settings.
        inputs: Artifacts by role.
        seed: The step's seed.
        how: Settings that the result does not depend on.
    """

    path: Path
    config: dict[str, Any]
    inputs: dict[str, Artifact]
    seed: int = 0
    how: dict[str, Any] = field(default_factory=dict)

    @property
    def answers_path(self) -> Path:
        """The file beside all artifacts that keeps every answer of a language model."""
        return self.path.parent / "answers.sqlite"


def load_work(path: str) -> Callable[[Job], Metrics]:
    """Return the function that "module:function" names."""
    module, _, name = path.partition(":")
    work: Callable[[Job], Metrics] = vars(importlib.import_module(module))[name]
    return work
