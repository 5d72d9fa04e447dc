"""The tables that a run prints."""

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple


def format_rate(rate: dict[str, Any]) -> str:
    """Return a win rate as text: percent with its interval, or "unscored"."""
    if rate["rate"] is None:
        return "unscored"
    low, high = rate["interval"]
    return f"{100 * rate['rate']:.1f} % [{100 * low:.1f}, {100 * high:.1f}]"


def _count(rate: dict[str, Any]) -> str:
    unscored = f" (+{rate['num_unscored']} unscored)" if rate["num_unscored"] else ""
    return f"{rate['num_prompts']}{unscored}"


class TextTable(NamedTuple):
    """A table of a run as text, for the terminal and the report."""

    title: str
    names: tuple[str, ...]  # of the columns
    rows: Sequence[tuple[str, ...]]


def iterations_table(summary: dict[str, Any]) -> TextTable:
    """Return the iterations of a run, one row each."""
    rows = [
        (
            str(entry["iteration"]),
            format_rate(entry["win_rate"]),
            format_rate(entry["win_rate_length_controlled"]),
            _count(entry["win_rate"]),
            f"{entry['mean_thought_tokens']:.0f}",
            f"{entry['mean_response_tokens']:.0f}",
            f"{100 * entry['format_rate']:.0f} %",
            str(entry["num_pairs"]),
        )
        for entry in summary["iterations"]
    ]
    names = ("iteration", "win rate", "length-controlled", "n", "thought tok.", "response tok.", "format", "pairs")
    title = f"{summary['experiment']}: policy against {summary['baseline']} (judge: {summary['judge']})"
    return TextTable(title, names, rows)


def categories_table(summary: dict[str, Any]) -> TextTable:
    """Return the win rates by category, of the first and of the last iteration."""
    first, last = summary["iterations"][0], summary["iterations"][-1]
    rows = [
        (name, format_rate(first["categories"][name]), format_rate(rate), _count(rate))
        for name, rate in last["categories"].items()
    ]
    title = f"win rate by category: iteration {first['iteration']} and {last['iteration']}"
    return TextTable(title, ("category", "before", "after", "n"), rows)


def print_summary(summary: dict[str, Any]) -> None:
    """Print the iterations and the last iteration's categories as tables."""
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 120)  # a log wraps nothing
    for content in (iterations_table(summary), categories_table(summary)):
        table = Table(title=content.title)
        for name in content.names:
            table.add_column(name, justify="left" if name == "category" else "right")
        for row in content.rows:
            table.add_row(*row)
        console.print(table)
