"""Where metrics go while a run proceeds: Weights & Biases, or nowhere.

A job is one W&B run with the job type "run" or "evaluate", a sweep is a group (`tpo.results.tracking.labels`). Stable names:

history, over `iteration` (0 is the untrained policy)
    eval/win_rate, eval/win_rate_length_controlled, each also with _low, _high, _num_prompts, _num_unscored
    eval/category/<category>    win rate
    eval/mean_thought_tokens, eval/mean_response_tokens, eval/format_rate, eval/parse_rate, eval/mean_score
    sample/*, judge/*           what the stages that sampled and judged the training completions counted
    pairs/num_pairs, pairs/drop_<reason>
    tables/samples, tables/pairs
    tables/category_gains       a row per category (`tpo.results.tracking.metrics.GAIN_COLUMNS`)
    charts/category_gains       bars of the same gains
history, over `train/step`, which keeps counting across iterations
    train/*                     trl's own names, and train/iteration
summary of a run
    final_win_rate, final_win_rate_length_controlled, final_minus_iteration_0 (paired by instruction), each also with
    _low, _high, _num_prompts, _num_unscored; final_minus_iteration_0_p_value
    final_mean_thought_tokens, final_mean_response_tokens
    final_validation_score      the selected epoch's mean judge score: a pairwise judge's compares with no other run's
    num_iterations, num_pairs (of all iterations), num_stages, num_stages_reused
    total_seconds               of all stages, whoever computed them: what the run costs by itself
    computed_seconds            of those that this job computed
summary of an evaluation
    eval/<key>/...              the numbers of its `summary.json`, as they are nested

`figures/*` are the run's figures. Artifacts: `tpo.results.tracking.lineage`, and with `tracking.upload_adapters` the selected
adapters as `adapter-<run>:iteration-<n>`.
"""

import os
from pathlib import Path
from typing import Any, Protocol

from tpo.config.groups import TrackingConfig
from tpo.config.tracking import WandbTracking
from tpo.results.tracking.labels import Labels
from tpo.store.artifacts import Artifact
from tpo.store.files import write_json

TRACKED = "tracking.json"  # in a run's folder: where it was tracked, once it was to its end


class Tracker(Protocol):
    """Receives a run's results in the order in which they come."""

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

    def finish_evaluation(self, summary: dict[str, Any], figures: list[Path]) -> dict[str, Any] | None:
        """End an evaluation with its only results; return where it was tracked, or None."""

    def fail(self) -> None:
        """End the run as failed; does nothing after `finish`."""


class NullTracker:
    """Tracks nothing; `summary.json` and the artifacts hold everything."""

    def log_iteration(self, entry: dict[str, Any]) -> None:
        """Do nothing."""

    def log_comparison(self, iteration: int, comparison: Artifact) -> None:
        """Do nothing."""

    def log_training(self, iteration: int, checkpoints: Artifact) -> None:
        """Do nothing."""

    def log_tables(self, iteration: int, completions: Artifact, scores: Artifact, pairs: Artifact) -> None:
        """Do nothing."""

    def log_adapter(self, iteration: int, checkpoints: Artifact, epoch: int) -> None:
        """Do nothing."""

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> dict[str, Any] | None:
        """Do nothing."""
        return None

    def finish_evaluation(self, summary: dict[str, Any], figures: list[Path]) -> dict[str, Any] | None:
        """Do nothing."""
        return None

    def fail(self) -> None:
        """Do nothing."""


def load_tracker(
    settings: TrackingConfig, *, run_path: Path, config: dict[str, Any], labels: Labels, is_finished: bool
) -> Tracker:
    """Return the configured tracker; a run that was tracked to its end is not tracked again.

    Nothing is tracked either where `tracking.mode=auto` and WANDB_MODE, W&B's own variable, says "disabled".
    """
    if not isinstance(settings, WandbTracking) or is_finished:
        return NullTracker()
    if settings.mode == "auto" and os.environ.get("WANDB_MODE") == "disabled":
        return NullTracker()
    from tpo.results.tracking.wandb_tracker import WandbTracker  # imports scipy, for which nobody else has to wait

    return WandbTracker(settings, run_path=run_path, config=config, labels=labels)


def log_evaluation(
    settings: TrackingConfig, *, run_path: Path, config: dict[str, Any], summary: dict[str, Any], labels: Labels
) -> None:
    """Log an evaluation as a W&B run of its own, once."""
    done = run_path / TRACKED
    tracker = load_tracker(settings, run_path=run_path, config=config, labels=labels, is_finished=done.exists())
    try:
        where = tracker.finish_evaluation(summary, sorted((run_path / "figures").glob("*.png")))
    except BaseException:
        tracker.fail()
        raise
    if where is not None:
        write_json(done, where)
