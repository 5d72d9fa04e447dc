"""What a tracker is told."""

from pathlib import Path
from typing import Any

from tpo.store.artifacts import Artifact


class Tracker:
    """Receives a run's results in the order in which they come.

    This one tracks nothing: `summary.json` and the artifacts hold everything.
    """

    def log_iteration(self, entry: dict[str, Any]) -> None:
        """Log an entry of `summary.json`'s `iterations`."""

    def log_comparison(self, iteration: int, comparison: Artifact) -> None:
        """Log the gains of the categories."""

    def log_training(self, iteration: int, checkpoints: Artifact) -> None:
        """Log the training curve."""

    def log_tables(self, iteration: int, completions: Artifact, scores: Artifact, pairs: Artifact) -> None:
        """Log samples and pairs as tables."""

    def log_adapter(self, iteration: int, checkpoints: Artifact, epoch: int) -> None:
        """Log the selected adapter."""

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> dict[str, Any] | None:
        """End the run; return where it was tracked, or None."""
        return None

    def finish_evaluation(self, summary: dict[str, Any], figures: list[Path]) -> dict[str, Any] | None:
        """End an evaluation with its only results; return where it was tracked, or None."""
        return None

    def fail(self) -> None:
        """End the run as failed; does nothing after `finish`."""
