"""A plan as tables and sentences for the terminal; reads what `tpo.plan.estimate.to_dict` returns."""

from typing import TYPE_CHECKING, Any

from tpo.config.streams import console
from tpo.results.text_table import format_duration, format_number

if TYPE_CHECKING:
    from rich.table import Table


def print_plan(summary: dict[str, Any], *, with_stages: bool) -> None:
    """Print the plan; with `with_stages` every stage of it first."""
    out = console(width=120)
    if with_stages:
        for position, job in enumerate(summary["jobs"], start=1):
            out.print(f"job {position}: {' '.join(job['overrides'])}")
        out.print(stages_table(summary))
    out.print(plan_table(summary))
    for line in notes(summary):
        out.print(line)


def plan_table(summary: dict[str, Any]) -> "Table":
    """Return the table with a line per kind of stage, and one for all."""
    from rich import box
    from rich.table import Table

    table = Table(title=f"plan of {_count(len(summary['jobs']), 'job')}", box=box.SIMPLE_HEAD)
    table.add_column("stage")
    for name in ("asked for", "distinct", "there", "to compute", "shared", "token budget", "tokens expected", "time"):
        table.add_column(name.replace(" ", "\n"), justify="right")
    for row in [*summary["kinds"], summary["total"]]:
        if row["stage"] is None:
            table.add_section()
        counts = [str(row[f"num_{name}"]) for name in ("asked", "distinct", "there", "missing", "shared")]
        budget = format_number(row["token_budget"]) if row["token_budget"] else "-"
        expected = format_number(row["expected_tokens"]) if row["token_budget"] else "-"
        time = format_duration(row["expected_seconds"]) if row["num_missing"] else "-"
        if row["num_without_tokens"] and row["expected_tokens"] is not None:
            expected = f"> {expected}"
        if row["num_without_estimate"] and row["expected_seconds"] is not None:
            time = f"> {time}"
        table.add_row(row["stage"] or "all", *counts, budget, expected, time)
    return table


def stages_table(summary: dict[str, Any]) -> "Table":
    """Return the table of all distinct stages."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD)
    for name in ("stage", "is", "jobs", "token budget", "time"):
        table.add_column(name, justify="right" if name in {"token budget", "time"} else "left", no_wrap=name == "stage")
    for row in summary["stages"]:
        name = f"{row['stage']}-(epoch open)" if row["depends_on_selection"] else row["artifact_id"]
        state = "there" if row["is_there"] else "to compute"
        tokens = format_number(row["token_budget"]) if row["token_budget"] else "-"
        time = "-" if row["is_there"] else format_duration(row["expected_seconds"])
        table.add_row(name, state, " ".join(str(job + 1) for job in row["jobs"]), tokens, time)
    return table


def notes(summary: dict[str, Any]) -> list[str]:
    """Return what there is to say below the table."""
    lines = []
    if num_open := sum(row["depends_on_selection"] for row in summary["stages"]):
        lines.append(
            f"{_count(num_open, 'stage')} after an epoch that validation has yet to select: ids not final; counted as "
            "if jobs with the same training selected the same"
        )
    lines.append("token budget: completion tokens at most; prompts, judges' questions, forced delimiters come on top")
    if summary["devices"]:
        devices = "; ".join(summary["devices"])
        lines.append(f"tokens expected and time: as past stages took them, one after another, on {devices}")
    if num_unknown := summary["total"]["num_without_estimate"]:
        lines.append(f"no estimate for {_count(num_unknown, 'stage')}: none like it has been run")
    return lines


def forecast(total: dict[str, Any]) -> str:
    """Return in one line how many stages are there, how many are to be computed, and how long that takes.

    Args:
        total: Of `tpo.plan.estimate.total`.
    """
    missing, unknown = total["num_missing"], total["num_without_estimate"]
    text = f"{total['num_there']} there, {missing} to compute"
    if not missing:
        return text
    if unknown == missing:
        return f"{text}; no estimate, since none like them has been run"
    known = f"about {format_duration(total['expected_seconds'])} as past stages took"
    return f"{text}, {known}" + (f", and {_count(unknown, 'stage')} like none before" if unknown else "")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
