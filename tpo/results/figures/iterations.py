"""Figures over iterations: those of one run, and those that compare runs, such as TPO with the direct baseline."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.results.figures.style import (
    BLUE,
    COLUMN,
    GREY,
    PAGE,
    PURPLE,
    REFERENCE,
    VERMILION,
    appearance,
    count_text,
    draw_interval,
    draw_means,
    draw_points,
    interval_text,
    label_ends,
    new_figure,
    save,
    styled,
    svg_text,
)
from tpo.results.rate import Rate
from tpo.results.read import FinishedRun
from tpo.results.stats import student_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Summaries of runs, by the name that a figure gives each.
Summaries = Mapping[str, dict[str, Any]]
End = tuple[float, str, str]  # of a line: its last value, its name and its colour

HEIGHT = 2.5  # inches


def write_figures(summary: dict[str, Any], directory: Path, *, formats: Sequence[str] = ("png",)) -> list[Path]:
    """Write the figures `win_rate`, `categories` and `lengths` and return their paths."""
    return [path for name, draw in OF_ONE_RUN.items() for path in save(draw(summary), directory, name, formats=formats)]


def svg_figures(summary: dict[str, Any]) -> dict[str, str]:
    """Return the same figures as SVG documents, by their names."""
    return {name: svg_text(draw(summary)) for name, draw in OF_ONE_RUN.items()}


def write_comparison(runs: Mapping[str, FinishedRun], directory: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write the figures `iterations` and `lengths`, which compare runs, and return their paths; keys name the runs."""
    figures = {
        "iterations": draw_iterations({label: run.summary for label, run in runs.items()}),
        "lengths": draw_lengths({label: with_length_intervals(run) for label, run in runs.items()}),
    }
    return [path for name, figure in figures.items() for path in save(figure, directory, name, formats=formats)]


# --- one run ----------------------------------------------------------------------------------------------------


@styled
def draw_win_rate(summary: dict[str, Any]) -> "Figure":
    """Draw a run's win rate, as it is and controlled for length, over iterations."""
    figure = new_figure(COLUMN, HEIGHT, caption=_caption(summary, interval_text(summary["confidence"])))
    axes = _percent(figure.subplots())
    axes.set_ylabel("win rate (%)")
    plain = _draw_rates(axes, summary, "win_rate", label="win rate", shift=-0.02, color=BLUE, marker="o")
    style: dict[str, Any] = {"label": "length-\ncontrolled", "shift": 0.02, "color": VERMILION, "marker": "s"}
    _name_ends(
        axes,
        plain + _draw_rates(axes, summary, "win_rate_length_controlled", **style),
        [summary],
        margin=0.25,
        height=0.34 * HEIGHT,
    )
    return figure


@styled
def draw_categories(summary: dict[str, Any]) -> "Figure":
    """Draw the win rate in each category, before training and after the last iteration."""
    entries = summary["iterations"]
    first, last = (
        {name: Rate.from_dict(rate) for name, rate in entry["categories"].items()}
        for entry in (entries[0], entries[-1])
    )
    names = sorted((last[name].rate, name) for name in last if last[name].rate is not None)
    figure = new_figure(
        1.25 * COLUMN, 0.22 * len(names) + 1.1, caption=_caption(summary, interval_text(summary["confidence"]))
    )
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
    labels = [f"{name.replace('_', ' ')} (n = {last[name].num_prompts})" for _, name in names]
    axes.set_yticks(range(len(names)), labels)
    axes.set(xlabel="win rate (%)", xlim=(-2, 102), ylim=(-0.6, max(len(names), 1) - 0.4))
    axes.tick_params(axis="y", length=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderaxespad=0, handletextpad=0.2)
    return figure


@styled
def draw_run_lengths(summary: dict[str, Any]) -> "Figure":
    """Draw the mean lengths of thoughts and responses over iterations; the direct baseline has no thoughts."""
    figure = new_figure(COLUMN, HEIGHT, caption=_caption(summary, _bars_of_lengths([summary])))
    axes = figure.subplots()
    ends = _draw_means(axes, summary, "thought", label="thought", shift=-0.02, color=PURPLE, marker="s")
    ends += _draw_means(axes, summary, "response", label="response", shift=0.02, color=BLUE, marker="o")
    axes.set(xlabel="iteration (0: untrained)", ylabel="mean tokens")
    axes.set_ylim(0, 1.1 * max(axes.get_ylim()[1], 1))
    _name_ends(axes, ends, [summary], margin=0.25, height=0.34 * HEIGHT)
    return figure


OF_ONE_RUN: dict[str, Callable[[dict[str, Any]], "Figure"]] = {
    "win_rate": draw_win_rate,
    "categories": draw_categories,
    "lengths": draw_run_lengths,
}


# --- several runs -----------------------------------------------------------------------------------------------


@styled
def draw_iterations(summaries: Summaries) -> "Figure":
    """Draw win rates over iterations, one colour for each run: as they are, and controlled for length."""
    every = list(summaries.values())
    levels = {summary["confidence"] for summary in every}
    bars = interval_text(levels.pop() if len(levels) == 1 else None)
    figure = new_figure(PAGE, HEIGHT, caption=f"{_common(every)}; {bars}")
    panels = figure.subplots(1, 2, sharey=True)
    keys = {"win_rate_length_controlled": "length-controlled", "win_rate": "win rate"}
    named: set[str] = set()  # a run is named once, in the right panel if it is there
    for axes, (key, title) in zip(reversed(panels), keys.items(), strict=True):
        _percent(axes).set_title(title)
        ends = []
        for index, (label, summary) in enumerate(summaries.items()):
            ends += _draw_rates(axes, summary, key, label=label, shift=_shift(index, summaries), **appearance(index))
        ends = [end for end in ends if end[1] not in named]
        named.update(label for _, label, _ in ends)
        _name_ends(axes, ends, every, margin=0.2 + 0.025 * len(every), height=0.68 * HEIGHT)
    panels[0].set_ylabel("win rate (%)")
    return figure


@styled
def draw_lengths(summaries: Summaries) -> "Figure":
    """Draw the mean lengths of thoughts and responses over iterations, one colour for each run.

    The caption says where no intervals are known. A run without thoughts is missing among the thoughts.
    """
    every = list(summaries.values())
    figure = new_figure(PAGE, HEIGHT, caption=f"{_common(every)}; {_bars_of_lengths(every)}")
    panels = figure.subplots(1, 2)
    for axes, part in zip(panels, ("thought", "response"), strict=True):
        ends = []
        for index, (label, summary) in enumerate(summaries.items()):
            ends += _draw_means(axes, summary, part, label=label, shift=_shift(index, summaries), **appearance(index))
        axes.set(title=f"{part}s", xlabel="iteration (0: untrained)")
        axes.set_ylim(0, 1.1 * max(axes.get_ylim()[1], 1))
        _name_ends(
            axes, ends if part == "response" else [], every, margin=0.2 + 0.025 * len(every), height=0.68 * HEIGHT
        )
    panels[0].set_ylabel("mean tokens")
    return figure


def with_length_intervals(run: FinishedRun) -> dict[str, Any]:
    """Return a run's summary with intervals of the mean lengths, where the artifacts with its answers are at hand.

    Entries gain "length_intervals": of "thought" and "response", 95 %, Student's t over instructions. Only answers that
    hold a response count, as in the summary's own means. Where artifacts lie elsewhere, an entry stays as it is.
    """
    entries = []
    for entry in run.summary["iterations"]:
        lengths: dict[str, list[int]] = {"thought": [], "response": []}
        for row in run.answers(entry) or ():
            if row.response is not None:
                lengths["thought"].append(row.num_thought_tokens)
                lengths["response"].append(row.num_response_tokens)
        known = {part: list(student_interval(found, confidence=0.95)) for part, found in lengths.items() if found[1:]}
        entries.append({**entry, "length_intervals": known} if known else entry)
    return {**run.summary, "iterations": entries}


# --- parts of both ----------------------------------------------------------------------------------------------


def _percent(axes: Any) -> Any:
    """Return axes made ready for win rates over iterations."""
    axes.axhline(50, color=REFERENCE, linewidth=0.7, linestyle=":")
    axes.set(xlabel="iteration (0: untrained)", ylim=(0, 100))
    return axes


def _draw_rates(axes: Any, summary: dict[str, Any], key: str, *, label: str, shift: float, **style: Any) -> list[End]:
    """Draw a run's rates over its iterations; return the line's end, or nothing where nothing was scored."""
    rates = [Rate.from_dict(entry[key]) for entry in summary["iterations"]]
    draw_points(axes, [entry["iteration"] + shift for entry in summary["iterations"]], rates, label=label, **style)
    return [(100 * rate.rate, label, style["color"]) for rate in rates if rate.rate is not None][-1:]


def _draw_means(axes: Any, summary: dict[str, Any], part: str, *, label: str, shift: float, **style: Any) -> list[End]:
    """Draw a run's mean lengths over its iterations; return the line's end, or nothing for a run without thoughts."""
    entries = summary["iterations"]
    means = [entry[f"mean_{part}_tokens"] for entry in entries]
    if not any(means):
        return []
    edges = [entry.get("length_intervals", {}).get(part) for entry in entries]
    draw_means(axes, [entry["iteration"] + shift for entry in entries], means, edges, label=label, **style)
    return [(means[-1], label, style["color"])]


def _shift(index: int, summaries: Summaries) -> float:
    """Return how far to the right of their iteration a run's points stand, so that intervals lie beside each other."""
    return 0.05 * (index - (len(summaries) - 1) / 2)


def _name_ends(
    axes: Any, ends: Sequence[End], summaries: Sequence[dict[str, Any]], *, margin: float, height: float
) -> None:
    """Set the horizontal axis, `margin` iterations wider than the points, and write the lines' names where they end.

    `height` is that of the axes in inches, or less where a name takes two lines.
    """
    iterations = sorted({entry["iteration"] for summary in summaries for entry in summary["iterations"]})
    axes.set(xlim=(iterations[0] - margin, iterations[-1] + margin), xticks=iterations)
    label_ends(axes, ends, height=height)


def _caption(summary: dict[str, Any], bars: str) -> str:
    rates = [Rate.from_dict(entry["win_rate"]) for entry in summary["iterations"]]
    against = f"{summary['experiment']} against {summary['baseline']}"
    return f"{against}; judge {summary['judge']}; {count_text(rates)}; {bars}"


def _common(summaries: Sequence[dict[str, Any]]) -> str:
    """Return what a caption says of all runs: the baseline and the judge, or that they differ, and the counts."""
    parts = []
    for key, text in (("baseline", "against"), ("judge", "judge")):
        values = {summary[key] for summary in summaries}
        parts.append(f"{key}s differ between runs" if len(values) > 1 else f"{text} {values.pop()}")
    rates = [Rate.from_dict(entry["win_rate"]) for summary in summaries for entry in summary["iterations"]]
    return "; ".join([*parts, count_text(rates)])


def _bars_of_lengths(summaries: Sequence[dict[str, Any]]) -> str:
    """Return what the bars of a figure of lengths are, or that there are none."""
    if any("length_intervals" in entry for summary in summaries for entry in summary["iterations"]):
        return "means over answers with a response; bars: 95 % intervals"
    return "means over answers with a response; no intervals: the summary holds none"
