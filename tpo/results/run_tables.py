"""The tables that a run and an evaluation print when they are finished, made of their summaries."""

from typing import Any

from tpo.results.rate import REQUIRED, Rate, format_count, format_rate
from tpo.results.text_table import TextTable


def iterations_table(summary: dict[str, Any]) -> TextTable:
    """Return the iterations of a run, one row each."""
    rows = []
    for entry in summary["iterations"]:
        rate = Rate.from_dict(entry["win_rate"])
        rows.append(
            (
                str(entry["iteration"]),
                format_rate(rate),
                format_rate(Rate.from_dict(entry["win_rate_length_controlled"])),
                format_count(rate.num_prompts, rate.num_unscored),
                f"{entry['mean_thought_tokens']:.0f}",
                f"{entry['mean_response_tokens']:.0f}",
                f"{100 * entry['format_rate']:.0f} %",
                str(entry["num_pairs"]),
            )
        )
    names = ("iteration", "win rate", "length-controlled", "n", "thought tok.", "response tok.", "format", "pairs")
    title = f"{summary['experiment']}: policy against {summary['baseline']} (judge: {summary['judge']})"
    return TextTable(title, names, rows)


def categories_table(summary: dict[str, Any]) -> TextTable:
    """Return the win rates by category, of the first and of the last iteration."""
    first, last = summary["iterations"][0], summary["iterations"][-1]
    rows = []
    for name, plain in last["categories"].items():
        before, after = Rate.from_dict(first["categories"][name]), Rate.from_dict(plain)
        count = format_count(after.num_prompts, after.num_unscored)
        rows.append((name, format_rate(before), format_rate(after), count))
    title = f"win rate by category: iteration {first['iteration']} and {last['iteration']}"
    return TextTable(title, ("category", "before", "after", "n"), rows)


def pairs_table(summary: dict[str, Any]) -> TextTable:
    """Return the pairs and drops of every iteration that trained; pairs and drops add up to the instructions."""
    trained = [entry for entry in summary["iterations"] if entry["judging"] is not None]
    reasons = dict.fromkeys(reason for entry in trained for reason in entry["drops"])  # a rule may have its own
    rows = []
    for entry in trained:
        drops = [entry["drops"].get(reason, 0) for reason in reasons]
        counts = (entry["num_pairs"] + sum(drops), entry["num_pairs"], *drops)
        rows.append((str(entry["iteration"]), *map(str, counts)))
    names = ("iteration", "instructions", "pairs", *(reason.replace("_", " ") for reason in reasons))
    return TextTable("pairs, and instructions without one by reason", names, rows)


def evaluation_table(summary: dict[str, Any]) -> TextTable:
    """Return every rate of an evaluation, one row each, called by the keys that lead to it."""
    title = f"{summary['evaluation']}: {summary['policy']}"
    if "baseline" in summary:
        title += f" against {summary['baseline']} (judge: {summary['judge']})"
    if summary.get("num_left_out"):
        title += f", {summary['num_left_out']} that it has seen left out"
    rows = [
        (
            name,
            format_rate(rate, sign="+" if "minus" in name else ""),
            f"{rate.num_prompts:,}",
            f"{rate.num_unscored:,}",
        )
        for name, rate in _rates(summary)
    ]
    return TextTable(title, ("", "rate", "n", "unscored"), rows)


def _rates(value: Any, name: str = "") -> list[tuple[str, Rate]]:
    if isinstance(value, dict) and set(value) >= REQUIRED:
        return [(name, Rate.from_dict(value))]
    parts: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        parts = list(value.items())
    elif isinstance(value, list):
        parts = [
            (part.get("name", part.get("max_thought_tokens", "")), part) for part in value if isinstance(part, dict)
        ]
    return [found for key, part in parts for found in _rates(part, f"{name} {key}".strip())]
