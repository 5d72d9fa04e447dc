"""Figures that compare runs over their iterations, such as TPO with the direct baseline."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tpo.results.figures.style import (
    PAGE,
    REFERENCE,
    appearance,
    caption_text,
    count_text,
    draw_means,
    draw_points,
    interval_text,
    label_ends,
    length_bars_text,
    length_means,
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

    The caption says where no intervals are known. A run without thoughts is missing among the thoughts.
    """
    every = list(summaries.values())
    figure = new_figure(PAGE, HEIGHT, caption=caption_text(*_common(every), length_bars_text(every)))
    panels = figure.subplots(1, 2)
    for axes, part in zip(panels, ("thought", "response"), strict=True):
        ends = []
        for index, (label, summary) in enumerate(summaries.items()):
            style = appearance(index)
            if not (found := length_means(summary, part)):
                continue
            positions, means, edges = zip(*found, strict=True)
            shift = 0.05 * (index - (len(summaries) - 1) / 2)
            draw_means(axes, [position + shift for position in positions], means, edges, label=label, **style)
            ends.append((means[-1], label, style["color"]))
        axes.set(title=f"{part}s", xlabel="iteration (0: untrained)")
        axes.set_ylim(0, 1.1 * max(axes.get_ylim()[1], 1))
        _name_ends(axes, ends if part == "response" else [], summaries)
    panels[0].set_ylabel("mean tokens")
    return figure


def _name_ends(axes: Any, ends: Sequence[tuple[float, str, str]], summaries: Summaries) -> None:
    iterations = sorted({entry["iteration"] for summary in summaries.values() for entry in summary["iterations"]})
    edge = 0.05 * len(summaries) / 2
    axes.set(xlim=(iterations[0] - 0.2 - edge, iterations[-1] + 0.2 + edge), xticks=iterations)
    label_ends(axes, ends, height=0.68 * HEIGHT)


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
