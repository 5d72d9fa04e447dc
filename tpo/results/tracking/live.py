"""Rows of a history while stages run: the steps of a training as they come, and how far each stage is."""

import time
from collections.abc import Callable, Iterable
from typing import Any

from tpo.store.progress import State
from tpo.store.stage import Step

EVERY_S = 10.0  # between two rows on how far a stage is


class Live:
    """Logs each step of training once, whether it comes while it is computed or from the artifact that it ended in."""

    def __init__(self, log: Callable[[dict[str, Any]], None], *, num_logged: int = 0) -> None:
        """Log nothing yet.

        Args:
            log: Logs a row.
            num_logged: Steps, over all iterations, that an earlier process logged to the same run.
        """
        self._log, self._num_logged = log, num_logged
        self._num_before = 0  # steps of the iterations before this one
        self._num_told: dict[str, int] = {}  # steps by id of the training
        self._told_at = -EVERY_S
        self.iteration = 1  # whose training comes next

    def progressed(self, step: Step, state: State) -> None:
        """Log how far a stage is, now and then, and at its end."""
        now = time.monotonic()
        if now - self._told_at < EVERY_S and state.done < state.total:
            return
        self._told_at = now
        row = {f"progress/{step.stage}": state.done / state.total if state.total else 1.0}
        if state.tokens_per_second is not None:
            row["progress/tokens_per_second"] = state.tokens_per_second
        if state.device_memory_mib is not None:
            row["progress/device_memory_mib"] = state.device_memory_mib
        self._log(row)

    def measured(self, artifact_id: str, number: int, values: dict[str, Any]) -> None:
        """Log a step of a training, counted from 1, unless it was logged before."""
        if number <= self._num_told.get(artifact_id, 0):
            return
        self._num_told[artifact_id] = number
        total = self._num_before + number
        if total > self._num_logged:
            row = {f"train/{name}": value for name, value in values.items()}
            self._log({**row, "train/step": total, "train/iteration": self.iteration})

    def finished(self, artifact_id: str, steps: Iterable[dict[str, Any]]) -> None:
        """Log what was not seen of a training, all of whose steps are given, and count them."""
        number = 0
        for number, values in enumerate(steps, start=1):
            self.measured(artifact_id, number, values)
        self._num_before += number
