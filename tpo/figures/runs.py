"""Figures that compare runs over their iterations, such as TPO with the direct baseline."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tpo.figures.style import (
    PAGE,
    REFERENCE,
    appearance,
    caption_text,
    count_text,
    draw_points,
    interval_text,
    label_ends,
    new_figure,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Summaries of runs, by the name that a figure gives each.
Summaries = Mapping[str, dict[str, Any]]

HEIGHT = 2.5  # inches


@styled
def draw_iterations(summaries: Summaries) -> "Figure":
    """Draw win rates over iterations, one colour for each run: as they are, and controlled for length."""
    every = list(summaries.values())
    caption = caption_text(*_common(every), interval_text(_only(every, "confidence")))
    figure = new_figure(PAGE, HEIGHT, caption=caption)
    panels = figure.subplots(1, 2, sharey=True)
    keys = {"win_rate_length_controlled": "length-controlled", "win_rate": "win rate"}
    named: set[str] = set()  # a run is named once, in the right panel if it is there
    for axes, (key, title) in zip(reversed(panels), keys.items(), strict=True):
        axes.axhline(50, color=REFERENCE, linewidth=0.7, linestyle=":")
        axes.set(title=title, xlabel="iteration (0: untrained)", ylim=(0, 100))
        ends = []
        for index, (label, summary) in enumerate(summaries.items()):
            entries = summary["iterations"]
            shift = 0.05 * (index - (len(summaries) - 1) / 2)
            positions = [entry["iteration"] + shift for entry in entries]
            style = appearance(index)
            draw_points(axes, positions, [entry[key] for entry in entries], label=label, **style)
            known = [entry[key]["rate"] for entry in entries if entry[key]["rate"] is not None]
            if known and label not in named:
                ends.append((100 * known[-1], label, style["color"]))
        named.update(label for _, label, _ in ends)
        _name_ends(axes, ends, summaries)
    panels[0].set_ylabel("win rate (%)")
    return figure


@styled
def draw_lengths(summaries: Summaries) -> "Figure":
    """Draw the mean lengths of thoughts and responses over iterations, one colour for each run.

    An entry's "thought_tokens" and "response_tokens" (`tpo.figures.results.with_length_intervals`) give the intervals;
    without them the caption says that there are none. A run without thoughts is missing among the thoughts.
    """
    every = list(summaries.values())
    entries = [entry for summary in every for entry in summary["iterations"]]
    is_measured = [f"{part}_tokens" in entry for entry in entries for part in ("thought", "response")]
    bars = "95 % intervals of the mean" if any(is_measured) else "no intervals: only the means are at hand"
    figure = new_figure(PAGE, HEIGHT, caption=caption_text(*_common(every), bars))
    panels = figure.subplots(1, 2)
    for axes, part in zip(panels, ("thought", "response"), strict=True):
        ends = []
        for index, (label, summary) in enumerate(summaries.items()):
            style, found = appearance(index), _means(summary, part)
            if not found:
                continue
            shift = 0.05 * (index - (len(summaries) - 1) / 2)
            edges = [interval or [float("nan")] * 2 for _, _, interval in found]
            means = [mean for _, mean, _ in found]
            bars_below_above = [
                [mean - low for mean, (low, _) in zip(means, edges, strict=True)],
                [high - mean for mean, (_, high) in zip(means, edges, strict=True)],
            ]
            known = {"yerr": bars_below_above, "capsize": 2, "elinewidth": 0.9} if any(e for _, _, e in found) else {}
            axes.errorbar([number + shift for number, _, _ in found], means, label=label, **known, **style)
            ends.append((means[-1], label, style["color"]))
        axes.set(title=f"{part}s", xlabel="iteration (0: untrained)")
        axes.set_ylim(0, 1.1 * max(axes.get_ylim()[1], 1))
        _name_ends(axes, ends if part == "response" else [], summaries)
    panels[0].set_ylabel("mean tokens")
    return figure


def _means(summary: dict[str, Any], part: str) -> list[tuple[int, float, list[float] | None]]:
    """Return iteration, mean and interval where a length is known; nothing for a run that has no thoughts."""
    found = [
        (entry["iteration"], entry[f"mean_{part}_tokens"], entry.get(f"{part}_tokens", {}).get("interval"))
        for entry in summary["iterations"]
        if entry.get(f"mean_{part}_tokens") is not None
    ]
    return found if any(mean for _, mean, _ in found) else []


def _name_ends(axes: Any, ends: Sequence[tuple[float, str, str]], summaries: Summaries) -> None:
    iterations = sorted({entry["iteration"] for summary in summaries.values() for entry in summary["iterations"]})
    edge = 0.05 * len(summaries) / 2
    axes.set(xlim=(iterations[0] - 0.2 - edge, iterations[-1] + 0.2 + edge), xticks=iterations)
    label_ends(axes, ends, x=iterations[-1] + edge, height=0.68 * HEIGHT)


def _common(summaries: Sequence[dict[str, Any]]) -> list[str | None]:
    """Return what a caption says of all: the baseline and the judge, or that they differ, and the counts."""
    baselines, judges = ({summary.get(key) for summary in summaries} for key in ("baseline", "judge"))
    rates = [entry["win_rate"] for summary in summaries for entry in summary["iterations"]]
    baseline, judge = _only(summaries, "baseline"), _only(summaries, "judge")
    return [
        "baselines differ between runs" if len(baselines) > 1 else baseline and f"against {baseline}",
        "judges differ between runs" if len(judges) > 1 else judge and f"judge {judge}",
        count_text(rates),
    ]


def _only(summaries: Sequence[dict[str, Any]], key: str) -> Any:
    """Return the value that all share, or None."""
    first, *rest = [summary.get(key) for summary in summaries]
    return first if all(value == first for value in rest) else None
