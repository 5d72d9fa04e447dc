"""A table of runs for people, in the terminal, Markdown and LaTeX, and for programs, as CSV."""

import csv
import re
from pathlib import Path
from typing import Any

from tpo.results.rate import format_count, format_rate
from tpo.results.table.table import LENGTHS, RATES, Line, ResultsTable
from tpo.results.text_table import TextTable, print_tables
from tpo.results.text_table import to_markdown as markdown
from tpo.store.files import translate_disk_errors

MISSING = "-"
LONGEST_SETTING = 40  # characters
#: Columns that are shown within another column, or not to people.
HIDDEN = ("num_unscored", "folders", "reference", "is_reference")
#: Title, format and scale of the other columns that are no settings.
NUMBERS = {
    **{key: (title, ".0f", 1.0) for key, title in LENGTHS.items()},
    "num_runs": ("runs", "d", 1),
    "num_pairs": ("pairs", ",.10g", 1.0),
    "stage_seconds": ("stages (s)", ",.0f", 1.0),
    "stages_reused": ("reused (%)", ".0f", 100.0),
    "peak_host_mib": ("memory (GiB)", ".1f", 1 / 1024),
    "peak_device_mib": ("GPU memory (GiB)", ".1f", 1 / 1024),
}


def readable(table: ResultsTable) -> TextTable:
    """Return the table as text: rates in percent with their intervals, unscored instructions beside those counted."""
    lines = [
        {title: text for key, cell in line.items() if key not in HIDDEN for title, text in _cells(key, cell, line)}
        for line in table.lines
    ]
    return TextTable("", list(lines[0]), [list(line.values()) for line in lines])


def _cells(key: str, cell: Any, line: Line) -> list[tuple[str, str]]:
    """Return what a column is called for people, and its text; a difference has three."""
    if key in RATES:
        return [(f"{RATES[key]} (%)", format_rate(cell, unit=""))]
    if key == "difference":
        text = "reference" if line["is_reference"] else format_rate(cell, unit="", sign="+")
        if cell is None:
            return [("difference (points)", text), ("p (Holm)", MISSING), ("paired", MISSING)]
        p_value = cell.adjusted_p_value
        return [
            ("difference (points)", text),
            ("p (Holm)", "<0.001" if p_value < 0.001 else f"{p_value:.3f}"),
            ("paired", format_count(cell.num_prompts, cell.num_unscored, "unpaired")),
        ]
    if key == "num_prompts":
        return [("n", format_count(cell, line["num_unscored"]))]
    if key in NUMBERS:
        title, form, scale = NUMBERS[key]
        return [(title, MISSING if cell is None else f"{scale * cell:{form}}")]
    return [(key, _setting(cell))]


def to_markdown(table: ResultsTable) -> str:
    """Return the readable table in Markdown, the notes in paragraphs below it."""
    return "".join([markdown(readable(table)), *(f"\n{note}\n" for note in table.notes)])


def to_latex(table: ResultsTable) -> str:
    """Return the readable table in LaTeX, for the package booktabs, with what LaTeX reads as commands escaped.

    The notes are comments above it. A cell that begins with a bracket has {} before it: after the end of a line, LaTeX
    would read it as that command's argument.
    """
    text = readable(table)
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
    frame = table.frame
    text: str = frame.to_csv(lineterminator="\n")
    if "\r" in text:  # which is quoted only where all text is, and read as the end of a row otherwise
        text = frame.to_csv(lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
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
    print_tables(readable(table), width=1000)
    print(*table.notes, sep="\n")


def _setting(value: Any) -> str:
    if value is None:
        return MISSING
    text = str(value).replace("\n", " ")
    return text if len(text) <= LONGEST_SETTING else text[: LONGEST_SETTING - 3] + "..."
