"""The figures of an evaluation: categories, what a thought is worth, and what a thought budget buys.

They are drawn from the `summary.json` that `python -m tpo.evaluate` writes into `runs/evaluate-*`.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.results.figures.style import (
    BLUE,
    COLUMN,
    GREY,
    PAGE,
    PURPLE,
    REFERENCE,
    ROW,
    count_text,
    draw_interval,
    draw_points,
    interval_text,
    label_ends,
    names_of_rows,
    new_figure,
    save,
    styled,
)
from tpo.results.rate import Interval, Rate
from tpo.store.text import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SIGNIFICANT = 0.05  # an adjusted p-value below it fills the marker
CONDITIONS = {
    "own": "own thought",
    "sampled": "own, as sampled",
    "none": "no thought",
    "other": "another instruction's",
    "seed": "the seed model's",
    "direct": "asked directly",
}


def write_evaluation_figures(
    summary: dict[str, Any], directory: Path, *, formats: Sequence[str] = ("png",)
) -> list[Path]:
    """Write the figure of an evaluation under its name and return the paths; none where its kind has no figure."""
    drawings = {
        "categories": draw_category_gains,
        "thought_value": draw_thought_value,
        "thought_budget": draw_thought_budget,
    }
    name = summary["evaluation"]
    return save(drawings[name](summary), directory, name, formats=formats) if name in drawings else []


@styled
def draw_category_gains(summary: dict[str, Any]) -> "Figure":
    """Draw the gain over 50 % in each category, the greatest at the top, the overall one above all.

    Thick bars are intervals for one category, thin ones hold for all categories at once; a marker is filled where the
    gain differs from 0 after Holm's correction. What has no score has its row, which says so.
    """
    overall = Rate.from_dict(summary["overall"])
    categories = {name: Rate.from_dict(rate) for name, rate in summary["categories"].items()}
    names = sorted(categories, key=lambda name: (categories[name].rate is not None, categories[name].rate or 0.0, name))
    figure = new_figure(
        1.3 * COLUMN,
        0.2 * (len(names) + 1) + 1.1,
        caption=_caption(summary, f"thick {interval_text(summary['confidence'])}, thin: simultaneous")
        + f"; filled: p < {SIGNIFICANT:g} after Holm's correction",
    )
    axes = figure.subplots()
    axes.axvline(0, color=REFERENCE, linewidth=0.7, linestyle=":")
    for row, name in enumerate(names):
        found = categories[name]
        if found.rate is None:
            axes.text(0, row, " nothing scored", va="center", fontsize=7, color=GREY)
            continue
        draw_interval(axes, row, _minus_half(found.simultaneous_interval), color=BLUE, linewidth=0.7)
        draw_interval(axes, row, _minus_half(found.interval), color=BLUE, linewidth=3, alpha=0.35)
        axes.plot(100 * (found.rate - 0.5), row, "o", color=BLUE, markerfacecolor=_face(found, BLUE))
    if overall.rate is not None:
        draw_interval(axes, len(names) + 0.3, _minus_half(overall.interval), color=REFERENCE, linewidth=3, alpha=0.35)
        axes.plot(100 * (overall.rate - 0.5), len(names) + 0.3, "D", color=REFERENCE)
    called = names_of_rows(names)
    rows = [(f"{called[name]}, {count_text([categories[name]])}", row) for row, name in enumerate(names)]
    rows.append((f"all, {count_text([overall])}", len(names) + 0.3))  # type: ignore[arg-type]
    axes.set_yticks([row for _, row in rows], [label for label, _ in rows])
    axes.tick_params(axis="y", length=0)
    axes.set(xlabel="win rate above 50 % (points)", ylim=(-0.6, len(names) + 0.9))
    return figure


@styled
def draw_thought_value(summary: dict[str, Any]) -> "Figure":
    """Draw the win rate under each intervention on the thought, and its difference to the policy's own thought."""
    conditions = summary["conditions"]
    filled = f"filled at the right: p < {SIGNIFICANT:g} after Holm's correction"
    caption = _caption(summary, interval_text(summary["confidence"]), filled)
    figure = new_figure(PAGE, 0.36 * len(conditions) + 0.95, caption=caption)
    rates, differences = figure.subplots(1, 2, sharey=True, width_ratios=(1.15, 1))
    rates.axvline(50, color=REFERENCE, linewidth=0.7, linestyle=":")
    differences.axvline(0, color=REFERENCE, linewidth=0.7, linestyle=":")
    for row, condition in enumerate(conditions):
        for axes in (rates, differences):
            axes.axhline(row, color=ROW, linewidth=0.7, zorder=0)
        rate, is_own = Rate.from_dict(condition["win_rate"]), condition["name"] == "own"
        color = BLUE if is_own else PURPLE
        if rate.rate is None:
            _note(rates, row, "nothing scored")
        else:
            draw_interval(rates, row, rate.interval, color=color, linewidth=3, alpha=0.4)
            rates.plot(100 * rate.rate, row, "D" if is_own else "o", color=color)
            _note(rates, row, f"{100 * rate.rate:.1f} %\n{count_text([rate])}")
        minus_own = condition["minus_own"] and Rate.from_dict(condition["minus_own"])
        if minus_own is None or minus_own.rate is None:
            _note(differences, row, "(compared with this)" if is_own else "not compared")
            continue
        draw_interval(differences, row, minus_own.interval, color=color, linewidth=3, alpha=0.4)
        differences.plot(100 * minus_own.rate, row, "o", color=color, markerfacecolor=_face(minus_own, color))
        points = f"{100 * minus_own.rate:+.1f}".replace("-", "\N{MINUS SIGN}")
        _note(differences, row, f"{points}, n = {minus_own.num_prompts:,}{_p_text(minus_own)}")
    labels = [f"{_condition(found['name'])}\n{found['mean_thought_tokens']:.0f} tokens" for found in conditions]
    rates.set_yticks(range(len(conditions)), labels)
    edges = [100 * edge for found in conditions for edge in found["win_rate"]["interval"] or ()]
    half = max([25.0, *(abs(edge - 50) for edge in edges)])
    rates.set(xlabel="win rate (%)", xlim=(50 - half, 50 + half), ylim=(len(conditions) - 0.5, -0.5))
    differences.set_xlabel("win rate minus that with own thought (points)")
    for axes in (rates, differences):
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
    return figure


@styled
def draw_thought_budget(summary: dict[str, Any]) -> "Figure":
    """Draw the win rate, and the tokens that were used, against how many tokens a thought may take."""
    budgets = sorted(summary["budgets"], key=lambda budget: budget["max_thought_tokens"])
    limits = [budget["max_thought_tokens"] for budget in budgets]
    positions = log_positions(limits)
    rates = [Rate.from_dict(budget["win_rate"]) for budget in budgets]
    caption = _caption(summary, count_text(rates), interval_text(summary["confidence"]))
    figure = new_figure(COLUMN, 3.5, caption=caption)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(1.7, 1))
    upper.axhline(50, color=REFERENCE, linewidth=0.7, linestyle=":")
    draw_points(upper, positions, rates, color=BLUE, marker="o")
    upper.set(ylabel="win rate (%)", ylim=(0, 100))
    ends = []
    for part, color, marker in (("thought", PURPLE, "s"), ("response", BLUE, "o")):
        used = [budget[f"mean_{part}_tokens"] for budget in budgets]
        lower.plot(positions, used, color=color, marker=marker, label=part)
        ends.append((used[-1], part, color))
    lower.set(xlabel="thought budget (tokens, logarithmic)", ylabel="mean tokens", xticks=positions)
    lower.set_xticklabels([f"{limit:,}" for limit in limits])
    lower.set_ylim(0, 1.1 * max(lower.get_ylim()[1], 1))
    label_ends(lower, ends, height=0.85)
    return figure


def log_positions(limits: list[int]) -> list[float]:
    """Return base-2 logarithms of ascending budgets; 0 stands one doubling below the smallest positive one."""
    smallest = min((limit for limit in limits if limit), default=1)
    return [math.log2(limit or smallest / 2) for limit in limits]


def _minus_half(interval: Interval | None) -> Interval | None:
    return None if interval is None else (interval[0] - 0.5, interval[1] - 0.5)


def _face(rate: Rate, color: str) -> str:
    """Return what fills a marker: the colour where the rate differs after Holm's correction."""
    return color if rate.adjusted_p_value is not None and rate.adjusted_p_value < SIGNIFICANT else "white"


def _caption(summary: dict[str, Any], *parts: str) -> str:
    return "; ".join([f"{summary['policy']} against {summary['baseline']}", f"judge {summary['judge']}", *parts])


def _condition(name: str) -> str:
    """Return a condition in words: "cut-0.5" is the policy's own thought, of which half is kept."""
    kept = name.removeprefix("cut-")
    return f"own, {100 * float(kept):g} % of it" if kept != name else CONDITIONS.get(name, one_line(name))


def _p_text(rate: Rate) -> str:
    """Return the adjusted p-value as a line of text; nothing where there was no test."""
    if rate.adjusted_p_value is None:
        return ""
    return "\nadj. p < 0.001" if rate.adjusted_p_value < 0.001 else f"\nadj. p = {rate.adjusted_p_value:.3f}"


def _note(axes: Any, row: int, text: str) -> None:
    """Write a number beside the axes, in line with its row."""
    axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), va="center", fontsize=6.5, color=REFERENCE)
