"""Where metrics go while a run proceeds: Weights & Biases, or nowhere.

Metric names are stable: `eval/*`, `sample/*`, `judge/*`, `pairs/*` over `iteration`, and trl's own names under
`train/*` over `train/step`, which keeps counting across iterations.
"""

import json
import netrc
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from tpo.artifacts import Artifact, write_json
from tpo.config import TrackingConfig, WandbTracking
from tpo.records import Completion, Pair, Score

TRACKED = "tracking.json"  # in a run's folder: where it was tracked, once it was to its end


class Tracker(Protocol):
    """Receives a run's results in the order in which they come."""

    def log_iteration(self, entry: dict[str, Any]) -> None:
        """Log an entry of `summary.json`'s `iterations`."""

    def log_training(self, iteration: int, checkpoints: Artifact) -> None:
        """Log the training curve."""

    def log_tables(self, iteration: int, completions: Artifact, scores: Artifact, pairs: Artifact) -> None:
        """Log samples and pairs as tables."""

    def log_adapter(self, iteration: int, checkpoints: Artifact, epoch: int) -> None:
        """Log the selected adapter."""

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> dict[str, Any] | None:
        """End the run; return where it was tracked, or None."""


class NullTracker:
    """Tracks nothing; `summary.json` and the artifacts hold everything."""

    def log_iteration(self, entry: dict[str, Any]) -> None:
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


class WandbTracker:
    """Tracks in Weights & Biases; offline where no key is found, to be synced later."""

    def __init__(self, settings: WandbTracking, *, run_path: Path, config: dict[str, Any]) -> None:
        """Start the run; its id is the run folder's name, so that a continued run stays one run."""
        import wandb

        self.settings = settings
        mode = settings.mode
        if mode == "auto":
            mode = "online" if has_wandb_key() else "offline"
        self.mode = mode
        self.run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            group=settings.group,
            name=run_path.name,
            id=run_path.name,
            resume="allow",
            dir=str(run_path),
            config=config,
            mode=mode,  # type: ignore[arg-type]  # checked by tpo.check
            settings=wandb.Settings(console="off", silent=True),
        )
        self.run.define_metric("iteration")
        self.run.define_metric("train/step")
        for stage in ("eval", "sample", "judge", "pairs", "tables"):
            self.run.define_metric(f"{stage}/*", step_metric="iteration")
        self.run.define_metric("train/*", step_metric="train/step")
        self.num_steps = 0

    def log_iteration(self, entry: dict[str, Any]) -> None:
        """Log an entry of `summary.json`'s `iterations`."""
        self.run.log(iteration_metrics(entry))

    def log_training(self, iteration: int, checkpoints: Artifact) -> None:
        """Log trl's metrics of every step."""
        for line in (checkpoints.path / "metrics.jsonl").read_text().splitlines():
            self.num_steps += 1
            values = {f"train/{name}": value for name, value in json.loads(line).items()}
            self.run.log({**values, "train/step": self.num_steps, "train/iteration": iteration})

    def log_tables(self, iteration: int, completions: Artifact, scores: Artifact, pairs: Artifact) -> None:
        """Log the first `tracking.table_rows` samples and pairs."""
        import wandb

        limit = self.settings.table_rows
        found = {(row.prompt_id, row.sample_index): row for row in scores.rows(Score)}
        samples = wandb.Table(
            columns=["prompt_id", "sample_index", "score", "thought", "response", "split_error", "is_forced"]
        )
        for row in completions.rows(Completion)[:limit]:
            score = found[row.prompt_id, row.sample_index].score
            is_forced = row.forced_stop > row.forced_start
            samples.add_data(
                row.prompt_id, row.sample_index, score, row.thought, row.response, row.split_error, is_forced
            )
        chosen = wandb.Table(columns=["prompt_id", "margin", "chosen_score", "rejected_score", "chosen", "rejected"])
        for pair in pairs.rows(Pair)[:limit]:
            chosen.add_data(
                pair.prompt_id, pair.margin, pair.chosen_score, pair.rejected_score, pair.chosen, pair.rejected
            )
        self.run.log({"iteration": iteration, "tables/samples": samples, "tables/pairs": chosen})

    def log_adapter(self, iteration: int, checkpoints: Artifact, epoch: int) -> None:
        """Log the selected adapter as a model artifact, unless `tracking.upload_adapters` is off."""
        import wandb

        if not self.settings.upload_adapters:
            return
        artifact = wandb.Artifact(
            f"adapter-{self.run.id}", type="model", metadata={"iteration": iteration, "source": checkpoints.artifact_id}
        )
        artifact.add_dir(str(checkpoints.path / f"epoch-{epoch}"))
        self.run.log_artifact(artifact, aliases=[f"iteration-{iteration}"])

    def finish(self, summary: dict[str, Any], figures: list[Path]) -> dict[str, Any] | None:
        """Log the figures, set the run's summary and end it."""
        import wandb

        self.run.log({f"figures/{path.stem}": wandb.Image(str(path)) for path in figures})
        last = summary["iterations"][-1]
        self.run.summary.update({"final_win_rate": last["win_rate"]["rate"], "num_iterations": last["iteration"]})
        where = {"mode": self.mode, "run_id": self.run.id, "url": self.run.url}
        self.run.finish()
        return where


def log_evaluation(
    settings: TrackingConfig, *, run_path: Path, config: dict[str, Any], summary: dict[str, Any]
) -> None:
    """Log an evaluation as a W&B run of its own, once: numbers as `eval/<key>/...`, as they are nested, and figures."""
    done = run_path / TRACKED
    tracker = load_tracker(settings, run_path=run_path, config=config, is_finished=done.exists())
    if not isinstance(tracker, WandbTracker):
        return
    import wandb

    tracker.run.summary.update(dict(_numbers(summary, "eval")))
    tracker.run.log(
        {f"figures/{path.stem}": wandb.Image(str(path)) for path in sorted((run_path / "figures").glob("*.png"))}
    )
    where = {"mode": tracker.mode, "run_id": tracker.run.id, "url": tracker.run.url}
    tracker.run.finish()
    write_json(done, where)


def _numbers(value: Any, name: str) -> Iterator[tuple[str, float]]:
    """Yield every number within nested dictionaries and lists, with its path; a list's items go by their names."""
    if isinstance(value, bool):
        return
    if isinstance(value, (int, float)):
        yield name, float(value)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _numbers(item, f"{name}/{key}")
    elif isinstance(value, list):
        for position, item in enumerate(value):
            key = item.get("name", item.get("max_thought_tokens", position)) if isinstance(item, dict) else position
            yield from _numbers(item, f"{name}/{key}")


def iteration_metrics(entry: dict[str, Any]) -> dict[str, Any]:
    """Return an iteration's flat metrics under their W&B names; what was not measured is left out."""
    metrics: dict[str, Any] = {"iteration": entry["iteration"]}
    for key in ("win_rate", "win_rate_length_controlled"):
        rate = entry[key]
        metrics[f"eval/{key}"] = rate["rate"]
        if rate["interval"] is not None:
            metrics[f"eval/{key}_low"], metrics[f"eval/{key}_high"] = rate["interval"]
        metrics[f"eval/{key}_num_prompts"] = rate["num_prompts"]
    for name, rate in entry["categories"].items():
        metrics[f"eval/category/{name}"] = rate["rate"]
    for key in ("mean_thought_tokens", "mean_response_tokens", "format_rate", "parse_rate", "mean_score"):
        metrics[f"eval/{key}"] = entry[key]
    metrics["pairs/num_pairs"] = entry["num_pairs"]
    for reason, count in entry["drops"].items():
        metrics[f"pairs/drop_{reason}"] = count
    for stage, found in (("sample", entry["sampling"]), ("judge", entry["judging"])):
        for name, value in (found or {}).items():
            if isinstance(value, (int, float)):
                metrics[f"{stage}/{name}"] = value
    return {name: value for name, value in metrics.items() if value is not None}


def has_wandb_key() -> bool:
    """Return whether a W&B key is in the environment or in the user's netrc file."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai").split("//")[-1].split("/")[0]
    try:
        return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError):
        return False


def load_tracker(settings: TrackingConfig, *, run_path: Path, config: dict[str, Any], is_finished: bool) -> Tracker:
    """Return the configured tracker; a run that was tracked to its end is not tracked again."""
    if isinstance(settings, WandbTracking) and not is_finished:
        return WandbTracker(settings, run_path=run_path, config=config)
    return NullTracker()
