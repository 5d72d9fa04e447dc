"""The record's figure: a row for each claim, every seed's value, the mean with its interval, the verdict."""

from typing import TYPE_CHECKING, Any

from experiments.paper_claims.arms import Arms
from experiments.paper_claims.claims import Finding, findings
from experiments.paper_claims.verdicts import MARGIN, NO, YES
from tpo.results.figures.style import (
    BLUE,
    GREY,
    PAGE,
    REFERENCE,
    ROW,
    VERMILION,
    draw_interval,
    interval_text,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT, MARGINS = 0.27, 0.55  # inches: of a row, and of a panel around its rows
COLORS = {YES: BLUE, NO: VERMILION}


@styled
def draw_claims(arms: Arms) -> "Figure":
    """Draw the claims that were measured, in a panel for points of the checked rate and one for relative lengths."""
    found = [one for one in findings(arms) if one.values]
    panels = [
        part
        for is_relative in (False, True)
        if (part := [one for one in found if one.claim.is_relative is is_relative])
    ]
    heights = [HEIGHT * len(part) + MARGINS for part in panels]
    caption = (
        "the paper's claims on instructions that a program checks; ticks: seeds, point: their mean; "
        f"{interval_text(arms.confidence)} over seeds; verdicts by Holm; arrows: the paper's direction; shaded: "
        "negligible"
    )
    figure = new_figure(PAGE, 0.5 + sum(heights), caption=caption)
    every: Any = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)
    for axes, part in zip(every[:, 0], panels, strict=True):
        _draw_panel(axes, part)
    return figure


def _draw_panel(axes: Any, part: list[Finding]) -> None:
    arrows = {1: "→", -1: "←", 0: "="}
    axes.axvline(0, color=REFERENCE, linewidth=0.7, linestyle=":")
    for row, one in enumerate(part):
        color = COLORS.get(one.verdict, GREY)
        axes.axhline(row, color=ROW, linewidth=0.7, zorder=0)
        if one.claim.direction == 0:
            axes.fill_betweenx([row - 0.4, row + 0.4], -100 * MARGIN, 100 * MARGIN, color=ROW, zorder=0)
        draw_interval(axes, row, one.difference.interval, color=color, linewidth=3, alpha=0.4)
        seeds = [100 * value for value in one.values.values()]
        axes.plot(
            seeds,
            [row + 0.25] * len(seeds),
            linestyle="",
            marker="|",
            color=REFERENCE,
            markersize=6,
            markeredgewidth=0.8,
        )
        axes.plot([100 * (one.difference.rate or 0.0)], [row], linestyle="", marker="o", color=color, markersize=5)
        axes.annotate(
            f"{one.verdict} (n = {len(one.values)})",
            (1, row),
            xycoords=("axes fraction", "data"),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=color if one.verdict in COLORS else REFERENCE,
            annotation_clip=False,
        )
    axes.set_yticks(range(len(part)), [f"{one.claim.text} {arrows[one.claim.direction]}" for one in part])
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    is_relative = part[0].claim.is_relative
    axes.set(xlabel="relative change of tokens (%)" if is_relative else "difference of checked rates (points)")
    axes.set_ylim(len(part) - 0.5, -0.5)
