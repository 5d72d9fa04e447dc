"""A table of runs for people, in the terminal, Markdown and LaTeX, and for programs, as CSV."""

import csv
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.results.table.table import LENGTHS, RATES, ResultsTable
from tpo.store.files import translate_disk_errors

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MISSING = "-"
LONGEST_SETTING = 40  # characters
#: Columns of numbers that are shown within another column, or not to people.
HIDDEN = ("num_unscored", "folders", "reference", "is_reference", "p_value", "num_unpaired")


def readable(frame: "DataFrame") -> "DataFrame":
    """Return the table as text: rates in percent with their intervals, unscored instructions beside those counted."""
    import pandas as pd

    lines = []
    for name, row in frame.iterrows():
        line: dict[str, str] = {str(frame.index.name): str(name)}
        for column, value in row.items():
            key = str(column)
            if key not in HIDDEN and not key.endswith(("_low", "_high")):
                title, text = _cell(key, value, row)
                line[title] = text
        lines.append(line)
    return pd.DataFrame(lines, dtype=str)


def _cell(key: str, value: Any, row: "Series[Any]") -> tuple[str, str]:
    """Return what a column is called for people, and its text in one row."""
    if key in RATES:
        return f"{RATES[key]} (%)", _percent(value, row[f"{key}_low"], row[f"{key}_high"], sign="")
    if key in LENGTHS:
        return LENGTHS[key], _number(value, ".0f")
    match key:
        case "num_prompts":
            return "n", _count(value, row["num_unscored"], "unscored")
        case "num_runs":
            return "runs", str(value)
        case "num_pairs":
            return "pairs", _number(value, ",.10g")
        case "stage_seconds":
            return "stages (s)", _number(value, ",.0f")
        case "stages_reused":
            return "reused (%)", _number(100 * value, ".0f")
        case "peak_host_mib":
            return "memory (GiB)", _number(value / 1024, ".1f")
        case "peak_device_mib":
            return "GPU memory (GiB)", _number(value / 1024, ".1f")
        case "difference":
            text = _percent(value, row["difference_low"], row["difference_high"], sign="+")
            return "difference (points)", "reference" if row["is_reference"] else text
        case "p_value_holm":
            return "p (Holm)", "<0.001" if value < 0.001 else _number(value, ".3f")
        case "num_paired":
            return "paired", _count(value, row["num_unpaired"], "unpaired")
    return key, _setting(value)


def to_markdown(table: ResultsTable) -> str:
    """Return the readable table in Markdown, the notes in paragraphs below it."""
    text = readable(table.frame)
    rows = [list(text.columns), ["---"] * len(text.columns), *text.to_numpy().tolist()]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows]
    return "".join([*lines, *(f"\n{note}\n" for note in table.notes)])


def to_latex(table: ResultsTable) -> str:
    """Return the readable table in LaTeX, for the package booktabs, with what LaTeX reads as commands escaped.

    The notes are comments above it. A cell that begins with a bracket has {} before it: after the end of a line, LaTeX
    would read it as that command's argument.
    """
    from pandas.io.formats.style import Styler

    text = readable(table.frame)
    latex: str = (
        Styler(text)
        .hide(axis="index")
        .format(_bracketed, escape="latex")
        .format_index(escape="latex", axis=1)
        .to_latex(hrules=True, column_format="l" * len(text.columns))
    )
    return "".join(f"% {note}\n" for note in table.notes) + latex


def to_csv(table: ResultsTable) -> str:
    """Return the numbers as CSV: fractions, intervals in columns "..._low" and "..._high", empty where unknown."""
    text: str = table.frame.to_csv(lineterminator="\n")
    if "\r" in text:  # which is quoted only where all text is, and read as the end of a row otherwise
        text = table.frame.to_csv(lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return text


def write_tables(table: ResultsTable, out: Path) -> list[Path]:
    """Write `results.csv`, `.md` and `.tex` into the folder `out` and return their paths."""
    paths = []
    with translate_disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        for kind, text in (("csv", to_csv(table)), ("md", to_markdown(table)), ("tex", to_latex(table))):
            paths.append(out / f"results.{kind}")
            paths[-1].write_text(text, encoding="utf-8")
    return paths


def print_table(table: ResultsTable) -> None:
    """Print the readable table and the notes; where the output is not a terminal, no line is broken."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    text = readable(table.frame)
    lines = Table()
    for name in text.columns:
        lines.add_column(Text(name), overflow="fold")
    for row in text.to_numpy().tolist():
        lines.add_row(*(Text(cell) for cell in row))
    console = Console(width=None if sys.stdout.isatty() else 1000)
    if len(text):
        console.print(lines)
    for note in table.notes:
        console.print(Text(note), soft_wrap=not sys.stdout.isatty())


def _bracketed(cell: object) -> str:
    return f"{{}}{cell}" if str(cell).startswith("[") else str(cell)


def _percent(value: float, low: float, high: float, *, sign: str) -> str:
    if value != value:  # NaN
        return MISSING
    interval = "" if low != low else f" [{100 * low:{sign}.1f}, {100 * high:{sign}.1f}]"
    return f"{100 * value:{sign}.1f}{interval}"


def _count(value: Any, missing: Any, what: str) -> str:
    if value is None:
        return MISSING
    return f"{value:,}" + (f" (+{missing:,} {what})" if missing else "")


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None or value != value else f"{value:{form}}"


def _setting(value: Any) -> str:
    if value is None or value != value:
        return MISSING
    text = str(value).replace("\n", " ")
    return text if len(text) <= LONGEST_SETTING else text[: LONGEST_SETTING - 3] + "..."
