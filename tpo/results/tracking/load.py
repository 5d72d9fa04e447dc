"""Which tracker a job has: the configured one, or one that tracks nothing."""

import os
from pathlib import Path
from typing import Any

from tpo.config.groups import TrackingConfig
from tpo.config.tracking import WandbTracking
from tpo.results.tracking.labels import Labels
from tpo.results.tracking.tracker import Tracker
from tpo.store.files import write_json

TRACKED = "tracking.json"  # in a run's folder: where it was tracked, once it was to its end


def load_tracker(
    settings: TrackingConfig, *, run_path: Path, config: dict[str, Any], labels: Labels, is_finished: bool
) -> Tracker:
    """Return the configured tracker; a run that was tracked to its end is not tracked again.

    Nothing is tracked either where `tracking.mode=auto` and WANDB_MODE, W&B's own variable, says "disabled".
    """
    if not isinstance(settings, WandbTracking) or is_finished:
        return Tracker()
    if settings.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled":
        return Tracker()
    from tpo.results.tracking.wandb_tracker import WandbTracker  # imports scipy, for which nobody else has to wait

    return WandbTracker(settings, run_path=run_path, config=config, labels=labels)


def log_evaluation(
    settings: TrackingConfig, *, run_path: Path, config: dict[str, Any], summary: dict[str, Any], labels: Labels
) -> None:
    """Log an evaluation as a W&B run of its own, once."""
    done = run_path / TRACKED
    tracker = load_tracker(settings, run_path=run_path, config=config, labels=labels, is_finished=done.exists())
    try:
        where = tracker.finish(summary, sorted((run_path / "figures").glob("*.png")))
    except BaseException:
        tracker.fail()
        raise
    if where is not None:
        write_json(done, where)
