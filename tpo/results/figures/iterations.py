"""The figures of one run, drawn from its summary alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.results.figures.style import (
    BLUE,
    COLUMN,
    GREY,
    PURPLE,
    REFERENCE,
    VERMILION,
    caption_text,
    count_text,
    draw_interval,
    draw_means,
    draw_points,
    interval_text,
    label_ends,
    length_bars_text,
    length_means,
    new_figure,
    save,
    styled,
    svg_text,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_figures(summary: dict[str, Any], directory: Path, *, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write the figures `win_rate`, `categories` and `lengths` and return their paths."""
    paths = []
    for name, figure in _figures(summary).items():
        paths += save(figure, directory, name, formats=formats)
    return paths


def svg_figures(summary: dict[str, Any]) -> dict[str, str]:
    """Return the same figures as SVG texts by name, on no background; the same summary gives the same bytes."""
    return {name: svg_text(figure) for name, figure in _figures(summary).items()}


def _figures(summary: dict[str, Any]) -> dict[str, "Figure"]:
    return {
        "win_rate": draw_win_rate(summary),
        "categories": draw_categories(summary),
        "lengths": draw_run_lengths(summary),
    }


@styled
def draw_win_rate(summary: dict[str, Any]) -> "Figure":
    """Draw a run's win rate, as it is and controlled for length, over iterations."""
    entries = summary["iterations"]
    figure = new_figure(COLUMN, 2.5, caption=_caption(summary, interval_text(summary["confidence"])))
    axes = figure.subplots()
    iterations = [entry["iteration"] for entry in entries]
    axes.axhline(50, color=REFERENCE, linewidth=0.7, linestyle=":")
    axes.set(xlabel="iteration (0: untrained)", ylabel="win rate (%)", ylim=(0, 100))
    series = (
        ("win_rate", "win rate", BLUE, "o", -0.02),
        ("win_rate_length_controlled", "length-\ncontrolled", VERMILION, "s", 0.02),
    )
    ends = []
    for key, label, color, marker, shift in series:
        rates = [entry[key] for entry in entries]
        draw_points(axes, [number + shift for number in iterations], rates, color=color, marker=marker, label=label)
        if known := [rate["rate"] for rate in rates if rate["rate"] is not None]:
            ends.append((100 * known[-1], label, color))
    _name_ends(axes, ends, iterations)
    return figure


@styled
def draw_categories(summary: dict[str, Any]) -> "Figure":
    """Draw the win rate in each category, before training and after the last iteration."""
    entries = summary["iterations"]
    first, last = entries[0]["categories"], entries[-1]["categories"]
    names = sorted(
        (name for name in last if last[name]["rate"] is not None), key=lambda name: (last[name]["rate"], name)
    )
    figure = new_figure(
        1.25 * COLUMN, 0.22 * len(names) + 1.1, caption=_caption(summary, interval_text(summary["confidence"]))
    )
    axes = figure.subplots()
    axes.axvline(50, color=REFERENCE, linewidth=0.7, linestyle=":")
    after = {"color": BLUE, "marker": "o"}
    before = {"color": GREY, "marker": "D", "markerfacecolor": "white"}
    series: list[tuple[str, dict[str, Any], dict[str, Any], float]] = [
        ("iteration 0", first, before, 0.17),
        (f"iteration {entries[-1]['iteration']}", last, after, -0.13),
    ]
    for label, rates, style, shift in series[-len(entries) :]:  # without training there is one
        scored = [(row, rates[name]) for row, name in enumerate(names) if rates[name]["rate"] is not None]
        for row, rate in scored:
            draw_interval(axes, row + shift, rate["interval"], color=style["color"], alpha=0.45, linewidth=2)
        values = [100 * rate["rate"] for _, rate in scored]
        axes.plot(values, [row + shift for row, _ in scored], linestyle="", label=label, **style)
    labels = [f"{name.replace('_', ' ')} (n = {last[name]['num_prompts']})" for name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.set(xlabel="win rate (%)", xlim=(-2, 102), ylim=(-0.6, max(len(names), 1) - 0.4))
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, handletextpad=0.2)
    return figure


@styled
def draw_run_lengths(summary: dict[str, Any]) -> "Figure":
    """Draw the mean lengths of thoughts and responses over iterations; the direct baseline has no thoughts."""
    entries = summary["iterations"]
    figure = new_figure(COLUMN, 2.5, caption=_caption(summary, length_bars_text([summary])))
    axes = figure.subplots()
    iterations = [entry["iteration"] for entry in entries]
    ends = []
    for part, color, marker, shift in (("thought", PURPLE, "s", -0.02), ("response", BLUE, "o", 0.02)):
        if found := length_means(summary, part):
            positions, means, edges = zip(*found, strict=True)
            shifted = [position + shift for position in positions]
            draw_means(axes, shifted, means, edges, color=color, marker=marker, label=part)
            ends.append((means[-1], part, color))
    axes.set(xlabel="iteration (0: untrained)", ylabel="mean tokens")
    axes.set_ylim(0, 1.1 * max(axes.get_ylim()[1], 1))
    _name_ends(axes, ends, iterations)
    return figure


def _caption(summary: dict[str, Any], last: str) -> str:
    rates = [entry["win_rate"] for entry in summary["iterations"]]
    against = f"{summary['experiment']} against {summary['baseline']}"
    return caption_text(against, f"judge {summary['judge']}", count_text(rates), last)


def _name_ends(axes: Any, ends: Sequence[tuple[float, str, str]], iterations: Sequence[int]) -> None:
    """Set the horizontal axis and write the names of what ends at its last iteration."""
    axes.set(xlim=(iterations[0] - 0.25, iterations[-1] + 0.25), xticks=iterations)
    label_ends(axes, ends, height=0.85)  # half of the height, as a name may take two lines
