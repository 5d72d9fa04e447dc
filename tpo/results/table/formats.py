"""A table of runs for people, in the terminal, Markdown and LaTeX, and for programs, as CSV."""

import csv
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.results.rate import Rate, format_count, format_rate
from tpo.results.table.table import LENGTHS, RATES, ResultsTable
from tpo.results.text_table import TextTable, print_tables
from tpo.results.text_table import to_markdown as markdown
from tpo.store.files import translate_disk_errors

if TYPE_CHECKING:
    from pandas import DataFrame, Series

MISSING = "-"
LONGEST_SETTING = 40  # characters
#: Columns of numbers that are shown within another column, or not to people.
HIDDEN = ("num_unscored", "folders", "reference", "is_reference", "p_value", "num_unpaired")


def readable(frame: "DataFrame") -> TextTable:
    """Return the table as text: rates in percent with their intervals, unscored instructions beside those counted."""
    lines = []
    for name, row in frame.iterrows():
        line = {str(frame.index.name): str(name)}
        line |= dict(
            _cell(str(key), value, row)
            for key, value in row.items()
            if key not in HIDDEN and not str(key).endswith(("_low", "_high"))
        )
        lines.append(line)
    return TextTable("", list(lines[0]) if lines else [], [list(line.values()) for line in lines])


def _cell(key: str, value: Any, row: "Series[Any]") -> tuple[str, str]:
    """Return what a column is called for people, and its text in one row."""
    if key in RATES:
        return f"{RATES[key]} (%)", format_rate(_rate(key, row), unit="")
    if key in LENGTHS:
        return LENGTHS[key], _number(value, ".0f")
    match key:
        case "num_prompts":
            return "n", format_count(value, row["num_unscored"])
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
            text = format_rate(_rate(key, row), unit="", sign="+")
            return "difference (points)", "reference" if row["is_reference"] else text
        case "p_value_holm":
            return "p (Holm)", "<0.001" if value < 0.001 else _number(value, ".3f")
        case "num_paired":
            return "paired", MISSING if value is None else format_count(value, row["num_unpaired"], "unpaired")
    return key, _setting(value)


def to_markdown(table: ResultsTable) -> str:
    """Return the readable table in Markdown, the notes in paragraphs below it."""
    return "".join([markdown(readable(table.frame)), *(f"\n{note}\n" for note in table.notes)])


def to_latex(table: ResultsTable) -> str:
    """Return the readable table in LaTeX, for the package booktabs, with what LaTeX reads as commands escaped.

    The notes are comments above it. A cell that begins with a bracket has {} before it: after the end of a line, LaTeX
    would read it as that command's argument.
    """
    text = readable(table.frame)
    head, *rows = (" & ".join(map(_latex, cells)) + " \\\\\n" for cells in (text.names, *text.rows))
    notes = "".join(f"% {note}\n" for note in table.notes)
    begin = f"\\begin{{tabular}}{{{'l' * len(text.names)}}}\n\\toprule\n"
    return f"{notes}{begin}{head}\\midrule\n{''.join(rows)}\\bottomrule\n\\end{{tabular}}\n"


def _latex(cell: str) -> str:
    words = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    escaped = re.sub(r"[\\~^&%$#_{}]", lambda found: words.get(found[0], f"\\{found[0]}"), cell)
    return f"{{}}{escaped}" if escaped.startswith("[") else escaped


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
    print_tables(readable(table.frame), width=1000)
    print(*table.notes, sep="\n")


def _rate(key: str, row: "Series[Any]") -> Rate | None:
    """Return a rate of the table, as far as `format_rate` shows it; None where it is NaN."""
    value, low, high = row[[key, f"{key}_low", f"{key}_high"]]
    return None if value != value else Rate(value, None if low != low else (low, high), 0, 0)


def _number(value: float | None, form: str) -> str:
    return MISSING if value is None or value != value else f"{value:{form}}"


def _setting(value: Any) -> str:
    if value is None or value != value:
        return MISSING
    text = str(value).replace("\n", " ")
    return text if len(text) <= LONGEST_SETTING else text[: LONGEST_SETTING - 3] + "..."
