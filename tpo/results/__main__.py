"""Collect runs into one table: `python -m tpo.results [runs/...] [--over seed] [--against thought=none] [--out DIR]`.

Printed, and with `--out` written as CSV, Markdown and LaTeX. The columns are the settings in which the runs differ,
then what came out, with intervals. Where one of these settings is a number, the table is drawn over it too.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from tpo.results.figures import draw_sweep, save, swept_number
from tpo.results.table.find import ResultError, sort_folders
from tpo.results.table.formats import print_table, write_tables
from tpo.results.table.rows import Iteration
from tpo.results.table.table import ResultsTable, results_table
from tpo.store.errors import TpoError


def collect(
    names: Sequence[str], *, iteration: Iteration = "last", over: str | None = None, against: str | None = None
) -> ResultsTable:
    """Return the table of the runs that folders or glob patterns name; what else is there is named in the notes.

    Raises:
        ResultError: If there is no finished run, none reached the iteration, or a name matches nothing.
    """
    found = sort_folders(names)
    notes = []
    if found.unfinished:
        unfinished = ", ".join(path.name for path in found.unfinished)
        notes.append(f"{len(found.unfinished)} unfinished: {unfinished}. Their command, repeated, finishes them.")
    if found.others:
        others = ", ".join(f"{path.name} ({what})" for path, what in found.others.items())
        notes.append(f"{len(found.others)} not a run: {others}.")
    if not found.runs:
        raise ResultError(
            " ".join([f"no finished run in {', '.join(names)}.", *notes])
            + " Name a folder that python -m tpo.run printed, or make one: make quickstart"
        )
    table = results_table(found.runs, iteration=iteration, over=over, against=against)
    if not len(table.frame):
        raise ResultError(" ".join([*table.notes, "Choose a lower --iteration"]))
    return table._replace(notes=(*table.notes, *notes))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(prog="python -m tpo.results", description=(__doc__ or "").split(":")[0])
    parser.add_argument(
        "folders", nargs="*", default=["runs/*"], metavar="RUN", help="folders or quoted glob patterns; default runs/*"
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--iteration", type=int, metavar="N", help="after iteration N; default: each run's last")
    which.add_argument("--all-iterations", action="store_true", help="a line for every iteration")
    parser.add_argument("--over", metavar="KEY", help="average runs that differ in this setting only, such as seed")
    parser.add_argument(
        "--against", metavar="RUN or KEY=VALUE", help="add the difference from this run, or from runs with this setting"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="write results.csv, .md, .tex, and sweep.png there")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Collect, print, write, and return the exit status."""
    chosen = make_parser().parse_args(arguments)
    iteration: Iteration = "all" if chosen.all_iterations else "last" if chosen.iteration is None else chosen.iteration
    try:
        table = collect(chosen.folders, iteration=iteration, over=chosen.over, against=chosen.against)
        print_table(table)
        if chosen.out is not None:
            paths = write_tables(table, chosen.out)
            if iteration != "all" and swept_number(table.frame) is not None:
                paths += save(draw_sweep(table.frame), chosen.out, "sweep", formats=["png"])
            print("\n".join(map(str, paths)))
    except TpoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
