"""What a run leaves behind: `summary.json`, figures, a report, a table in the terminal, and a W&B run."""

import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple, Self

from tpo.config.schema import Config
from tpo.judge.select import Selection
from tpo.pipeline import stage_list
from tpo.results.tracking import TRACKED, load_tracker
from tpo.results.tracking.labels import Launch, run_labels
from tpo.store.artifacts import LOCK, Artifact, content_hash, translate_disk_errors, write_json
from tpo.store.locks import hold

log = logging.getLogger(__name__)

# What a run's identity leaves out: where things lie, how stages are started, where metrics go.
NOT_IDENTITY = ("artifacts_dir", "runs_dir", "export_dir", "isolate_stages", "tracking")
# What a summary tells about its making, not about its result.
NOT_RESULT = ("seconds", "is_reused")


def run_name(name: str, config: dict[str, Any]) -> str:
    """Return `<name>-<hash of the config>`, the name of a run and of its folder.

    Args:
        name: Of the experiment.
        config: The composed config as a dictionary.
    """
    identity = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    return f"{name}-{content_hash(identity)}"


@contextmanager
def own_folder(name: str, config: dict[str, Any]) -> Iterator[Path]:
    """Make the folder of `run_name` in `runs_dir`, write the config to it, and give its path.

    One process at a time has a folder: another that asks for the same waits here and says so.
    """
    path = Path(config["runs_dir"]) / run_name(name, config)
    with ExitStack() as stack:
        with translate_disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(path / LOCK, purpose=str(path)))
            write_json(path / "config.json", config)
        yield path


class Run:
    """One run's folder `<runs_dir>/<experiment>-<hash of the config>` and its records."""

    def __init__(self, config: Config, *, experiment: str, launch: Launch | None = None) -> None:
        """Make the folder, write the composed config and start tracking unless this run was tracked to its end.

        One process at a time has a run: another that is started on it waits here, then finds all stages computed and
        the run tracked. As a context, the run is given back at the end, and an error ends tracking as failed.
        """
        self.config, self.experiment = config, experiment
        plain = asdict(config)
        self.iterations: list[dict[str, Any]] = []
        with ExitStack() as stack:  # gives the run back if the rest fails
            self.path = stack.enter_context(own_folder(experiment, plain))
            self.tracker = load_tracker(
                config.tracking,
                run_path=self.path,
                config=plain,
                labels=run_labels(launch or Launch(), experiment=experiment),
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
            "artifacts": {
                role: artifact.artifact_id
                for role, artifact in {
                    "answers": answers,
                    "comparison": comparison,
                    "completions": completions,
                    "scores": scores,
                    "pairs": pairs,
                    "train": checkpoints,
                }.items()
                if artifact is not None
            },
        }
        self.iterations.append(entry)
        self.tracker.log_iteration(entry)
        self.tracker.log_comparison(iteration, comparison)
        if completions and scores and pairs and checkpoints and selection:
            self.tracker.log_training(iteration, checkpoints)
            self.tracker.log_tables(iteration, completions, scores, pairs)
            self.tracker.log_adapter(iteration, checkpoints, selection.epoch)
        rate = entry["win_rate"]
        log.info("iteration %d: win rate %s, %d pairs", iteration, format_rate(rate), entry["num_pairs"])

    def finish(self, stages: list[Artifact]) -> Path:
        """Write `summary.json`, the figures and the report, print the table, end tracking; return the folder."""
        from tpo.results.figures import write_figures
        from tpo.results.page.page import write_report

        summary = {
            "experiment": self.experiment,
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
            figures = write_figures(summary, self.path / "figures")
            write_report(self.path)
        print_summary(summary)
        num_computed = sum(not artifact.is_reused for artifact in stages)
        log.info("%d stages, of which this process computed %d", len(stages), num_computed)
        where = self.tracker.finish(summary, figures)
        if where is not None:
            write_json(self.path / TRACKED, where)
        return self.path


def _without_speed(metrics: dict[str, Any]) -> dict[str, Any]:
    """Speed depends on the machine's load, a summary must not."""
    return {key: value for key, value in metrics.items() if key != "tokens_per_second"}


def first_difference(first: dict[str, Any], second: dict[str, Any]) -> str | None:
    """Return where the summaries of a run and of its repetition differ, or None where they agree to the last digit.

    How long stages took and whether they were reused does not count; all else must not depend on when a run is
    started, by which launcher, or beside which others.

    Returns:
        The first value that differs and both of its values, for example `iterations/1/win_rate/rate: 0.5 and 0.75`.
    """
    one, other = dict(_leaves(first)), dict(_leaves(second))
    for path in {**one, **other}:
        values = one.get(path, "absent"), other.get(path, "absent")
        if values[0] != values[1]:
            return f"{path}: {values[0]} and {values[1]}"
    return None


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the values within dictionaries and lists, with their paths; an empty one is a value."""
    if not isinstance(value, (dict, list)) or not value:
        yield path, value
        return
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if key not in NOT_RESULT:
            yield from _leaves(item, f"{path}/{key}" if path else str(key))


def format_rate(rate: dict[str, Any]) -> str:
    """Return a win rate as text: percent with its interval, or "unscored"."""
    if rate["rate"] is None:
        return "unscored"
    low, high = rate["interval"]
    return f"{100 * rate['rate']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _count(rate: dict[str, Any]) -> str:
    unscored = f" (+{rate['num_unscored']} unscored)" if rate["num_unscored"] else ""
    return f"{rate['num_prompts']}{unscored}"


class TextTable(NamedTuple):
    """A table of a run as text, for the terminal and the report."""

    title: str
    names: tuple[str, ...]  # of the columns
    rows: Sequence[tuple[str, ...]]


def iterations_table(summary: dict[str, Any]) -> TextTable:
    """Return the iterations of a run, one row each."""
    rows = [
        (
            str(entry["iteration"]),
            format_rate(entry["win_rate"]),
            format_rate(entry["win_rate_length_controlled"]),
            _count(entry["win_rate"]),
            f"{entry['mean_thought_tokens']:.0f}",
            f"{entry['mean_response_tokens']:.0f}",
            f"{100 * entry['format_rate']:.0f} %",
            str(entry["num_pairs"]),
        )
        for entry in summary["iterations"]
    ]
    names = ("iteration", "win rate", "length-controlled", "n", "thought tok.", "response tok.", "format", "pairs")
    title = f"{summary['experiment']}: policy against {summary['baseline']} (judge: {summary['judge']})"
    return TextTable(title, names, rows)


def categories_table(summary: dict[str, Any]) -> TextTable:
    """Return the win rates by category, of the first and of the last iteration."""
    first, last = summary["iterations"][0], summary["iterations"][-1]
    rows = [
        (name, format_rate(first["categories"][name]), format_rate(rate), _count(rate))
        for name, rate in last["categories"].items()
    ]
    title = f"win rate by category: iteration {first['iteration']} and {last['iteration']}"
    return TextTable(title, ("category", "before", "after", "n"), rows)


def print_summary(summary: dict[str, Any]) -> None:
    """Print the iterations and the last iteration's categories as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)  # a log wraps nothing
    for content in (iterations_table(summary), categories_table(summary)):
        table = Table(title=content.title)
        for name in content.names:
            table.add_column(name, justify="left" if name == "category" else "right")
        for row in content.rows:
            table.add_row(*row)
        console.print(table)
