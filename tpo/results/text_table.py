"""Tables as text: in the terminal and in Markdown."""

import sys
from collections.abc import Sequence
from typing import NamedTuple

#: Cells of columns of numbers that are no numbers.
WORDS = ("-", "unscored", "reference")


class TextTable(NamedTuple):
    """A title, and cells by row below the names of their columns."""

    title: str
    names: Sequence[str]
    rows: Sequence[Sequence[str]]


def to_markdown(table: TextTable) -> str:
    """Return a table in Markdown, without its title."""
    rows = [table.names, ["---"] * len(table.names), *table.rows]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |\n" for row in rows)


def print_tables(*tables: TextTable, width: int = 120) -> None:
    """Print tables, columns of numbers aligned at the right; as wide as the terminal, or `width` characters."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(width=None if sys.stdout.isatty() else width)
    for table in tables:
        lines = Table(title=table.title or None)
        for place, name in enumerate(table.names):
            is_number = all(row[place] in WORDS or not row[place][:1].isalpha() for row in table.rows)
            lines.add_column(Text(name), justify="right" if is_number else "left", overflow="fold")
        for row in table.rows:
            lines.add_row(*(Text(cell) for cell in row))
        console.print(lines)
