"""Tables as text: in the terminal and in Markdown."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

#: Cells of columns of numbers that are no numbers.
WORDS = ("", "-", "unscored", "reference")
WIDTH = 100  # characters, where the output is not a terminal
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
    """Return a table in Markdown, without its title and notes."""
    rows = [table.names, ["---"] * len(table.names), *table.rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


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
    """Print tables, columns of numbers aligned at the right, as wide as the terminal or `WIDTH` characters.

    One that is wider is printed in parts (`split_columns`); only a cell that is too wide by itself is broken.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else WIDTH)
    for part in [part for table in tables for part in split_columns(table, console.width)]:
        if part.title:  # printed by itself, as rich would break it at the table's width
            console.print(Text(part.title, style="bold"))
        lines = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, GAP - 1, 0, 0))
        for place, name in enumerate(part.names):
            is_number = all(row[place] in WORDS or not row[place][:1].isalpha() for row in part.rows)
            lines.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
        for row in part.rows:
            lines.add_row(*(Text(cell) for cell in row))
        console.print(lines)
        for note in part.notes:
            console.print(Text(note))
        console.print()
