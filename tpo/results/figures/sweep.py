"""The figure of a sweep over a number: what came out, over the values, drawn from the table of `tpo.results.table`."""

from numbers import Real
from typing import TYPE_CHECKING

from tpo.results.figures.style import (
    LONGEST_NAME,
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
from tpo.store.text import labels, one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Columns of rates that are drawn, the first two of those that the table has.
TITLES = {
    "change_checked": "change of checked (points)",
    "change_win_rate": "change of win rate (points)",
    "win_rate": "win rate (%)",
    "win_rate_length_controlled": "equal length (%)",
}


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
    """Draw what changed and lengths of responses over the number that is swept, one colour for what else differs.

    Changes since the untrained policy, that of the checked rate first where runs have checks; rates where nothing was
    trained.

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
    shown = [key for key in TITLES if key in table.lines[0]][:2]
    panels = figure.subplots(1, len(shown) + 1)
    groups: dict[str, list[Line]] = {}
    for line in table.lines:
        groups.setdefault(", ".join(str(line[key]) for key in others), []).append(line)
    called = labels(groups, longest=LONGEST_NAME)
    for index, (group, unordered) in enumerate(groups.items()):
        lines = sorted(unordered, key=lambda line: float(line[swept]))
        style = appearance(index)
        for axes, key in zip(panels, shown, strict=False):
            known = [line for line in lines if line[key] is not None]
            draw_points(axes, [float(line[swept]) for line in known], [line[key] for line in known], **style)
        places, tokens = [float(line[swept]) for line in lines], [line["mean_response_tokens"] for line in lines]
        draw_means(panels[-1], places, tokens, [None] * len(lines), label=one_line(called[group]) or None, **style)
    for axes, title in zip(panels, [*(TITLES[key] for key in shown), "response tokens"], strict=True):
        axes.set(title=title, xlabel=swept)
    for axes, key in zip(panels, shown, strict=False):
        is_change = key.startswith("change_")
        axes.axhline(0 if is_change else 50, color=REFERENCE, linewidth=0.7, linestyle=":")
        if not is_change:
            axes.set_ylim(0, 100)
    panels[-1].set_ylim(0, 1.1 * max(panels[-1].get_ylim()[1], 1))
    if others:
        series = panels[-1].containers  # named, because matplotlib leaves out labels that begin with an underscore
        told = {"title": one_line(", ".join(others)), "title_fontsize": 7, "loc": "lower left"}
        panels[-1].legend(series, [one.get_label() for one in series], **told)
    return figure
