"""The figure of training: loss, reward accuracy and margins of every step, one iteration after the other."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from tpo.results.figures.style import PAGE, REFERENCE, ROW, appearance, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: trl's metrics that are drawn, and what they are called.
PANELS = {"loss": "loss", "rewards/accuracies": "reward accuracy", "rewards/margins": "reward margin"}


@styled
def draw_training(steps: Mapping[int, Sequence[Mapping[str, float]]], *, experiment: str) -> "Figure":
    """Draw trl's metrics over the steps of all iterations, a colour for each iteration.

    The dotted line is where the first step has to begin: a loss of ln 2, which no preference has, and equal rewards.

    Args:
        steps: Iteration to the metrics of its steps; at least one step.
        experiment: For the caption.
    """
    counts = [len(found) for found in steps.values()]
    spread = f"{min(counts):,}" if min(counts) == max(counts) else f"{min(counts):,} to {max(counts):,}"
    what = f"n = {spread} steps an iteration, batches of training pairs; dotted: without a preference"
    figure = new_figure(PAGE, 2.1, caption=f"{experiment}: training by iteration (1, 2, ...); {what}")
    panels = figure.subplots(1, len(PANELS))
    start = 0
    for index, (iteration, metrics) in enumerate(steps.items()):
        places = [start + number for number in range(1, len(metrics) + 1)]
        start += len(metrics)
        style = {"color": appearance(index)["color"], "linewidth": 1.0}
        for axes, name in zip(panels, PANELS, strict=True):
            known = [(place, found[name]) for place, found in zip(places, metrics, strict=True) if name in found]
            marker = "o" if len(known) <= 40 else ""
            axes.plot(*_columns(known), label=f"iteration {iteration}", marker=marker, markersize=2.2, **style)
            middle = (places[0] + places[-1]) / 2
            axes.text(
                middle, 1.02, str(iteration), transform=axes.get_xaxis_transform(), ha="center", color=style["color"]
            )
            if index:
                axes.axvline(places[0] - 0.5, color=ROW, linewidth=1, zorder=0)
    for axes, (name, title) in zip(panels, PANELS.items(), strict=True):
        neutral = {"loss": math.log(2), "rewards/accuracies": 0.5, "rewards/margins": 0.0}[name]
        axes.axhline(neutral, color=REFERENCE, linewidth=0.7, linestyle=":", zorder=0)
        axes.set(xlabel="step", ylabel=title, xlim=(0.5, start + 0.5))
    panels[0].set_ylim(bottom=0)
    panels[1].set_ylim(-0.03, 1.03)
    return figure


def _columns(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [place for place, _ in points], [value for _, value in points]
