"""The figures of one run, drawn from its summary alone."""

import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

POLICY, SEED, REFERENCE = "#1b6ca8", "#9aa5b1", "#444444"


def write_figures(summary: dict[str, Any], directory: Path) -> list[Path]:
    """Write `win_rate.png`, `categories.png` and `lengths.png` and return their paths."""
    directory.mkdir(exist_ok=True)
    paths = []
    for name, figure in _figures(summary):
        path = directory / f"{name}.png"
        figure.savefig(path, dpi=150, bbox_inches="tight")
        paths.append(path)
    return paths


def svg_figures(summary: dict[str, Any]) -> dict[str, str]:
    """Return the same figures as SVG texts by name; the same summary gives the same bytes."""
    import matplotlib

    texts = {}
    # Text stays text, and the ids of clip paths, which are random otherwise, follow from the drawing.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "tpo", "font.family": "sans-serif"}):
        for name, figure in _figures(summary):
            buffer = io.StringIO()
            metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
            figure.savefig(buffer, format="svg", bbox_inches="tight", transparent=True, metadata=metadata)
            texts[name] = buffer.getvalue()
    return texts


def _figures(summary: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each figure with its name, and close it afterwards."""
    import matplotlib

    matplotlib.use("Agg")  # no screen is needed, and none may be there
    import matplotlib.pyplot as plt

    plt.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 10})
    drawings = {"win_rate": _draw_win_rate, "categories": _draw_categories, "lengths": _draw_lengths}
    for name, draw in drawings.items():
        figure = draw(summary)
        yield name, figure
        plt.close(figure)


def _draw_win_rate(summary: dict[str, Any]) -> Any:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(figsize=(6, 4))
    series = (
        ("win_rate", "win rate", POLICY, -0.03),
        ("win_rate_length_controlled", "length-controlled", "#d1731f", 0.03),
    )
    for key, label, color, shift in series:
        points = [(entry["iteration"], entry[key]) for entry in summary["iterations"] if entry[key]["rate"] is not None]
        _draw_points(axes, [(position + shift, rate) for position, rate in points], label=label, color=color)
    axes.axhline(50, color=REFERENCE, linewidth=0.8, linestyle=":")
    axes.set(xlabel="iteration (0: thought prompt, untrained)", ylabel="win rate against direct answers (%)")
    axes.set_ylim(0, 100)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="upper left")
    count = summary["iterations"][-1]["win_rate"]["num_prompts"]
    axes.set_title(f"{summary['experiment']}, judge {summary['judge']}, n = {count}", fontsize=10)
    return figure


def _draw_points(axes: Any, points: list[tuple[float, dict[str, Any]]], *, label: str, color: str) -> None:
    if not points:
        return
    positions = [position for position, _ in points]
    rates = [100 * rate["rate"] for _, rate in points]
    below = [100 * max(0.0, rate["rate"] - rate["interval"][0]) for _, rate in points]
    above = [100 * max(0.0, rate["interval"][1] - rate["rate"]) for _, rate in points]
    axes.errorbar(positions, rates, yerr=[below, above], marker="o", capsize=3, color=color, label=label)


def _draw_categories(summary: dict[str, Any]) -> Any:
    import matplotlib.pyplot as plt

    first, last = summary["iterations"][0]["categories"], summary["iterations"][-1]["categories"]
    names = sorted(
        (name for name in last if last[name]["rate"] is not None), key=lambda name: (last[name]["rate"], name)
    )
    figure, axes = plt.subplots(figsize=(7, 0.32 * len(names) + 1.4))
    for position, name in enumerate(names):
        low, high = (100 * edge for edge in last[name]["interval"])
        rate = 100 * last[name]["rate"]
        axes.plot([low, high], [position, position], color=POLICY, alpha=0.35, linewidth=3, solid_capstyle="round")
        if first[name]["rate"] is not None:
            axes.plot(100 * first[name]["rate"], position, "o", color=SEED, markersize=6)
        axes.plot(rate, position, "o", color=POLICY, markersize=6)
    label = f"iteration {summary['iterations'][-1]['iteration']}, {100 * summary['confidence']:g} % interval"
    axes.plot([], [], "o", color=SEED, label="iteration 0")
    axes.plot(
        [],
        [],
        "o",
        color=POLICY,
        label=label,
    )
    axes.axvline(50, color=REFERENCE, linewidth=0.8, linestyle=":")
    counts = [last[name]["num_prompts"] for name in names]
    axes.set_yticks(range(len(names)), [f"{name} (n = {count})" for name, count in zip(names, counts, strict=True)])
    axes.set(xlabel="win rate against direct answers (%)", xlim=(-2, 102))
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    return figure


def _draw_lengths(summary: dict[str, Any]) -> Any:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import MaxNLocator

    figure, axes = plt.subplots(figsize=(6, 4))
    iterations = [entry["iteration"] for entry in summary["iterations"]]
    for key, label, color in (("thought", "thought", "#7a4fa3"), ("response", "response", POLICY)):
        values = [entry[f"mean_{key}_tokens"] for entry in summary["iterations"]]
        axes.plot(iterations, values, marker="o", color=color, label=label)
    axes.set(xlabel="iteration", ylabel="mean tokens")
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(frameon=False)
    return figure
