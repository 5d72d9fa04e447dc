"""The tables that a run and an evaluation print when they are finished, made of their summaries."""

from collections.abc import Iterable
from typing import Any

from tpo.results.headline import (
    CHECKED,
    HEADLINE,
    RESPONSE_TOKENS,
    UNSEEN,
    Quantity,
    baseline_notes,
    changes,
    collapses,
)
from tpo.results.rate import REQUIRED, Rate, format_count, format_rate
from tpo.results.text_table import TextTable
from tpo.store.text import labels

LONGEST_NAME = 80  # characters, of a category in a table
LEAST_IN_CATEGORY = 10  # instructions; a win rate of fewer says nothing, and tables and figures leave it out


def run_tables(summary: dict[str, Any]) -> list[TextTable]:
    """Return what a run prints, the change since the untrained policy first; tables of what it has not are left out."""
    tables = [
        headline_table(summary),
        types_table(summary),
        rates_table(summary),
        second_judge_table(summary),
        counts_table(summary),
        categories_table(summary),
    ]
    return [table for table in tables if table is not None]


def headline_table(summary: dict[str, Any]) -> TextTable:
    """Return the headline: what was measured before and after training, and the change on the same instructions."""
    found = changes(summary, *HEADLINE, RESPONSE_TOKENS)
    first, last = (summary["iterations"][place]["iteration"] for place in (0, -1))
    level = f"{100 * summary['confidence']:g} % intervals"
    notes = [f"The policy COLLAPSED. {sentence}" for sentence in collapses(summary)] + baseline_notes([summary])
    named = [f"{one.quantity.name} (%)" if one.quantity.is_fraction else one.quantity.name for one in found]
    if len(summary["iterations"]) == 1:
        untrained = [
            (name, one.numbers(one.before), _count(one.before)) for name, one in zip(named, found, strict=True)
        ]
        return TextTable(f"{summary['experiment']}: untrained, {level}", ("", "untrained", "n"), untrained, notes)
    rows = [
        (
            name,
            one.numbers(one.before),
            one.numbers(one.after),
            one.numbers(one.change, sign="+"),
            "-" if one.change is None else _count(one.change),
        )
        for name, one in zip(named, found, strict=True)
    ]
    title = f"{summary['experiment']}: trained minus untrained on the same instructions, {level}"
    if any(one.change is not None and one.change.num_unscored for one in found):
        notes.append(
            "Each column is over all that was scored after its iteration; a change is over the n that were scored "
            "after both, so it need not be the columns' difference."
        )
    return TextTable(title, ("", f"iteration {first}", f"iteration {last}", "change", "n"), rows, notes)


def types_table(summary: dict[str, Any]) -> TextTable | None:
    """Return the checked rate by type of check before and after training, None where nothing is checked.

    The types of training come first, together and each, then those that only the test has.
    """
    first, last = summary["iterations"][0], summary["iterations"][-1]
    if last["checked"] is None:
        return None
    loose = [_rate(entry["checked"]["loose"]) for entry in (first, last)]
    unseen = unseen_types(summary)
    called = labels(last["checked"]["types"], longest=LONGEST_NAME)
    by_type = {} if last["change"] is None else last["change"]["checked_types"]

    def rows_of(name: str, quantity: Quantity, kinds: Iterable[str]) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = [
            (name, *_change_cells(quantity.of(first), quantity.of(last), quantity.change(last)))
        ]
        for kind in sorted(kinds):
            rates = (first["checked"]["types"].get(kind), last["checked"]["types"][kind], by_type.get(kind))
            found.append((f"  {called[kind]}", *_change_cells(*map(_rate, rates))))
        return found

    rows = rows_of(CHECKED.name, CHECKED, set(last["checked"]["types"]) - unseen)
    rows.insert(1, ("  by loose rules", *_change_cells(loose[0], loose[-1], None)))
    if unseen:
        rows += rows_of("unseen in training", UNSEEN, unseen)
    names = ("", f"iteration {first['iteration']} (%)", f"iteration {last['iteration']} (%)")
    return TextTable("checked rate by type of check", (*names, "change (points)", "n"), rows)


def unseen_types(summary: dict[str, Any]) -> set[str]:
    """Return the types of checks that the test has and training has not."""
    return set((summary["iterations"][-1]["checked"] or {}).get("unseen_types", []))


def rates_table(summary: dict[str, Any]) -> TextTable:
    """Return the rates of every iteration, of the direct baseline and of the null control, a row each.

    "No response" counts answers that held none; they are losses in the win rate and left out of "answered".
    """
    is_checked = summary["iterations"][-1]["checked"] is not None
    rows = []
    for entry in summary["iterations"]:
        rates = [_rate(entry["checked"]["strict"])] if is_checked else []
        keys = ("win_rate", "win_rate_answered", "win_rate_length_controlled")
        rates += [_rate(entry[key]) for key in keys]
        missing = f"{entry['num_no_response']:,} of {entry['num_answers']:,}"
        rows.append((str(entry["iteration"]), *(format_rate(rate, unit="") for rate in rates), missing))
    notes = []
    if is_checked and summary["baseline_checked"] is not None:
        direct = format_rate(_rate(summary["baseline_checked"]["strict"]), unit="")
        rows.append(("direct", direct, "-", "-", "-", "-"))
        notes.append("direct: the untrained model without a thought prompt, which is the baseline.")
    if summary["null_control"] is not None:
        control = format_rate(_rate(summary["null_control"]["win_rate"]), unit="")
        rows.append(("control", *["-"] * is_checked, control, "-", "-", "-"))
        notes.append("control: further draws of the direct baseline against its own draws, 50 % but for chance.")
    names = ("iteration", *["checked (%)"] * is_checked, "win rate (%)", "answered (%)", "equal length (%)")
    title = f"against {summary['baseline']} (judge: {summary['judge']})"
    return TextTable(title, (*names, "no response"), rows, notes)


def second_judge_table(summary: dict[str, Any]) -> TextTable | None:
    """Return what a second judge says of the same answers, None where there is none."""
    found = [(entry["iteration"], entry["second_judge"]) for entry in summary["iterations"] if entry["second_judge"]]
    if not found:
        return None
    rows = [
        (
            str(iteration),
            format_rate(_rate(second["win_rate"]), unit=""),
            format_rate(_rate(second["change"]), unit="", sign="+"),
            format_rate(_rate(second["agreement"]), unit=""),
            _count(Rate.from_dict(second["agreement"])),
        )
        for iteration, second in found
    ]
    iteration, second = found[-1]
    note = (
        f"{second['judge']} and {summary['judge']} prefer the same side in "
        f"{format_rate(_rate(second['agreement']))} of the comparisons at iteration {iteration}; 50 % is chance."
    )
    names = ("iteration", "win rate (%)", "change (points)", "agreement (%)", "n")
    return TextTable(f"second judge, not trained against: {second['judge']}", names, rows, [note])


def counts_table(summary: dict[str, Any]) -> TextTable:
    """Return the lengths of the held-out answers and the pairs of every iteration, a row each."""
    rows = []
    for entry in summary["iterations"]:
        rate = Rate.from_dict(entry["win_rate"])
        rows.append(
            (
                str(entry["iteration"]),
                format_count(rate.num_prompts, rate.num_unscored),
                f"{entry['num_answers']:,}",
                f"{entry['mean_thought_tokens']:.0f}",
                f"{entry['mean_response_tokens']:.0f}",
                f"{100 * entry['format_rate']:.0f} %",
                f"{100 * entry['cut_thought_rate']:.0f} %",
                f"{entry['num_pairs']:,}",
            )
        )
    names = ("iteration", "instructions", "answers", "thought tok.", "response tok.", "format", "cut", "pairs")
    note = (
        "format: completions whose delimiters the model wrote all by itself; cut: thoughts that did not end by "
        "themselves, in their tokens."
    )
    return TextTable("held-out answers, and the pairs of training", names, rows, [note])


def categories_table(summary: dict[str, Any]) -> TextTable | None:
    """Return the win rates by category before and after training; None where `large_categories` has none."""
    first, last = summary["iterations"][0], summary["iterations"][-1]
    rows = []
    called = labels(last["categories"], longest=LONGEST_NAME)
    for name in large_categories(summary):
        before, after = (Rate.from_dict(entry["categories"][name]) for entry in (first, last))
        rows.append((called[name], format_rate(before), format_rate(after), _count(after)))
    if not rows:
        return None
    names = ("category", f"iteration {first['iteration']}", f"iteration {last['iteration']}", "n")
    small = [called[name] for name, plain in last["categories"].items() if plain["num_prompts"] < LEAST_IN_CATEGORY]
    note = f"Left out, with fewer than {LEAST_IN_CATEGORY} instructions: {', '.join(small)}."
    return TextTable("win rate by category", names, rows, [note] if small else [])


def large_categories(summary: dict[str, Any]) -> list[str]:
    """Return the categories that have enough instructions for a rate of their own; none where that is one alone.

    Categories that are types of checks have tables of their own, by what is checked.
    """
    last = summary["iterations"][-1]
    types = set() if last["checked"] is None else set(last["checked"]["types"])
    names = [
        name
        for name, plain in last["categories"].items()
        if plain["num_prompts"] >= LEAST_IN_CATEGORY and name not in types
    ]
    return names if len(names) > 1 else []


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


FRAME = {"seed", "confidence", "num_left_out"}  # numbers of any evaluation's summary that it did not measure


def evaluation_table(summary: dict[str, Any]) -> TextTable:
    """Return every rate of an evaluation, one row each, called by the keys that lead to it.

    Of one without rates, such as one of the user's own, the notes have the numbers.
    """
    title = f"{summary['evaluation']}: {summary['policy']}"
    if "baseline" in summary:
        judge = f" (judge: {summary['judge']})" if summary["judge"] else ""
        title += f" against {summary['baseline']}{judge}"
    if summary.get("num_left_out"):
        title += f", {summary['num_left_out']} that it has seen left out"
    rows = [
        (
            name,
            # A score is in the judge's unit.
            format_rate(rate, scale=1, unit="", sign="+", digits=3)
            if name == "null_control score"
            else format_rate(rate, sign="+" if "minus" in name or "change" in name else ""),
            f"{rate.num_prompts:,}",
            f"{rate.num_unscored:,}",
        )
        for name, rate in _rates(summary)
    ]
    cut = summary.get("cut_thought_rate", 0.0)  # answers of another format have none
    notes = [f"{100 * cut:.0f} % of the thoughts were cut off by their budget."] if cut else []
    if not rows:
        numbers = {name: value for name, value in summary.items() if isinstance(value, int | float)}
        notes += [f"{name}: {value:g}" for name, value in numbers.items() if name not in FRAME]
    return TextTable(title, ("", "rate", "n", "unscored"), rows, notes)


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


def _rate(plain: dict[str, Any] | None) -> Rate | None:
    return None if plain is None else Rate.from_dict(plain)


def _count(rate: Rate) -> str:
    return format_count(rate.count, rate.num_unscored) if rate.count or rate.num_unscored else "-"


def _change_cells(before: Rate | None, after: Rate | None, change: Rate | None) -> tuple[str, str, str, str]:
    counted = change or after
    return (
        format_rate(before, unit=""),
        format_rate(after, unit=""),
        format_rate(change, unit="", sign="+"),
        "-" if counted is None else _count(counted),
    )
