"""Tables as text: in the terminal and in Markdown."""

import re
from collections.abc import Sequence
from typing import NamedTuple

from tpo.config.streams import console
from tpo.store.text import one_line

#: Cells of columns of numbers that are no numbers.
WORDS = ("", "-", "unscored", "no pairs", "reference")
#: Where Markdown, HTML or a formula may begin; an underscore within a word, a bracket alone or "<0.001" is none.
MARKUP = re.compile(r"[\\`*|$~]|<(?=[A-Za-z/!?])|&(?=#?\w+;)|(?<![^\W_])_|_(?![^\W_])|(?<=\])[(\[:]|:(?=\w+:)|(?<=!)\[")
GAP = 2  # characters between columns


class TextTable(NamedTuple):
    """A title, cells by row below the names of their columns, and sentences that belong below them.

    The first `num_keys` columns say which row it is.
    """

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    num_keys: int = 1


def to_markdown(table: TextTable) -> str:
    """Return a table in Markdown, without its title and notes; in it, too, what a cell holds is text."""
    rows = [
        map(markdown_text, table.names),
        ["---"] * len(table.names),
        *(map(markdown_text, row) for row in table.rows),
    ]
    return "".join("| " + " | ".join(row) + " |\n" for row in rows)


def markdown_text(text: str) -> str:
    """Return a text in one line that Markdown shows as it is.

    What numbers and names of settings hold, such as a minus, an interval or a single underscore, needs no escape.
    """
    return MARKUP.sub(r"\\\g<0>", one_line(text))


def code_span(text: str) -> str:
    """Return a text in one line as code within a line of Markdown."""
    shown = one_line(text)
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    return f"{fence} {shown} {fence}" if "`" in shown else f"{fence}{shown}{fence}"


def plain_cells(row: Sequence[str]) -> list[str]:
    """Return cells in one line each, with nothing unseen in them (`one_line`).

    Two spaces before the first one, which set a row off below another, stay.
    """
    first, *rest = row
    is_part = first.startswith("  ")
    return [f"  {one_line(first[2:])}" if is_part else one_line(first), *map(one_line, rest)]


def split_columns(table: TextTable, width: int) -> list[TextTable]:
    """Return a table in parts that are each at most `width` characters wide and begin with its key columns.

    Columns keep their order. Where the key columns take more than half of the width, later parts have the first alone;
    a column that is too wide by itself makes its part wider. The title stands above the first part, the notes below
    the last one.
    """
    from rich.cells import cell_len

    columns = list(zip(table.names, *table.rows, strict=True))
    widths = [max(map(cell_len, cells)) + GAP for cells in columns]
    keys = list(range(table.num_keys))
    repeated = keys if sum(widths[place] for place in keys) <= width / 2 else keys[:1]
    parts = [[*keys]]
    for place in range(table.num_keys, len(columns)):
        if len(parts[-1]) > len(repeated) and sum(widths[one] for one in [*parts[-1], place]) - GAP > width:
            parts.append([*repeated])
        parts[-1].append(place)
    return [
        TextTable(
            table.title if part is parts[0] else "",
            [table.names[place] for place in part],
            [[row[place] for place in part] for row in table.rows],
            table.notes if part is parts[-1] else (),
            min(table.num_keys, len(part)),
        )
        for part in parts
    ]


def print_tables(*tables: TextTable) -> None:
    """Print tables to standard output, columns of numbers aligned at the right.

    One that is wider than the console is printed in parts (`split_columns`); only a cell that is too wide by itself is
    broken.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    out = console("stdout")
    for part in [part for table in tables for part in split_columns(table, out.width)]:
        if part.title:  # printed by itself, as rich would break it at the table's width
            out.print(Text(one_line(part.title), style="bold"))
        lines = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for place, name in enumerate(part.names):
            is_number = all(row[place] in WORDS or not row[place][:1].isalpha() for row in part.rows)
            lines.add_column(Text(one_line(name)), justify="right" if is_number else "left", overflow="fold")
        for row in part.rows:
            lines.add_row(*map(Text, plain_cells(row)))
        out.print(lines)
        for note in part.notes:
            out.print(Text(one_line(note)))
        out.print()


def format_number(count: float | None) -> str:
    """Return a number of tokens for people, such as "18.4 k", or "no estimate"."""
    if count is None:
        return "no estimate"
    for unit, size in (("B", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"


def format_duration(seconds: float | None) -> str:
    """Return a time for people, such as "12.0 min", or "no estimate"."""
    if seconds is None:
        return "no estimate"
    for unit, size, least in (("days", 86400, 2 * 86400), ("h", 3600, 5400), ("min", 60, 90)):
        if seconds >= least:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"
