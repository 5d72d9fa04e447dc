"""A table of runs for people, in the terminal, Markdown and LaTeX, and for programs, as CSV."""

import csv
import re
from pathlib import Path
from typing import Any

from tpo.results.rate import Rate, format_count, format_p_value, format_rate
from tpo.results.table.table import CHANGES, DIFFERENCES, LENGTHS, RATES, Line, ResultsTable
from tpo.results.text_table import TextTable, print_tables
from tpo.results.text_table import to_markdown as markdown
from tpo.store.files import writing_to

MISSING = "-"
LONGEST_SETTING = 40  # characters
#: Columns that are shown within another column, or not to people.
HIDDEN = ("num_unscored", "num_answers", "folders", "reference", "is_reference")
#: What changes and differences are of.
NAMES = {
    "change_checked": "checked",
    "change_checked_unseen": "unseen",
    "change_win_rate": "win rate",
    "change_score": "score",
    "difference_checked": "checked",
    "difference_win_rate": "win rate",
}
#: Title, format and scale of the other columns that are no settings.
NUMBERS = {
    **{key: (title, ".0f", 1.0) for key, title in LENGTHS.items()},
    "num_runs": ("runs", "d", 1),
    "num_pairs": ("pairs", ",.1f", 1.0),
    "stage_seconds": ("stages (s)", ",.0f", 1.0),
    "stages_reused": ("reused (%)", ".0f", 100.0),
    "peak_host_mib": ("memory (GiB)", ".1f", 1 / 1024),
    "peak_device_mib": ("GPU memory (GiB)", ".1f", 1 / 1024),
}


def readable(table: ResultsTable) -> TextTable:
    """Return the table as text: rates in percent with their intervals, unscored instructions beside those counted.

    Its keys are the names of the runs, and where these are not told apart by their names, settings and iteration too.
    """
    lines = [
        {title: text for key, cell in line.items() if key not in HIDDEN for title, text in _cells(key, cell, line)}
        for line in table.lines
    ]
    num_keys = 1 if len({line[next(iter(line))] for line in lines}) == len(lines) else 2 + len(table.settings)
    return TextTable("", list(lines[0]), [list(line.values()) for line in lines], num_keys=num_keys)


def _cells(key: str, cell: Any, line: Line) -> list[tuple[str, str]]:
    """Return what a column is called for people, and its text; a difference has three, and different titles."""
    if key in RATES:
        return [(f"{RATES[key]} (%)", format_rate(cell, unit=""))]
    if key in CHANGES:
        quantity = CHANGES[key]
        digits = 1 if quantity.is_fraction else 3
        text = format_rate(cell, unit="", sign="+", scale=quantity.scale, digits=digits)
        return [(f"{NAMES[key]}: change", text)]
    if key in DIFFERENCES.values():
        return _difference_cells(key, cell, is_reference=line["is_reference"])
    if key == "num_prompts":
        return [("n", format_count(cell, line["num_unscored"]))]
    if key == "num_no_response":
        return [("no response", f"{cell:,} of {line['num_answers']:,}")]
    if key in NUMBERS:
        title, form, scale = NUMBERS[key]
        text = MISSING if cell is None else f"{scale * cell:{form}}"
        return [(title, text.removesuffix(".0") if key == "num_pairs" else text)]  # a mean of counts is no count
    return [(key, _setting(cell))]


def _difference_cells(key: str, cell: Rate | None, *, is_reference: bool) -> list[tuple[str, str]]:
    titles = [f"{NAMES[key]}: {what}" for what in ("difference", "p (Holm)", "paired")]
    if cell is None or cell.adjusted_p_value is None:
        return list(zip(titles, ["reference" if is_reference else MISSING, MISSING, MISSING], strict=True))
    p_value = format_p_value(cell.adjusted_p_value)
    paired = format_count(cell.num_prompts, cell.num_unscored, "unpaired")
    return list(zip(titles, [format_rate(cell, unit="", sign="+"), p_value, paired], strict=True))


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
    with writing_to(out):
        out.mkdir(parents=True, exist_ok=True)
        for kind, text in (("csv", to_csv(table)), ("md", to_markdown(table)), ("tex", to_latex(table))):
            paths.append(out / f"results.{kind}")
            paths[-1].write_text(text, encoding="utf-8")
    return paths


def print_table(table: ResultsTable) -> None:
    """Print the readable table and the notes; one that is wider than the terminal in parts."""
    print_tables(readable(table)._replace(notes=table.notes))


def _setting(value: Any) -> str:
    if value is None:
        return MISSING
    text = str(value).replace("\n", " ")
    return text if len(text) <= LONGEST_SETTING else text[: LONGEST_SETTING - 3] + "..."
