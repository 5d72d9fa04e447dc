"""A table of runs for people, in the terminal, Markdown and LaTeX, and for programs, as CSV.

A setting or a name is text in each of them: no markup, no command, no formula.
"""

import csv
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

from tpo.results.rate import Rate, format_count, format_p_value, format_rate
from tpo.results.table.table import CHANGES, DIFFERENCES, LENGTHS, RATES, Line, ResultsTable
from tpo.results.text_table import TextTable, markdown_text, print_tables
from tpo.results.text_table import to_markdown as markdown
from tpo.store.files import writing_to
from tpo.store.text import labels, one_line

MISSING = "-"
LONGEST_SETTING = 40  # characters
#: Columns that are shown within another column, or not to people.
HIDDEN = ("num_unscored", "num_answers", "folders", "reference", "is_reference")
#: Columns that are shown with what they leave out.
COUNTED = ("num_prompts", "num_no_response")
#: What a spreadsheet computes, and the mark that says that it shall not.
FORMULA = re.compile(r"\s*[=+\-@\uff1d\uff0b\uff0d\uff20]|[\t\r']")
#: What LaTeX writes otherwise than with a backslash before it.
LATEX = {
    **{"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}"},
    **{">": r"\textgreater{}", "|": r"\textbar{}", "`": r"\textasciigrave{}", "'": r"\textquotesingle{}"},
}
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
    texts = {key: _texts([line[key] for line in table.lines]) for key in table.lines[0] if _is_text(key)}
    lines = [
        {
            title: text
            for key, cell in line.items()
            if key not in HIDDEN
            for title, text in (
                [(_title(key), texts[key][_identity(cell)])] if key in texts else _cells(key, cell, line)
            )
        }
        for line in table.lines
    ]
    num_keys = 1 if len({line[next(iter(line))] for line in lines}) == len(lines) else 2 + len(table.settings)
    return TextTable("", list(lines[0]), [list(line.values()) for line in lines], num_keys=num_keys)


def _cells(key: str, cell: Any, line: Line) -> list[tuple[str, str]]:
    """Return what a column of numbers is called for people, and its text; a difference has three, with own titles."""
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
    title, form, scale = NUMBERS[key]
    text = MISSING if cell is None else f"{scale * cell:{form}}"
    return [(title, text.removesuffix(".0") if key == "num_pairs" else text)]  # a mean of counts is no count


def _difference_cells(key: str, cell: Rate | None, *, is_reference: bool) -> list[tuple[str, str]]:
    titles = [f"{NAMES[key]}: {what}" for what in ("difference", "p (Holm)", "paired")]
    if cell is None or cell.adjusted_p_value is None:
        return list(zip(titles, ["reference" if is_reference else MISSING, MISSING, MISSING], strict=True))
    p_value = format_p_value(cell.adjusted_p_value)
    paired = format_count(cell.num_prompts, cell.num_unscored, "unpaired")
    return list(zip(titles, [format_rate(cell, unit="", sign="+"), p_value, paired], strict=True))


def to_markdown(table: ResultsTable) -> str:
    """Return the readable table in Markdown, the notes in paragraphs below it."""
    return "".join([markdown(readable(table)), *(f"\n{markdown_text(note)}\n" for note in table.notes)])


def to_latex(table: ResultsTable) -> str:
    """Return the readable table in LaTeX, for the package booktabs, with what LaTeX reads as commands escaped.

    The notes are comments above it. A cell that begins with a bracket or a star has {} before it: after the end of a
    line, LaTeX would read it as that command's argument.
    """
    text = readable(table)
    head, *rows = (" & ".join(map(_latex, cells)) + " \\\\\n" for cells in (text.names, *text.rows))
    notes = "".join(f"% {one_line(note)}\n" for note in table.notes)
    begin = f"\\begin{{tabular}}{{{'l' * len(text.names)}}}\n\\toprule\n"
    return f"{notes}{begin}{head}\\midrule\n{''.join(rows)}\\bottomrule\n\\end{{tabular}}\n"


def _latex(cell: str) -> str:
    escaped = re.sub(r"[\\~^<>|`'&%$#_{}]", lambda found: LATEX.get(found[0], f"\\{found[0]}"), one_line(cell))
    escaped = re.sub(r"(?<=[-,])(?=[-,])", "{}", escaped)  # two are one character in TeX's fonts
    return f"{{}}{escaped}" if escaped.startswith(("[", "*")) else escaped


def to_csv(table: ResultsTable) -> str:
    """Return the numbers as CSV: fractions, intervals in columns "..._low" and "..._high", empty where unknown.

    A text that a spreadsheet would read as a formula has an apostrophe before it, and so has one that begins with such:
    a program that wants the text as it was takes one apostrophe away.
    """
    frame = table.frame.rename(index=_plain, columns=_plain)
    frame.index.name = _plain(frame.index.name)
    text: str = frame.map(_plain).to_csv(lineterminator="\n")
    if re.search("[\r;\t]", text):  # which some programs read as the end of a row or a cell unless all text is quoted
        text = frame.map(_plain).to_csv(lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    return text


def _plain(value: Any) -> Any:
    """Return a cell that no spreadsheet computes; numbers stay numbers."""
    if not isinstance(value, str):
        return value
    text = value.replace("\0", "\\x00").encode(errors="backslashreplace").decode()  # which files of text cannot hold
    return f"'{text}" if FORMULA.match(text) else text


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


def _is_text(key: str) -> bool:
    """Return whether a column holds names or settings."""
    return key not in {*RATES, *CHANGES, *DIFFERENCES.values(), *NUMBERS, *COUNTED, *HIDDEN}


def _title(key: str) -> str:
    """Return what a column of settings is called; one of the group `pairs` stands beside the number of pairs."""
    return f"{key}=" if key in {title for title, _, _ in NUMBERS.values()} else key


def _texts(values: list[Any]) -> dict[str, str]:
    """Return what the names or settings of a column are called, by their identity.

    Two look the same only where they are: where their texts do not tell them apart, they stand as JSON.
    """
    plain = {_identity(value): MISSING if value is None else str(value) for value in values}
    counts = Counter(plain.values())
    told = {identity: text if counts[text] == 1 else identity for identity, text in plain.items()}
    found = labels(told.values(), longest=LONGEST_SETTING)
    return {identity: found[text] for identity, text in told.items()}


def _identity(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True, default=repr)
