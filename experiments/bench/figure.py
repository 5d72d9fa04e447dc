"""The benchmark's figure: a panel for each part, a bar for each contender under each condition."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.bench.machine import processor_text
from experiments.bench.processors import cell, ours_of
from experiments.bench.report import number_text
from tpo.results.figures.style import BLUE, GREY, PAGE, REFERENCE, ROW, new_figure, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALE = {"quiet": 1.0, "busy": 0.55, "two": 0.3}  # opacity of a condition's bars
BAR, GAP = 0.2, 0.12  # inches
MARGIN = 0.62  # of a panel: title and ticks
ROOM = 2.0  # of the longest bar, for what is written beside it


class Bar(NamedTuple):
    """One bar: its place counts bars from the top, with a gap before each contender."""

    contender: str
    condition: str
    place: float
    value: Mapping[str, Any]
    note: str


def bars(part: Mapping[str, Any]) -> list[Bar]:
    """Return the bars of a part, contender by contender; the first comparison names a contender's ratio."""
    found: list[Bar] = []
    place = 0.0
    for contender in part["descriptions"]:
        for condition, entries in part["conditions"].items():
            entry = entries["contenders"].get(contender)
            if entry is None or not entry["value"]:
                continue
            if found and found[-1].contender != contender:
                place += GAP / BAR
            note = cell(part, condition, contender, has_ranges=False)
            found.append(Bar(contender, condition, place, entry["value"], note))
            place += 1
    return found


@styled
def draw_benchmark(result: Mapping[str, Any]) -> "Figure":
    """Draw medians with their ranges, the ratio of ours to each, what each keeps of its quiet speed, and the floor."""
    drawn = [(part, found) for part in result["parts"].values() if (found := bars(part))]
    heights = [BAR * (found[-1].place + 1) + MARGIN for _, found in drawn]
    counts = sorted({part["num_rounds"] for part, _ in drawn})
    caption = (
        f"{processor_text(result['machine'])}; bars: medians of {' or '.join(map(str, counts))} rounds, ours blue; "
        "lines: smallest and largest; times: how many times as fast ours is; keeps: share of its speed with nothing "
        "beside it; dotted: floor of the machine's arithmetic and memory"
    )
    figure = new_figure(PAGE, 0.7 + sum(heights), caption=caption)
    panels = figure.subplots(len(drawn), 1, squeeze=False, height_ratios=heights)
    for axes, (part, found) in zip(panels[:, 0], drawn, strict=True):
        _draw_part(axes, part, found)
    return figure


def _draw_part(axes: Any, part: Mapping[str, Any], found: list[Bar]) -> None:
    ours = ours_of(part)
    for bar in found:
        color = BLUE if bar.contender in ours else GREY
        low, high = bar.value["low"], bar.value["high"]
        axes.barh(bar.place, bar.value["median"], height=0.85, color=color, alpha=PALE[bar.condition])
        axes.plot([low, high], [bar.place, bar.place], color=REFERENCE, linewidth=1.2)
        axes.annotate(
            bar.note,
            (max(high, bar.value["median"]), bar.place),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=REFERENCE,
            in_layout=False,
        )
    largest = max(bar.value["high"] for bar in found)
    limits = {floor["value"] for floor in part["floors"].values() if floor["value"] < ROOM * largest}
    for limit in limits:
        axes.axvline(limit, color=REFERENCE, linewidth=0.8, linestyle=":")
    first = {bar.contender: bar for bar in reversed(found)}.values()
    names = [
        ", ".join([part["descriptions"][bar.contender]] * (bar in first) + [bar.condition] * (bar.condition != "quiet"))
        for bar in found
    ]
    axes.set_yticks([bar.place for bar in found], names)
    floors = " or ".join(dict.fromkeys(number_text(floor["value"], 3) for floor in part["floors"].values()))
    axes.set(
        title=part["title"] + (f"; floor {floors}" if floors else ""),
        ylim=(found[-1].place + 0.6, -0.6),
        xlim=(0, ROOM * largest),
    )
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=ROW, linewidth=0.7)


def write_figure(result: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw the figure beside the file of the results, PNG and SVG."""
    return save(draw_benchmark(result), path.parent, path.stem)
