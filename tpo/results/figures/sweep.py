"""The figure of a sweep over a number: what came out, over the values, drawn from the table of `tpo.results.table`."""

from numbers import Real
from typing import TYPE_CHECKING, Any

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
from tpo.results.rate import Rate

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame, Series

RATES = {"win_rate": "win rate (%)", "win_rate_length_controlled": "length-controlled (%)"}


def swept_number(frame: "DataFrame") -> str | None:
    """Return the one setting of a table that is a number in every run and takes two values or more, or None.

    Args:
        frame: Of `tpo.results.table.table.results_table`: the settings are the columns before "iteration".
    """
    settings = [str(column) for column in frame.columns[: list(frame.columns).index("iteration")]]
    numbers = [
        key
        for key in settings
        if frame[key].nunique() > 1
        and all(isinstance(value, Real) and not isinstance(value, bool) for value in frame[key])
    ]
    return numbers[0] if len(numbers) == 1 else None


@styled
def draw_sweep(frame: "DataFrame") -> "Figure":
    """Draw win rates and lengths of responses over the number that is swept, one colour for what else differs.

    Args:
        frame: A table for which `swept_number` is not None, one iteration of each run.
    """
    swept = swept_number(frame)
    assert swept is not None
    others = [str(key) for key in frame.columns[: list(frame.columns).index("iteration")] if key != swept]
    iterations = sorted(set(frame["iteration"]))
    counts = count_text([_rate(row, "win_rate") for _, row in frame.iterrows()])
    caption = f"after iteration {' or '.join(map(str, iterations))}; {counts}; bars: intervals as the table has them"
    figure = new_figure(PAGE, 2.5, caption=caption)
    panels = figure.subplots(1, 3)
    lines = frame.groupby(others, sort=False, dropna=False) if others else [((), frame)]
    for index, (values, rows) in enumerate(lines):
        rows = rows.sort_values(swept)
        places = [float(value) for value in rows[swept]]
        style = appearance(index) | {"label": ", ".join(str(value) for value in values) or None}
        for axes, key in zip(panels, RATES, strict=False):
            draw_points(axes, places, [_rate(row, key) for _, row in rows.iterrows()], **style)
        lengths = rows.dropna(subset="mean_response_tokens")
        means = list(lengths["mean_response_tokens"])
        draw_means(panels[2], [float(value) for value in lengths[swept]], means, [None] * len(means), **style)
    for axes, title in zip(panels, [*RATES.values(), "response tokens"], strict=True):
        axes.set(title=title, xlabel=swept)
    for axes in panels[:2]:
        axes.axhline(50, color=REFERENCE, linewidth=0.7, linestyle=":")
        axes.set_ylim(0, 100)
    panels[2].set_ylim(0, 1.1 * max(panels[2].get_ylim()[1], 1))
    if others:
        panels[2].legend(title=", ".join(others), title_fontsize=7, loc="lower left")
    return figure


def _rate(row: "Series[Any]", key: str) -> Rate:
    """Return the rate in a table's line; NaN is None there."""
    value, low, high = (None if found != found else float(found) for found in row[[key, f"{key}_low", f"{key}_high"]])
    interval = None if low is None or high is None else (low, high)
    return Rate(value, interval, int(row["num_prompts"]), int(row["num_unscored"]))
