"""Which tracker a job has: the configured one, or one that tracks nothing."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from tpo.config.groups import TrackingConfig
from tpo.config.tracking import WandbTracking
from tpo.results.tracking.connect import TrackingError, choose_mode
from tpo.results.tracking.labels import Labels
from tpo.results.tracking.tracker import Tracker
from tpo.store.files import write_json

log = logging.getLogger(__name__)

TRACKED = "tracking.json"  # in a run's folder: where it was tracked, once it was to its end


def load_tracker(settings: TrackingConfig, *, run_path: Path, config: dict[str, Any], labels: Labels) -> Tracker:
    """Return the configured tracker; a run that was tracked to its end is not tracked again.

    One that was tracked offline is, when it can be online now. Nothing is tracked where `tracking.mode=auto` and
    WANDB_MODE, W&B's own variable, says "disabled".

    Raises:
        TrackingError: If the run cannot be tracked as it is to be, or the file that says where it was is damaged.
    """
    if not isinstance(settings, WandbTracking):
        return Tracker()
    if settings.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled":
        return Tracker()
    done = run_path / TRACKED
    was_tracked = done.exists()
    if was_tracked and _mode_before(done) != "offline":
        return Tracker()
    mode, reason = choose_mode(settings.mode)
    if was_tracked and mode != "online":
        return Tracker()
    from tpo.results.tracking.wandb_tracker import WandbTracker  # imports scipy, for which nobody else has to wait

    tracker = WandbTracker(settings, run_path=run_path, config=config, labels=labels, mode=mode)
    if reason := reason or tracker.why_offline:
        log.warning("%s: this run is tracked offline", reason)
    return tracker


def _mode_before(done: Path) -> str:
    try:
        return str(json.loads(done.read_text())["mode"])
    except (ValueError, TypeError, KeyError) as error:
        raise TrackingError(f"{done} is damaged: delete it, and the run is tracked again") from error


def log_evaluation(
    settings: TrackingConfig, *, run_path: Path, config: dict[str, Any], summary: dict[str, Any], labels: Labels
) -> None:
    """Log an evaluation as a W&B run of its own, once."""
    tracker = load_tracker(settings, run_path=run_path, config=config, labels=labels)
    try:
        where = tracker.finish(summary, sorted((run_path / "figures").glob("*.png")))
    except BaseException:
        tracker.fail()
        raise
    if where is not None:
        write_json(run_path / TRACKED, where)
