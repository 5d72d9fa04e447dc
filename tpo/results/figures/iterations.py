"""Figures over iterations: those of one run, and those that compare runs, such as TPO with the direct baseline."""

from collections.abc import Mapping, Sequence
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
    bars_text,
    count_text,
    draw_means,
    draw_points,
    label_ends,
    new_figure,
    styled,
)
from tpo.results.rate import Rate
from tpo.results.read import FinishedRun
from tpo.results.run_tables import unseen_types
from tpo.results.stats import student_interval

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Summaries of runs, by the name that a figure gives each.
Summaries = Mapping[str, dict[str, Any]]
End = tuple[float, str, str]  # of a line: its last value, its name and its colour

HEIGHT = 2.5  # inches


# --- one run ----------------------------------------------------------------------------------------------------


@styled
def draw_run(summary: dict[str, Any]) -> "Figure":
    """Draw a run over iterations: the checked rate where there is one, and the win rate in its variants.

    The checked rate has a line each for all types of checks, those in training and those in the test only, and a
    horizontal one for the direct baseline; the win rate one for the null control.
    """
    is_checked = summary["iterations"][-1]["checked"] is not None
    caption = _caption(summary, bars_text([summary]))
    figure = new_figure(PAGE if is_checked else COLUMN, HEIGHT, caption=caption)
    *panels, axes = figure.subplots(1, 2 if is_checked else 1, squeeze=False)[0]
    height = 0.6 * HEIGHT
    if panels:
        _draw_checked(panels[0], summary, height=height)
    axes.set(title="win rate (%)" if panels else "", ylabel="" if panels else "win rate (%)")
    ends = _draw_rates(axes, summary, "win_rate", label="win rate", shift=-0.02, color=BLUE, marker="o")
    style: dict[str, Any] = {"label": "equal length", "shift": 0.02, "color": VERMILION, "marker": "s"}
    ends += _draw_rates(axes, summary, "win_rate_length_controlled", **style)
    if any(entry["second_judge"] for entry in summary["iterations"]):
        ends += _draw_rates(axes, summary, "second_judge", label="second judge", shift=0.06, color=PURPLE, marker="D")
    if summary["null_control"] is not None:
        ends += _draw_level(axes, Rate.from_dict(summary["null_control"]["win_rate"]), "null control")
    _around_one_half(axes)
    _name_ends(axes, ends, [summary], margin=0.25, height=height)
    return figure


def _draw_checked(axes: Any, summary: dict[str, Any], *, height: float) -> None:
    axes.set(xlabel="iteration (0: untrained)", title="checked rate (%)")
    label = "trained types" if unseen_types(summary) else "all types"
    ends = _draw_rates(axes, summary, "checked", label=label, shift=-0.02, color=BLUE, marker="o")
    style: dict[str, Any] = {"label": "unseen types", "color": VERMILION, "marker": "s", "linewidth": 0.8}
    ends += _draw_rates(axes, summary, "unseen", shift=0.02, **style)
    if (summary["baseline_checked"] or {}).get("strict") is not None:
        ends += _draw_level(axes, Rate.from_dict(summary["baseline_checked"]["strict"]), "direct baseline")
    axes.set_ylim(0, min(100, 1.1 * max(axes.get_ylim()[1], 1)))
    _name_ends(axes, ends, [summary], margin=0.25, height=height)


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


# --- several runs -----------------------------------------------------------------------------------------------


@styled
def draw_iterations(summaries: Summaries) -> "Figure":
    """Draw rates over iterations, one colour for each run: checked where a run has checks, win rates, at equal length.

    The checked rate of the direct baseline is a dotted line in the colour of its run.
    """
    every = list(summaries.values())
    figure = new_figure(PAGE, HEIGHT, caption=f"{_common(every)}; {bars_text(every)}")
    is_checked = any(summary["iterations"][-1]["checked"] for summary in every)
    titles = {"win_rate": "win rate", "win_rate_length_controlled": "win rate at equal length"}
    titles = {"checked": "checked rate", "win_rate": "win rate"} if is_checked else titles
    panels = figure.subplots(1, 2)
    named: set[str] = set()  # a run is named once, in the right panel if it is there
    for axes, (key, title) in zip(reversed(panels), reversed(titles.items()), strict=True):
        axes.set(xlabel="iteration (0: untrained)", title=f"{title} (%)")
        ends = []
        for index, (label, summary) in enumerate(summaries.items()):
            style = appearance(index)
            ends += _draw_rates(axes, summary, key, label=label, shift=_shift(index, summaries), **style)
            direct = (summary["baseline_checked"] or {}).get("strict")
            if key == "checked" and direct is not None:
                axes.axhline(
                    100 * (direct["rate"] or 0.0), color=style["color"], linewidth=0.8, linestyle=":", zorder=0
                )
        if key == "checked":
            axes.set_ylim(0, min(100, 1.1 * max(axes.get_ylim()[1], 1)))
        else:
            _around_one_half(axes)
        ends = [end for end in ends if end[1] not in named]
        named.update(label for _, label, _ in ends)
        _name_ends(axes, ends, every, margin=0.2 + 0.025 * len(every), height=0.68 * HEIGHT)
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


def _around_one_half(axes: Any) -> None:
    """Set the vertical axis of win rates, in percent: as far below one half as above it, a quarter at least."""
    axes.axhline(50, color=REFERENCE, linewidth=0.7, linestyle=":", zorder=0)
    furthest = max(abs(edge - 50) for edge in axes.get_ylim())
    half = min(50.0, max(25.0, furthest))
    axes.set(xlabel="iteration (0: untrained)", ylim=(50 - half, 50 + half))


def _draw_rates(axes: Any, summary: dict[str, Any], key: str, *, label: str, shift: float, **style: Any) -> list[End]:
    """Draw a run's rates over its iterations; return the line's end, or nothing where nothing was scored."""
    known = [(entry["iteration"] + shift, rate) for entry in summary["iterations"] if (rate := _rate(entry, key))]
    draw_points(axes, [place for place, _ in known], [rate for _, rate in known], label=label, **style)
    return [(100 * rate.rate, label, style["color"]) for _, rate in known if rate.rate is not None][-1:]


def _rate(entry: dict[str, Any], key: str) -> Rate | None:
    """Return one of an iteration's rates; None where it was not measured."""
    checked, second = entry["checked"] or {}, entry["second_judge"] or {}
    places = {
        "checked": checked.get("strict"),
        "unseen": checked.get("unseen"),
        "second_judge": second.get("win_rate"),
    }
    found = places[key] if key in places else entry[key]
    return None if found is None else Rate.from_dict(found)


def _draw_level(axes: Any, rate: Rate, label: str) -> list[End]:
    """Draw a rate that no iteration changes as a horizontal line with a band for its interval; return its end."""
    if rate.rate is None:
        return []
    axes.axhline(100 * rate.rate, color=GREY, linewidth=0.9, linestyle="--", zorder=0)
    if rate.interval is not None:
        axes.axhspan(*(100 * edge for edge in rate.interval), color=GREY, alpha=0.12, linewidth=0, zorder=0)
    return [(100 * rate.rate, label, GREY)]


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
    if any("averaged" in summary for summary in summaries):
        return bars_text(summaries)
    if any("length_intervals" in entry for summary in summaries for entry in summary["iterations"]):
        return "means over answers with a response; bars: 95 % intervals"
    return "means over answers with a response; no intervals: the summary holds none"
