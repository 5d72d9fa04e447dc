"""Figures with a row each for what changed: types of checks and categories of one run, and several runs."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tpo.results.figures.style import (
    BLUE,
    COLUMN,
    GREEN,
    GREY,
    PAGE,
    REFERENCE,
    ROW,
    VERMILION,
    appearance,
    bars_text,
    count_text,
    draw_interval,
    names_of_rows,
    new_figure,
    styled,
)
from tpo.results.headline import CHECKED, HEADLINE, UNSEEN, Change, changes
from tpo.results.rate import Rate
from tpo.results.run_tables import large_categories, unseen_types
from tpo.store.text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def has_types(summary: dict[str, Any]) -> bool:
    """Return whether there is a change by type of check to draw: a run with checks that trained."""
    last = summary["iterations"][-1]
    return last["checked"] is not None and last["change"] is not None and bool(last["change"]["checked_types"])


@styled
def draw_types(summary: dict[str, Any]) -> "Figure":
    """Draw the change of the checked rate by type of check, trained minus untrained, with intervals.

    The types of training together and the unseen ones stand at the top; below, the types by their change, each with its
    rates before and after. `has_types` says whether there is something to draw.
    """
    first, last = summary["iterations"][0], summary["iterations"][-1]
    unseen = unseen_types(summary)
    names = {CHECKED.key: "trained types" if unseen else "all types", UNSEEN.key: "unseen types"}
    together = [one for one in changes(summary, CHECKED, UNSEEN) if one.change is not None]
    rows: list[tuple[str, dict[str, Any] | None, dict[str, Any], dict[str, Any], bool]] = []
    for name, change in last["change"]["checked_types"].items():
        if change["rate"] is not None:
            before, after = (entry["checked"]["types"].get(name) for entry in (first, last))
            rows.append((name, before, after, change, name in unseen))
    rows.sort(key=lambda row: -row[3]["rate"])
    count = len(together) + len(rows)
    caption = f"{summary['experiment']}: checked rate after iteration {last['iteration']} minus untrained, same "
    caption += f"instructions; {bars_text([summary])}"
    figure = new_figure(1.45 * COLUMN, 0.2 * count + 1.05, caption=caption)
    axes = figure.subplots()
    axes.axvline(0, color=REFERENCE, linewidth=0.7, linestyle=":")
    called, labels = names_of_rows(row[0] for row in rows), []
    for place, one in enumerate(together):
        color = {CHECKED.key: BLUE, UNSEEN.key: VERMILION}[one.quantity.key]
        assert one.change is not None
        _draw_change(axes, place, one.change, one.before, one.after, color=color, marker="D")
        labels.append(names[one.quantity.key])
    edge = len(together) - 0.5
    axes.axhline(edge, color=ROW, linewidth=1)
    for place, (name, before, after, change, is_unseen) in enumerate(rows, start=len(together)):
        rates = [None if plain is None else Rate.from_dict(plain) for plain in (before, after)]
        style: dict[str, Any] = {"color": VERMILION, "marker": "s"} if is_unseen else {"color": GREEN, "marker": "^"}
        _draw_change(axes, place, Rate.from_dict(change), *rates, **style)
        labels.append(called[name])
    axes.set_yticks(range(count), labels)
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="change of the checked rate (points)", ylim=(count - 0.5, -0.6))
    return figure


def _draw_change(
    axes: Any, row: int, change: Rate, before: Rate | None, after: Rate | None, *, color: str, marker: str
) -> None:
    draw_interval(axes, row, change.interval, color=color, linewidth=3, alpha=0.35)
    axes.plot(100 * (change.rate or 0.0), row, marker, color=color)
    known = [f"{100 * rate.rate:.0f}" for rate in (before, after) if rate is not None and rate.rate is not None]
    text = " \N{RIGHTWARDS ARROW} ".join(known) + f" %, n = {change.count:,}"
    axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=6.5, color=REFERENCE)


@styled
def draw_categories(summary: dict[str, Any]) -> "Figure":
    """Draw the win rate in each large category (`large_categories`), before training and after the last iteration."""
    entries = summary["iterations"]
    large = large_categories(summary)
    first, last = (
        {name: Rate.from_dict(entry["categories"][name]) for name in large} for entry in (entries[0], entries[-1])
    )
    names = sorted((last[name].rate, name) for name in last if last[name].rate is not None)
    caption = f"{summary['experiment']} against {summary['baseline']}; judge {summary['judge']}; "
    caption += bars_text([summary])
    figure = new_figure(1.25 * COLUMN, 0.22 * len(names) + 1.1, caption=caption)
    axes = figure.subplots()
    axes.axvline(50, color=REFERENCE, linewidth=0.7, linestyle=":")
    before = {"color": GREY, "marker": "D", "markerfacecolor": "white"}
    series: list[tuple[str, dict[str, Rate], dict[str, Any], float]] = [
        ("iteration 0", first, before, 0.17),
        (f"iteration {entries[-1]['iteration']}", last, {"color": BLUE, "marker": "o"}, -0.13),
    ]
    for label, rates, style, shift in series[-len(entries) :]:  # without training there is one
        values, rows = [], []
        for row, (_, name) in enumerate(names):
            if (value := rates[name].rate) is not None:
                draw_interval(axes, row + shift, rates[name].interval, color=style["color"], alpha=0.45, linewidth=2)
                values.append(100 * value)
                rows.append(row + shift)
        axes.plot(values, rows, linestyle="", label=label, **style)
    called = names_of_rows(large)
    labels = [f"{called[name]} (n = {last[name].num_prompts})" for _, name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.set(xlabel="win rate (%)", xlim=(-2, 102), ylim=(-0.6, max(len(names), 1) - 0.4))
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, handletextpad=0.2)
    return figure


@styled
def draw_changes(summaries: Mapping[str, dict[str, Any]]) -> "Figure":
    """Draw the headline of several runs, a row each: trained minus untrained, a panel for each quantity.

    Of the checked rate, the win rate and the score, those that a run has. A run without training has an empty row.
    """
    every = {label: changes(summary) for label, summary in summaries.items()}
    measured = {one.quantity for found in every.values() for one in found if _is_known(one)}
    shown = [quantity for quantity in HEADLINE if quantity in measured]
    counts = [one.change for found in every.values() for one in found if _is_known(one) and one.change is not None]
    caption = "trained minus untrained on the same instructions; "
    caption += f"{count_text(counts)}; " if counts else ""
    caption += bars_text([*summaries.values()])
    figure = new_figure(PAGE, 0.24 * len(every) + 1.0, caption=caption)
    panels: Sequence[Any] = figure.subplots(1, max(1, len(shown)), sharey=True, squeeze=False)[0]
    for axes, quantity in zip(panels, shown, strict=False):
        axes.axvline(0, color=REFERENCE, linewidth=0.7, linestyle=":")
        for row, found in enumerate(every.values()):
            axes.axhline(row, color=ROW, linewidth=0.7, zorder=0)
            for one in found:
                if one.quantity is quantity and one.change is not None and one.change.rate is not None:
                    style, scale = appearance(row), quantity.scale
                    edges = one.change.interval and [scale * edge / 100 for edge in one.change.interval]
                    draw_interval(axes, row, edges, color=style["color"], linewidth=3, alpha=0.35)
                    axes.plot(scale * one.change.rate, row, **style)
        axes.set(title=quantity.name, xlabel="change (points)" if quantity.is_fraction else "change")
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    panels[0].set_yticks(range(len(every)), list(map(one_line, every)))
    panels[0].set_ylim(len(every) - 0.5, -0.5)
    return figure


def _is_known(one: Change) -> bool:
    return one.change is not None and one.change.rate is not None
