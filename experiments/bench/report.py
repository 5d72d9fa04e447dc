"""What the benchmark found, as text.

python -m experiments.bench.report <machine>.json       tables of a machine; draws its figure again
python -m experiments.bench.report <a>.json <b>.json    ratios by processor, a table in Markdown
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments.bench.machine import processor_text


def reaches_text(result: Mapping[str, Any]) -> str:
    """Return what the machine is and what it reaches."""
    machine, reaches = result["machine"], result["reaches"]
    return (
        f"{processor_text(machine)}, {machine['memory_gib']} GiB: "
        f"{reaches['bfloat16_operations_per_s'] / 1e9:,.0f} GFLOP/s in bfloat16, "
        f"{reaches['float32_operations_per_s'] / 1e9:,.0f} in float32; "
        f"{reaches['memory_bytes_per_s'] / 1e9:,.1f} GB/s from memory, "
        f"{reaches['weights_bytes_per_s'] / 1e9:,.1f} for the model's weights again and again"
    )


def part_text(part: Mapping[str, Any]) -> str:
    """Return a part's table: for each condition a line for each contender and ratio, then floors and checks."""
    lines = [f"{part['title']}, medians of {part['num_rounds']} rounds [smallest, largest]"]
    for condition, entries in part["conditions"].items():
        lines.append(f" {condition}:")
        kept = part["kept"].get(condition, {})
        for name, entry in entries["contenders"].items():
            if not entry["value"]:
                lines.append(f"  {name:24} {entry['status']}")
                continue
            start = entry["startup_s"]["median"]
            share = f", keeps {share_text(kept[name])} of its quiet speed" if name in kept else ""
            lines.append(
                f"  {name:24} {range_text(entry['value']):28} {entry['seconds']['median']:8.1f} s, "
                f"{f'start {start:.0f} s, ' if start else ''}{memory_text(entry['peak_memory_mib'])}{share}"
            )
        for found in entries["speedups"]:
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


def range_text(found: Mapping[str, Any], digits: int = 4) -> str:
    """Return "1.23 [1.1, 1.4]", a single value without a range."""
    text = number_text(found["median"], digits)
    if found["num"] == 1:
        return text
    return f"{text} [{number_text(found['low'], digits)}, {number_text(found['high'], digits)}]"


def share_text(found: Mapping[str, Any]) -> str:
    """Return "52 % [50, 54]", a single value without a range."""
    text = f"{100 * found['median']:.0f} %"
    return text if found["num"] == 1 else f"{text} [{100 * found['low']:.0f}, {100 * found['high']:.0f}]"


def number_text(value: float, digits: int = 4) -> str:
    """Return a number of so many digits that count, or a whole one: "1.235", "12.3", "6,730"."""
    rounded = float(f"{value:.{digits}g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 10**digits else f"{rounded:,.{digits}g}"


def memory_text(peak: Mapping[str, float]) -> str:
    """Return the peaks in GiB."""
    return ", ".join(f"{device} {value / 1024:.1f} GiB" for device, value in sorted(peak.items(), reverse=True))


def main() -> None:
    """Print the tables of a file and draw its figure again, or print several files' ratios by processor."""
    from experiments.bench.figure import write_figure
    from experiments.bench.processors import table

    paths = [Path(name) for name in sys.argv[1:]]
    results = [json.loads(path.read_text()) for path in paths]
    if len(results) > 1:
        print(table(results))
        return
    (result,), (path,) = results, paths
    print(reaches_text(result), *map(part_text, result["parts"].values()), sep="\n")
    print(*write_figure(result, path), sep="\n")


if __name__ == "__main__":
    main()
