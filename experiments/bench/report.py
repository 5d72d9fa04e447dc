"""What the benchmark found, as text and as a figure: `python -m experiments.bench.report <machine>.json`."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.results.figures.style import BLUE, GREY, PAGE, REFERENCE, ROW, new_figure, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def reaches_text(result: Mapping[str, Any]) -> str:
    """Return what the machine is and what it reaches."""
    machine, reaches = result["machine"], result["reaches"]
    where = machine["gpu"] or f"{machine['num_cores']} cores of {machine['cpu']}"
    return (
        f"{where}, {machine['memory_gib']} GiB: "
        f"{reaches['bfloat16_operations_per_s'] / 1e9:,.0f} GFLOP/s in bfloat16, "
        f"{reaches['float32_operations_per_s'] / 1e9:,.0f} in float32; "
        f"{reaches['memory_bytes_per_s'] / 1e9:,.1f} GB/s from memory, "
        f"{reaches['weights_bytes_per_s'] / 1e9:,.1f} for the model's weights again and again"
    )


def part_text(part: Mapping[str, Any]) -> str:
    """Return a part's table: a line for each contender, ratio, floor and check."""
    lines = [f"{part['title']}, medians of {part['num_rounds']} rounds [smallest, largest]"]
    for name, entry in part["contenders"].items():
        if not entry["value"]:
            lines.append(f"  {name:24} {entry['status']}")
            continue
        start = entry["startup_s"]["median"]
        lines.append(
            f"  {name:24} {range_text(entry['value']):28} {entry['seconds']['median']:8.1f} s, "
            f"{f'start {start:.0f} s, ' if start else ''}{memory_text(entry['peak_memory_mib'])}"
        )
    for found in part["speedups"]:
        lines.append(f"  {found['ours']} / {found['other']}: {range_text(found)} times as fast")
    for name, found in part["floors"].items():
        lines.append(
            f"  floor of {name}: {number_text(found['value'])} ({found['operations'] / 1e12:.2f} TFLOP in "
            f"{found['arithmetic_s']:.3g} s, {found['bytes_read'] / 1e9:.1f} GB in {found['memory_s']:.3g} s)"
        )
    for name, found in part["checks"].items():
        text = found["status"]
        if text == "ok":
            text = (
                f"at most {found['max_abs_difference']:.2g} apart, n = {found['num_values']} "
                f"(standard deviation {found['standard_deviation']:.2g})"
            )
        lines.append(f"  {name}: {text}")
    return "\n".join(lines)


def range_text(found: Mapping[str, Any]) -> str:
    """Return "1.23 [1.1, 1.4]"."""
    return f"{number_text(found['median'])} [{number_text(found['low'])}, {number_text(found['high'])}]"


def number_text(value: float, digits: int = 4) -> str:
    """Return a number of so many digits that count, or a whole one: "1.235", "12.3", "6,730"."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10**digits else f"{rounded:,.{digits}g}"


def memory_text(peak: Mapping[str, float]) -> str:
    """Return the peaks in GiB."""
    return ", ".join(f"{device} {value / 1024:.1f} GiB" for device, value in sorted(peak.items(), reverse=True))


@styled
def draw_benchmark(result: Mapping[str, Any]) -> "Figure":
    """Draw a panel for each part: a bar per contender that ran, its range, the ratio of ours to it, and the floor."""
    parts = [part for part in result["parts"].values() if any(entry["value"] for entry in part["contenders"].values())]
    rows = [sum(1 for entry in part["contenders"].values() if entry["value"]) for part in parts]
    machine = result["machine"]
    where = machine["gpu"] or f"{machine['num_cores']} cores, {machine['cpu']}"
    counts = sorted({part["num_rounds"] for part in parts})
    caption = (
        f"{where}; bars: medians of {' or '.join(map(str, counts))} rounds; lines: smallest and largest; "
        "times: how many times as fast ours is; dotted: floor of the machine's arithmetic and memory"
    )
    figure = new_figure(PAGE, 0.5 + sum(0.27 * count + 0.5 for count in rows), caption=caption)
    panels = figure.subplots(len(parts), 1, squeeze=False, height_ratios=[count + 1.0 for count in rows])
    for axes, part in zip(panels[:, 0], parts, strict=True):
        _draw_part(axes, part)
    return figure


def _draw_part(axes: Any, part: Mapping[str, Any]) -> None:
    entries = {name: entry for name, entry in part["contenders"].items() if entry["value"]}
    ours = {found["ours"] for found in part["speedups"]} | set(part["floors"]) | {"ours"}
    speedups: dict[str, str] = {}
    for found in part["speedups"]:  # the first comparison names the contender's ratio
        speedups.setdefault(found["other"], f"{found['median']:.1f} times")
    for row, (name, entry) in enumerate(entries.items()):
        value = entry["value"]
        axes.barh(row, value["median"], height=0.6, color=BLUE if name in ours else GREY)
        axes.plot([value["low"], value["high"]], [row, row], color=REFERENCE, linewidth=1.2)
        note = number_text(value["median"]) + (f"   {speedups[name]}" if name in speedups else "")
        axes.annotate(
            note,
            (max(value["high"], value["median"]), row),
            xytext=(4, 0),
            textcoords="offset points",
            va="center",
            fontsize=7,
            color=REFERENCE,
        )
    largest = max(entry["value"]["high"] for entry in entries.values())
    limits = {found["value"] for found in part["floors"].values() if found["value"] < 4 * largest}
    for limit in limits:
        axes.axvline(limit, color=REFERENCE, linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(entries)), [part["descriptions"][name] for name in entries])
    floors = " or ".join(dict.fromkeys(number_text(found["value"], 3) for found in part["floors"].values()))
    axes.set(
        title=part["title"] + (f"; floor {floors}" if floors else ""),
        ylim=(len(entries) - 0.5, -0.5),
        xlim=(0, 1.3 * max(largest, *limits, 0)),
    )
    axes.tick_params(axis="y", length=0)
    axes.set_axisbelow(True)
    axes.grid(axis="x", color=ROW, linewidth=0.7)


def write_figure(result: Mapping[str, Any], path: Path) -> list[Path]:
    """Draw the figure beside the file of the results, PNG and SVG."""
    return save(draw_benchmark(result), path.parent, path.stem)


def main() -> None:
    """Print the tables of a file and draw its figure again."""
    path = Path(sys.argv[1])
    result = json.loads(path.read_text())
    print(reaches_text(result), *map(part_text, result["parts"].values()), sep="\n")
    print(*write_figure(result, path), sep="\n")


if __name__ == "__main__":
    main()
