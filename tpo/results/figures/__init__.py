"""Figures of results, drawn from what runs leave behind: `python -m tpo.results --figures runs/...`.

Notebooks in `analysis/`, the figures in a run's folder and `make figures` all draw with these functions. A figure is
as wide as a paper's column or page, its colours are told apart by colour-blind readers, it says how many instructions
stand behind it, and an estimate has its interval. Nothing here keeps state, needs a screen, or imports matplotlib
before something is drawn.
"""

from tpo.results.figures.changes import draw_categories, draw_changes, draw_types, has_types
from tpo.results.figures.evaluation import (
    draw_category_gains,
    draw_thought_budget,
    draw_thought_value,
    write_evaluation_figures,
)
from tpo.results.figures.iterations import (
    draw_iterations,
    draw_lengths,
    draw_run,
    draw_run_lengths,
    with_length_intervals,
)
from tpo.results.figures.judges import draw_agreement
from tpo.results.figures.style import save, show
from tpo.results.figures.sweep import draw_sweep, swept_number
from tpo.results.figures.training import draw_training
from tpo.results.figures.write import svg_figures, write_comparison, write_figures

__all__ = [
    "draw_agreement",
    "draw_categories",
    "draw_category_gains",
    "draw_changes",
    "draw_iterations",
    "draw_lengths",
    "draw_run",
    "draw_run_lengths",
    "draw_sweep",
    "draw_thought_budget",
    "draw_thought_value",
    "draw_training",
    "draw_types",
    "has_types",
    "save",
    "show",
    "svg_figures",
    "swept_number",
    "with_length_intervals",
    "write_comparison",
    "write_evaluation_figures",
    "write_figures",
]
