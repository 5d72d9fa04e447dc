"""What a run leaves behind: `summary.json`, figures, a page, tables in the terminal, and a W&B run."""

import json
import logging
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Self

from tpo.config.schema import Config
from tpo.judge.select import Selection
from tpo.results import change
from tpo.results.checked import checked_change
from tpo.results.folder import settings_of, stage_list
from tpo.results.headline import changes
from tpo.results.read import FinishedRun
from tpo.results.run_tables import run_tables
from tpo.results.text_table import print_tables
from tpo.results.tracking import TRACKED, load_tracker
from tpo.results.tracking.labels import Launch, command, run_labels
from tpo.store.artifacts import Artifact
from tpo.store.files import SealError, json_digest, read_sealed, translate_disk_errors, write_json, write_sealed
from tpo.store.records import CheckResult, Comparison
from tpo.store.seeds import derive_seed

log = logging.getLogger(__name__)


class Run:
    """One run's records, in its folder; a context, in which an error ends tracking as failed."""

    def __init__(self, config: Config, path: Path, *, experiment: str, launch: Launch | None = None) -> None:
        """Start tracking in the folder `path`, which is this process's own, unless the run was tracked to its end."""
        self.config, self.path, self.experiment = config, path, experiment
        self._plain, self._launch = asdict(config), launch or Launch()
        self.iterations: list[dict[str, Any]] = []
        self.null_control: dict[str, Any] | None = None
        self._untrained: list[Comparison] = []
        self._second_untrained: list[Comparison] = []
        self._untrained_checked: list[CheckResult] = []
        self.baseline_checked: dict[str, Any] | None = None
        labels = run_labels(self._launch, experiment=experiment)
        self.tracker = load_tracker(config.tracking, run_path=path, config=self._plain, labels=labels)

    def __enter__(self) -> Self:
        """Return the run."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """End tracking as failed after an error."""
        if kind is not None:
            self.tracker.fail()

    def record(
        self,
        iteration: int,
        answers: Artifact,
        *,
        comparison: Artifact,
        second_comparison: Artifact | None = None,
        null_control: Artifact | None = None,
        completions: Artifact | None = None,
        scores: Artifact | None = None,
        pairs: Artifact | None = None,
        checkpoints: Artifact | None = None,
        selection: Selection | None = None,
        checked: Artifact | None = None,
        baseline_checked: Artifact | None = None,
        collapse: str | None = None,
    ) -> None:
        """Add an iteration's results; iteration 0 has no training, and may have the null control.

        `collapse` says how the policy has collapsed, if it has.
        """
        sampled = answers.metrics
        roles = {
            "answers": answers,
            "comparison": comparison,
            "second_comparison": second_comparison,
            "null_control": null_control,
            "completions": completions,
            "scores": scores,
            "pairs": pairs,
            "train": checkpoints,
            "checked": checked,
            "baseline_checked": baseline_checked,
        }
        artifacts = {role: artifact for role, artifact in roles.items() if artifact is not None}
        entry: dict[str, Any] = {
            "iteration": iteration,
            **comparison.metrics,
            "checked": checked.metrics if checked else None,
            "change": self._change(iteration, comparison, checked),
            "second_judge": self._second_judge(iteration, comparison, second_comparison),
            "mean_thought_tokens": sampled["mean_thought_tokens"],
            "mean_response_tokens": sampled["mean_response_tokens"],
            "format_rate": sampled["format_rate"],
            "parse_rate": sampled["parse_rate"],
            "cut_thought_rate": sampled["cut_thought_rate"],
            "empty_thought_rate": sampled["empty_thought_rate"],
            "num_pairs": pairs.metrics["num_pairs"] if pairs else 0,
            "drops": pairs.metrics["drops"] if pairs else {},
            "sampling": _without_speed(completions.metrics) if completions else None,
            "judging": scores.metrics if scores else None,
            "training": checkpoints.metrics if checkpoints else None,
            "adapter": f"{checkpoints.artifact_id}/epoch-{selection.epoch}" if checkpoints and selection else None,
            "validation_scores": _by_epoch(selection.mean_scores) if selection else {},
            "validation_responses": _by_epoch(selection.num_responses) if selection else {},
            "num_validation_answers": selection.num_completions if selection else 0,
            "collapse": collapse,
            "artifacts": {role: artifact.artifact_id for role, artifact in artifacts.items()},
        }
        self.iterations.append(entry)
        self.tracker.log_iteration(entry, artifacts)
        if baseline_checked is not None:
            self.baseline_checked = baseline_checked.metrics
        if null_control is not None:
            rows, confidence = list(null_control.rows(Comparison)), self.config.eval.confidence
            self.null_control = change.null_control(rows, confidence=confidence, seed=self._seed("null"))
        log.info("iteration %d: %s", iteration, self.told())
        if collapse is not None:
            ends = ", so the run ends here; on_collapse=continue goes on" if self.config.on_collapse == "stop" else ""
            log.warning("iteration %d: %s%s", iteration, collapse, ends)

    def told(self) -> str:
        """Return the last iteration in a line: what has changed since the untrained policy, first of all."""
        return next(change.sentence() for change in changes({"iterations": self.iterations}))

    def _change(self, iteration: int, comparison: Artifact, checked: Artifact | None) -> dict[str, Any] | None:
        """Return what changed since the untrained policy; None at iteration 0, whose rows are kept."""
        rows = list(comparison.rows(Comparison))
        results = list(checked.rows(CheckResult)) if checked else []
        if iteration == 0:
            self._untrained, self._untrained_checked = rows, results
            return None
        confidence, seed = self.config.eval.confidence, self._seed("change")
        rates = change.compared_change(self._untrained, rows, confidence=confidence, seed=seed)
        found: dict[str, Any] = {name: rate.to_dict() for name, rate in rates.items()}
        if checked is not None:
            found |= checked_change(
                self._untrained_checked,
                results,
                bases={row.prompt_id: row.base_id for row in rows},
                unseen=checked.metrics["unseen_types"],
                confidence=confidence,
                seed=seed,
            )
        return found

    def _second_judge(self, iteration: int, comparison: Artifact, second: Artifact | None) -> dict[str, Any] | None:
        if second is None:
            return None
        rows, others = (list(artifact.rows(Comparison)) for artifact in (comparison, second))
        judge: Any = getattr(self.config.eval, "judge", None)  # a `JudgeConfig`; an `EvalConfig` of a run has one
        if iteration == 0:
            self._second_untrained = others
        return change.second_judge(
            judge.title,
            rows,
            others,
            untrained=self._second_untrained if iteration else None,
            confidence=self.config.eval.confidence,
            seed=self._seed("second"),
        )

    def _seed(self, name: str) -> int:
        return derive_seed(self.config.seed, name)

    def finish(self, stages: list[Artifact]) -> None:
        """Write `summary.json`, the figures and the page, print the tables, end tracking."""
        from tpo.results.figures import write_figures
        from tpo.results.page.report import write_page

        summary = {
            "experiment": self.experiment,
            "command": command(self._launch, experiment=self.experiment),
            "settings": settings_of(self._plain),
            "seed": self.config.seed,
            "baseline": f"{self.config.model.name}, {self.config.model.baseline_manner}",
            "confidence": self.config.eval.confidence,
            "thought": self.config.thought.name,
            "judge": self.config.judge.title,
            "null_control": self.null_control,
            "baseline_checked": self.baseline_checked,
            "collapse": first_collapse(self.iterations),
            "iterations": self.iterations,
            "stages": stage_list(stages, run=self.path.name),
        }
        with translate_disk_errors(self.path):
            forget_other_results(self.path, self.iterations)
            write_sealed(self.path / "summary.json", summary)
            finished = FinishedRun(self.path, summary, self._plain)
            figures = write_figures(finished, self.path / "figures")
            write_page(finished)
        print_tables(*run_tables(summary))
        num_computed = sum(not artifact.is_reused for artifact in stages)
        log.info("%d stages, of which this process computed %d", len(stages), num_computed)
        where = self.tracker.finish(summary, figures)
        if where is not None:
            write_json(self.path / TRACKED, where)


def forget_other_results(path: Path, iterations: Sequence[dict[str, Any]]) -> None:
    """Have the next repetition track a run again that was tracked with other results.

    Its artifacts were computed anew since, so that what a tracker shows is no longer what the folder holds.

    Args:
        path: The run's folder, with the summary of before, if there was one.
        iterations: Of the summary now.
    """
    if not (path / TRACKED).exists() or not (path / "summary.json").exists():
        return
    with suppress(SealError):  # of a summary that cannot be read, nothing is known
        before = read_sealed(path / "summary.json")["iterations"]
        if json_digest(before) != json_digest(json.loads(json.dumps(iterations))):
            (path / TRACKED).unlink()
            log.warning(
                "%s: these are other results than those that were tracked, since artifacts were computed anew; repeat "
                "the command to track these",
                path,
            )


def _by_epoch(values: Mapping[int, Any]) -> dict[str, Any]:
    return {str(epoch): value for epoch, value in values.items()}


def first_collapse(iterations: Sequence[dict[str, Any]]) -> str | None:
    """Return the sentence of the first iteration whose policy had collapsed, with its number."""
    found = (f"iteration {entry['iteration']}: {entry['collapse']}" for entry in iterations if entry["collapse"])
    return next(found, None)


def _without_speed(metrics: dict[str, Any]) -> dict[str, Any]:
    """Speed depends on the machine's load, a summary must not."""
    return {key: value for key, value in metrics.items() if key != "tokens_per_second"}
