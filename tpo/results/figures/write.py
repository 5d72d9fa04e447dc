"""Which figures a run has, written as files or as text for its page; and those that compare runs."""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tpo.results.figures.changes import draw_categories, draw_changes, draw_types, has_types
from tpo.results.figures.iterations import (
    draw_iterations,
    draw_lengths,
    draw_run,
    draw_run_lengths,
    with_length_intervals,
)
from tpo.results.figures.style import save, svg_text
from tpo.results.figures.training import draw_training
from tpo.results.read import FinishedRun
from tpo.results.run_tables import large_categories
from tpo.store.errors import TpoError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


def write_figures(run: FinishedRun, directory: Path, *, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write the figures of a run and return their paths."""
    return [path for name, draw in _drawings(run).items() for path in save(draw(), directory, name, formats=formats)]


def svg_figures(run: FinishedRun) -> dict[str, str]:
    """Return the same figures as SVG documents, by their names."""
    return {name: svg_text(draw()) for name, draw in _drawings(run).items()}


def write_comparison(runs: Mapping[str, FinishedRun], directory: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write the figures `changes`, `iterations` and `lengths`, which compare runs, and return their paths.

    Keys name the runs.
    """
    summaries = {label: run.summary for label, run in runs.items()}
    figures = {
        "changes": draw_changes(summaries),
        "iterations": draw_iterations(summaries),
        "lengths": draw_lengths({label: with_length_intervals(run) for label, run in runs.items()}),
    }
    return [path for name, figure in figures.items() for path in save(figure, directory, name, formats=formats)]


def _drawings(run: FinishedRun) -> dict[str, Callable[[], "Figure"]]:
    """Return what draws each figure of a run; what the run does not have is left out."""
    summary = run.summary
    found: dict[str, Callable[[], Figure]] = {"iterations": lambda: draw_run(summary)}
    if has_types(summary):
        found["types"] = lambda: draw_types(summary)
    if large_categories(summary):
        found["categories"] = lambda: draw_categories(summary)
    try:
        steps = {entry["iteration"]: run.training(entry) for entry in summary["iterations"]}
        with_intervals = with_length_intervals(run)
    except TpoError as error:
        log.warning("figures without training curves and without intervals of lengths: %s", error)
        steps, with_intervals = {}, summary
    trained = {iteration: metrics for iteration, metrics in steps.items() if metrics}
    found["lengths"] = lambda: draw_run_lengths(with_intervals)
    if trained:
        found["training"] = lambda: draw_training(trained, experiment=summary["experiment"])
    return found
