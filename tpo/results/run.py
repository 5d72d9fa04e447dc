"""What a run leaves behind: `summary.json`, figures, a page, tables in the terminal, and a W&B run."""

import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from tpo.config.schema import Config
from tpo.judge.select import Selection
from tpo.results.folder import own_folder
from tpo.results.rate import Rate, format_rate
from tpo.results.read import FinishedRun
from tpo.results.run_tables import run_tables
from tpo.results.text_table import print_tables
from tpo.results.tracking import TRACKED, load_tracker
from tpo.results.tracking.labels import Launch, command, run_labels
from tpo.store.artifacts import Artifact
from tpo.store.files import translate_disk_errors, write_json

log = logging.getLogger(__name__)


class Run:
    """One run's folder `<runs_dir>/<experiment>-<hash of the config>` and its records."""

    def __init__(self, config: Config, *, experiment: str, launch: Launch | None = None) -> None:
        """Make the folder, write the composed config and start tracking unless this run was tracked to its end.

        One process at a time has a run: another that is started on it waits here, then finds all stages computed and
        the run tracked. As a context, the run is given back at the end, and an error ends tracking as failed.
        """
        self.config, self.experiment = config, experiment
        self._plain, self._launch = asdict(config), launch or Launch()
        self.iterations: list[dict[str, Any]] = []
        with ExitStack() as stack:  # gives the run back if the rest fails
            self.path = stack.enter_context(own_folder(experiment, self._plain))
            self.tracker = load_tracker(
                config.tracking,
                run_path=self.path,
                config=self._plain,
                labels=run_labels(self._launch, experiment=experiment),
                is_finished=(self.path / TRACKED).exists(),
            )
            self._lock = stack.pop_all()

    def __enter__(self) -> Self:
        """Return the run."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End tracking as failed after an error, and let the next process have the run."""
        try:
            if kind is not None:
                self.tracker.fail()
        finally:
            self._lock.close()

    def record(
        self,
        iteration: int,
        answers: Artifact,
        *,
        comparison: Artifact,
        completions: Artifact | None = None,
        scores: Artifact | None = None,
        pairs: Artifact | None = None,
        checkpoints: Artifact | None = None,
        selection: Selection | None = None,
    ) -> None:
        """Add an iteration's results; iteration 0 has no training."""
        sampled = answers.metrics
        roles = {
            "answers": answers,
            "comparison": comparison,
            "completions": completions,
            "scores": scores,
            "pairs": pairs,
            "train": checkpoints,
        }
        artifacts = {role: artifact for role, artifact in roles.items() if artifact is not None}
        entry: dict[str, Any] = {
            "iteration": iteration,
            **comparison.metrics,
            "mean_thought_tokens": sampled["mean_thought_tokens"],
            "mean_response_tokens": sampled["mean_response_tokens"],
            "format_rate": sampled["format_rate"],
            "parse_rate": sampled["parse_rate"],
            "num_pairs": pairs.metrics["num_pairs"] if pairs else 0,
            "drops": pairs.metrics["drops"] if pairs else {},
            "sampling": _without_speed(completions.metrics) if completions else None,
            "judging": scores.metrics if scores else None,
            "training": checkpoints.metrics if checkpoints else None,
            "adapter": f"{checkpoints.artifact_id}/epoch-{selection.epoch}" if checkpoints and selection else None,
            "validation_scores": {str(key): value for key, value in selection.mean_scores.items()} if selection else {},
            "artifacts": {role: artifact.artifact_id for role, artifact in artifacts.items()},
        }
        self.iterations.append(entry)
        self.tracker.log_iteration(entry, artifacts)
        rate = format_rate(Rate.from_dict(entry["win_rate"]))
        log.info("iteration %d: win rate %s, %d pairs", iteration, rate, entry["num_pairs"])

    def finish(self, stages: list[Artifact]) -> Path:
        """Write `summary.json`, the figures and the page, print the tables, end tracking; return the folder."""
        from tpo.results.figures import write_figures
        from tpo.results.page.page import write_page

        summary = {
            "experiment": self.experiment,
            "command": command(self._launch, experiment=self.experiment),
            "seed": self.config.seed,
            "baseline": f"{self.config.model.name}, direct answers",
            "confidence": self.config.eval.confidence,
            "thought": self.config.thought.name,
            "judge": self.config.judge.kind,
            "iterations": self.iterations,
            "stages": stage_list(stages, run=self.path.name),
        }
        with translate_disk_errors(self.path):
            write_json(self.path / "summary.json", summary)
            finished = FinishedRun(self.path, summary, self._plain)
            figures = write_figures(finished, self.path / "figures")
            write_page(finished)
        print_tables(*run_tables(summary))
        num_computed = sum(not artifact.is_reused for artifact in stages)
        log.info("%d stages, of which this process computed %d", len(stages), num_computed)
        where = self.tracker.finish(summary, figures)
        if where is not None:
            write_json(self.path / TRACKED, where)
        return self.path


def _without_speed(metrics: dict[str, Any]) -> dict[str, Any]:
    """Speed depends on the machine's load, a summary must not."""
    return {key: value for key, value in metrics.items() if key != "tokens_per_second"}


def stage_list(stages: Sequence[Artifact], *, run: str) -> list[dict[str, Any]]:
    """Return the stages in order, with seconds and whether each was reused, for `summary.json`.

    Reused is what was not computed for the run of this name, in whichever of its processes; so that every attempt at a
    run, and every process that has a part in it, gives the same list.
    """
    return [
        {
            "artifact_id": artifact.artifact_id,
            "stage": artifact.manifest["stage"],
            "seconds": artifact.seconds,
            "is_reused": artifact.manifest.get("run") != run,  # other entry points have no run
        }
        for artifact in stages
    ]
