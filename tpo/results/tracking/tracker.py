"""What a tracker is told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tpo.store.artifacts import Artifact
from tpo.store.progress import Listener


class Tracker(Listener):
    """Receives a run's results in the order in which they come, and listens to its store.

    This one tracks nothing: `summary.json` and the artifacts hold everything.

    Attributes:
        where: Where the run can be looked at, for the header; None where it is not tracked.
        sync_command: What sends a run that was tracked offline; None where there is nothing to send.
    """

    where: str | None = None
    sync_command: str | None = None

    def log_iteration(self, entry: dict[str, Any], artifacts: Mapping[str, Artifact]) -> None:
        """Log an entry of `summary.json`'s `iterations`, and what is in the artifacts that it names by role."""

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> dict[str, Any] | None:
        """End a run, or an evaluation with its only results; return where it was tracked, or None."""
        return None

    def fail(self) -> None:
        """End the run as failed; does nothing after `finish`."""
