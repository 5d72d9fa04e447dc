"""The figure of a sweep over a number: what came out, over the values, drawn from the table of `tpo.results.table`."""

from numbers import Real
from typing import TYPE_CHECKING

from tpo.results.figures.style import (
    PAGE,
    REFERENCE,
    appearance,
    count_text,
    draw_means,
    draw_points,
    new_figure,
    styled,
)
from tpo.results.table.table import Line, ResultsTable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLES = {"win_rate": "win rate (%)", "win_rate_length_controlled": "length-controlled (%)"}


def swept_number(table: ResultsTable) -> str | None:
    """Return the one setting of a table that is a number in every run and takes two values or more, or None."""
    columns = {key: [line[key] for line in table.lines] for key in table.settings}
    numbers = [
        key
        for key, values in columns.items()
        if all(isinstance(value, Real) and not isinstance(value, bool) for value in values) and len(set(values)) > 1
    ]
    return numbers[0] if len(numbers) == 1 else None


@styled
def draw_sweep(table: ResultsTable) -> "Figure":
    """Draw win rates and lengths of responses over the number that is swept, one colour for what else differs.

    Args:
        table: One for which `swept_number` is not None, one iteration of each run.
    """
    swept = swept_number(table)
    assert swept is not None
    others = [key for key in table.settings if key != swept]
    iterations = sorted({line["iteration"] for line in table.lines})
    counts = count_text([line["win_rate"] for line in table.lines])
    caption = f"after iteration {' or '.join(map(str, iterations))}; {counts}; bars: intervals as the table has them"
    figure = new_figure(PAGE, 2.5, caption=caption)
    panels = figure.subplots(1, 3)
    groups: dict[str, list[Line]] = {}
    for line in table.lines:
        groups.setdefault(", ".join(str(line[key]) for key in others), []).append(line)
    for index, (label, unordered) in enumerate(groups.items()):
        lines = sorted(unordered, key=lambda line: float(line[swept]))
        places = [float(line[swept]) for line in lines]
        style = appearance(index) | {"label": label or None}
        for axes, key in zip(panels, TITLES, strict=False):
            draw_points(axes, places, [line[key] for line in lines], **style)
        draw_means(panels[2], places, [line["mean_response_tokens"] for line in lines], [None] * len(lines), **style)
    for axes, title in zip(panels, [*TITLES.values(), "response tokens"], strict=True):
        axes.set(title=title, xlabel=swept)
    for axes in panels[:2]:
        axes.axhline(50, color=REFERENCE, linewidth=0.7, linestyle=":")
        axes.set_ylim(0, 100)
    panels[2].set_ylim(0, 1.1 * max(panels[2].get_ylim()[1], 1))
    if others:
        panels[2].legend(title=", ".join(others), title_fontsize=7, loc="lower left")
    return figure
