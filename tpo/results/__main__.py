"""Show what runs left behind: `python -m tpo.results` puts runs into one table, draws them, or writes their pages.

The table has a row for each run: the settings in which the runs differ, then win rates with intervals, lengths, pairs
and costs. --figures draws what folders of runs, evaluations and measured judges hold; --page writes a run's
report.html anew; --samples shows two policies side by side; --keep copies what a record commits of runs; --export
writes their pairs or completions for other programs.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from tpo.results.beside import checks_table, facts_table, put_beside, won_table
from tpo.results.data import What, export_data
from tpo.results.figures import (
    draw_agreement,
    draw_sweep,
    save,
    swept_number,
    write_comparison,
    write_evaluation_figures,
    write_figures,
)
from tpo.results.figures.style import FORMATS
from tpo.results.keep import keep_run
from tpo.results.page.beside import MAX_SHARED, write_beside
from tpo.results.page.report import write_page
from tpo.results.page.samples import MAX_INSTRUCTIONS
from tpo.results.read import Folders, ResultError, read_folders
from tpo.results.sides import read_sides
from tpo.results.table import ResultsTable, label_runs, results_table
from tpo.results.table.formats import print_table, write_tables
from tpo.results.table.rows import Iteration
from tpo.results.text_table import print_tables
from tpo.store.ending import one_sentence
from tpo.store.errors import TpoError
from tpo.store.files import writing_to

EXAMPLES = """examples:
  python -m tpo.results                                               all runs below runs/
  python -m tpo.results 'runs/quickstart-*' --against thought=none    differences from the runs without thoughts
  python -m tpo.results --over seed --iteration 2                     means over seeds, after iteration 2
  python -m tpo.results 'runs/quickstart-*' --all-iterations --out tables       and results.csv, .md, .tex
  python -m tpo.results runs/quickstart-a --figures --out figures               the figures of one run
  python -m tpo.results 'runs/*' --figures --out figures --formats pdf          of all, and those that compare runs
  python -m tpo.results 'runs/quickstart-*' --page                    a page for each
  python -m tpo.results runs/a runs/b --samples                       two runs' policies side by side, and a page
  python -m tpo.results runs/a@1 runs/a@2 --samples                   two iterations of one; @baseline: its baseline
  python -m tpo.results 'runs/quickstart-*' --keep record             config.json and summary.json of each, to commit
  python -m tpo.results runs/quickstart-a --export pairs --out data   its pairs, as trl and datasets read them
"""
#: Which of table, figures and page an option has a meaning for.
MODES = {
    "iteration": ["table"],
    "all_iterations": ["table"],
    "over": ["table"],
    "against": ["table"],
    "out": ["table", "figures", "samples", "export"],
    "formats": ["figures"],
    "max_instructions": ["page", "samples"],
}
WHAT = {
    "table": "the table",
    "figures": "the figures",
    "page": "the page",
    "samples": "samples",
    "keep": "what is kept",
    "export": "what is exported",
}


def collect(
    folders: Folders, *, iteration: Iteration = "last", over: str | None = None, against: str | None = None
) -> ResultsTable:
    """Return the table of the runs among folders; what else is there is named in the notes.

    Raises:
        ResultError: If there is no finished run, or none reached the iteration.
    """
    notes = []
    if folders.unfinished:
        unfinished = ", ".join(path.name for path in folders.unfinished)
        notes.append(f"{len(folders.unfinished)} unfinished: {unfinished}. Their command, repeated, finishes them.")
    others = [f"{found.path.name} (an evaluation)" for found in folders.evaluations]
    others += [f"{found.path.name} (measured judges)" for found in folders.judges]
    others += [f"{path.name} (no run's config.json and summary.json)" for path in folders.others]
    if others:
        notes.append(f"{len(others)} not a run: {', '.join(others)}.")
    if not folders.runs:
        raise ResultError(
            " ".join(["no finished run among the folders.", *notes])
            + " Name a folder that python -m tpo.run printed, or make one: make quickstart"
        )
    table = results_table(folders.runs, iteration=iteration, over=over, against=against)
    if not table.lines:
        raise ResultError(" ".join([*table.notes, "Choose a lower --iteration"]))
    return table._replace(notes=(*table.notes, *notes))


def draw(folders: Folders, *, out: Path | None, formats: Sequence[str]) -> list[Path]:
    """Write the figures of all folders, and those that compare runs, and return their paths.

    One folder's figures go to its own `figures/`, or to `out`. Of several, each has a folder in `out`, and beside these
    lie the figures that compare the runs.

    Raises:
        ResultError: If there is nothing to draw, or several folders and no `out`.
    """
    for path in (*folders.unfinished, *folders.others):
        print(f"{path}: nothing to draw", file=sys.stderr)
    count = len(folders.runs) + len(folders.evaluations) + len(folders.judges)
    if not count:
        raise ResultError("no folder holds a finished run, a finished evaluation or measured judges")
    if count > 1 and out is None:
        raise ResultError("several folders need --out (make: OUT=...), where the figures that compare them go")

    def target(path: Path) -> Path:
        return path / "figures" if out is None else out / path.name if count > 1 else out

    paths: list[Path] = []
    for run in folders.runs:
        paths += write_figures(run, target(run.path), formats=formats)
    for evaluation in folders.evaluations:
        paths += write_evaluation_figures(evaluation.summary, target(evaluation.path), formats=formats)
    for measured in folders.judges:
        paths += save(draw_agreement(measured.judges), target(measured.path), "agreement", formats=formats)
    if out is not None and len(folders.runs) > 1:
        paths += write_comparison(label_runs(folders.runs), out, formats=formats)
    return paths


def show_samples(names: Sequence[str], *, out: Path | None, max_instructions: int) -> list[Path]:
    """Write the page with what two sides answered, print who won, and return the page's path.

    Args:
        names: Of one or two sides (`tpo.results.sides`).
        out: Where the page goes; None for the second side's folder.
        max_instructions: On the page.

    Raises:
        TpoError: If a side does not exist, or they have no instruction in common.
    """
    beside = put_beside(*read_sides(names))
    directory = beside.sides[1].place.path if out is None else out
    with writing_to(directory):
        path = write_beside(beside, directory, max_instructions=max_instructions)
    tables = (facts_table(beside), won_table(beside), checks_table(beside))
    print_tables(*(table for table in tables if table is not None))
    return [path]


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command's arguments."""
    parser = argparse.ArgumentParser(
        prog="python -m tpo.results",
        description=__doc__,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add, default = parser.add_argument, ["runs/*"]
    add("folders", nargs="*", default=default, metavar="RUN", help="folders or quoted glob patterns; default runs/*")
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument("--figures", action="store_true", help="draw figures in place of the table")
    mode.add_argument("--page", action="store_true", help="write report.html into each run's folder, likewise")
    mode.add_argument(
        "--samples",
        action="store_true",
        help="two policies side by side: RUN RUN, RUN@1 RUN@2, RUN@baseline RUN; one RUN: before and after training",
    )
    mode.add_argument(
        "--keep", type=Path, metavar="DIR", help="copy each run's config.json and summary.json to DIR/RUN"
    )
    mode.add_argument(
        "--export",
        choices=get_args(What),
        help="write each run's pairs (trl's columns, parquet) or completions (JSON lines) to OUT/RUN",
    )
    add(
        "--out",
        type=Path,
        metavar="DIR",
        help="the table: write results.csv, .md, .tex there, and sweep.png where runs differ in one number; figures: "
        "where they go, if not to RUN/figures; of --samples: where the page goes, if not to the second RUN; of "
        "--export: where it goes",
    )
    table = parser.add_argument_group("the table")
    which = table.add_mutually_exclusive_group()
    which.add_argument("--iteration", type=int, metavar="N", help="after iteration N; default: each run's last")
    which.add_argument("--all-iterations", action="store_true", help="a line for every iteration")
    table.add_argument("--over", metavar="KEY", help="average runs that differ in this setting only, such as seed")
    table.add_argument(
        "--against", metavar="RUN or KEY=VALUE", help="add the difference from this run, or from runs with this setting"
    )
    others = parser.add_argument_group("figures and pages")
    others.add_argument("--formats", nargs="+", choices=[*FORMATS, "pdf"], help="of --figures; default: png svg")
    others.add_argument(
        "--max-instructions",
        type=_count,
        metavar="N",
        help="of --page: instructions to show per iteration, of training and of held-out ones each; where there are "
        f"more, N are drawn with the run's seed; default: {MAX_INSTRUCTIONS}, which keeps a run of the paper's size "
        f"below 20 MB; of --samples: instructions to show; default: {MAX_SHARED}",
    )
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Show what is asked for and return the exit status."""
    parser = make_parser()
    chosen = parser.parse_args(arguments)
    asked = {name: getattr(chosen, name) for name in ("figures", "page", "samples", "keep", "export")}
    mode = next((name for name, value in asked.items() if value), "table")
    for name, modes in MODES.items():
        if mode not in modes and getattr(chosen, name) not in (None, False):
            parser.error(f"--{name.replace('_', '-')} says nothing about {WHAT[mode]}")
    if mode == "export" and chosen.out is None:
        parser.error("--export needs --out, the directory to write to")
    try:
        if mode == "samples":
            limit = chosen.max_instructions or MAX_SHARED
            return _tell(show_samples(chosen.folders, out=chosen.out, max_instructions=limit))
        folders = read_folders(chosen.folders)
        with writing_to(chosen.out or chosen.keep or Path("runs")):
            if mode == "figures":
                paths = draw(folders, out=chosen.out, formats=chosen.formats or FORMATS)
            elif mode in ("page", "keep", "export"):
                if not folders.runs:
                    raise ResultError("no folder holds a finished run, with summary.json and config.json")
                if mode == "keep":
                    paths = [path for run in folders.runs for path in keep_run(run, chosen.keep)]
                elif mode == "export":
                    paths = [path for run in folders.runs for path in export_data(run, chosen.export, chosen.out)]
                else:
                    limit = chosen.max_instructions or MAX_INSTRUCTIONS
                    paths = [write_page(run, max_instructions=limit) for run in folders.runs]
            else:
                paths = _show_table(folders, chosen)
    except TpoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return _tell(paths)


def _tell(paths: Sequence[Path]) -> int:
    for path in paths:
        print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
    return 0


def _show_table(folders: Folders, chosen: argparse.Namespace) -> list[Path]:
    iteration: Iteration = "all" if chosen.all_iterations else "last" if chosen.iteration is None else chosen.iteration
    table = collect(folders, iteration=iteration, over=chosen.over, against=chosen.against)
    print_table(table)
    if chosen.out is None:
        return []
    paths = write_tables(table, chosen.out)
    if iteration != "all" and swept_number(table) is not None:
        paths += save(draw_sweep(table), chosen.out, "sweep", formats=["png"])
    return paths


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError("at least 1")
    return count


if __name__ == "__main__":
    with one_sentence("the runs", then="the same command begins anew"):
        status = main()
        sys.stdout.flush()
    sys.exit(status)
