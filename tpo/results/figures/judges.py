"""The figure of judges' agreement with labels, drawn from the files of `python -m tpo.evaluate.agreement`."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tpo.results.figures.style import (
    BLUE,
    LONGEST_NAME,
    PAGE,
    REFERENCE,
    ROW,
    draw_interval,
    interval_text,
    new_figure,
    styled,
)
from tpo.results.rate import Rate, format_count
from tpo.store.text import labels, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: The parts of labelled pairs that agreement is measured on, and what they are called.
SLICES = {
    "all": "all",
    "length_matched": "length-matched",
    "preferred_shorter": "preferred is shorter",
    "preferred_longer": "preferred is longer",
}
DRAWN = ("all", "length_matched", "preferred_shorter")


@styled
def draw_agreement(judges: Sequence[dict[str, Any]]) -> "Figure":
    """Draw a dot with its interval for every judge, a panel for each slice of `DRAWN`."""
    caption = f"agreement with labels; {interval_text(judges[0]['confidence'])} over instructions; n: comparisons"
    figure = new_figure(PAGE, 0.33 * len(judges) + 0.9, caption=caption)
    panels = figure.subplots(1, len(DRAWN), sharex=True, sharey=True)
    for axes, name in zip(panels, DRAWN, strict=True):
        axes.axvline(50, color=REFERENCE, linewidth=0.7, linestyle=":")
        for row, judge in enumerate(judges):
            _draw_rate(axes, row, Rate.from_dict(judge["slices"][name]))
        axes.set(title=SLICES[name], xlim=(0, 100), ylim=(len(judges) - 0.5, -0.5), xticks=range(0, 101, 25))
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    called = labels((judge["judge"] for judge in judges), longest=LONGEST_NAME)
    panels[0].set_yticks(range(len(judges)), [one_line(called[judge["judge"]]) for judge in judges])
    panels[1].set_xlabel("agreement (%)")
    return figure


def _draw_rate(axes: Any, row: int, rate: Rate) -> None:
    note = {"va": "center", "fontsize": 6.5, "color": REFERENCE}
    axes.axhline(row, color=ROW, linewidth=0.7, zorder=0)
    if rate.rate is None:
        axes.text(104, row, "nothing scored", **note)
        return
    draw_interval(axes, row, rate.interval, color=BLUE, alpha=0.4, linewidth=4, clip_on=False)
    axes.plot(100 * rate.rate, row, "o", color=BLUE, clip_on=False, zorder=3)
    axes.text(104, row, f"{100 * rate.rate:.0f} %\nn = {format_count(rate.count, rate.num_unscored)}", **note)
