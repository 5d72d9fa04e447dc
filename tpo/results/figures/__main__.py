"""Draw everything that folders of results hold: `python -m tpo.results.figures runs/... [--out DIR] [--formats png svg]`.

One folder's figures go to its own `figures/`. Several folders need `--out`: each has a folder there, and beside these
lie the figures that compare the runs; `python -m tpo.results` writes their table.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

from tpo.results.figures import (
    draw_agreement,
    draw_iterations,
    draw_lengths,
    save,
    write_evaluation_figures,
    write_figures,
)
from tpo.results.figures.style import FORMATS
from tpo.results.table import Evaluation, Judges, ResultError, Run, label_runs, read, with_length_intervals
from tpo.store.errors import TpoError


def draw(result: Run | Evaluation | Judges, out: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write all figures of one folder into `out` and return their paths."""
    match result:
        case Run():
            return write_figures(with_length_intervals(result), out, formats=formats)
        case Evaluation():
            return write_evaluation_figures(result.summary, out, formats=formats)
        case Judges():
            return save(draw_agreement(result.results), out, "agreement", formats=formats)
        case _:
            assert_never(result)


def compare(runs: Sequence[Run], out: Path, *, formats: Sequence[str]) -> list[Path]:
    """Write the figures that compare runs into `out` and return their paths."""
    labelled = label_runs(runs)
    figures = {
        "iterations": draw_iterations({label: run.summary for label, run in labelled.items()}),
        "lengths": draw_lengths({label: with_length_intervals(run) for label, run in labelled.items()}),
    }
    return [path for name, figure in figures.items() for path in save(figure, out, name, formats=formats)]


def draw_all(folders: Sequence[Path], *, out: Path | None, formats: Sequence[str]) -> list[Path]:
    """Write all figures of all folders and return their paths.

    Raises:
        ResultError: If there is nothing to draw, or several folders and no `out`.
    """
    found = {folder: read(folder) for folder in folders}
    results = [result for result in found.values() if result is not None]
    for folder in [folder for folder, result in found.items() if result is None]:
        print(f"{folder}: nothing to draw", file=sys.stderr)
    if not results:
        raise ResultError("no folder holds a finished run, a finished evaluation or measured judges")
    if len(folders) > 1 and out is None:
        raise ResultError("several folders need --out (make: OUT=...), where the figures that compare them go")
    paths = []
    for result in results:
        target = result.path / "figures" if out is None else out / result.path.name if len(folders) > 1 else out
        paths += draw(result, target, formats=formats)
    runs = [result for result in results if isinstance(result, Run)]
    return paths + (compare(runs, out, formats=formats) if out is not None and len(runs) > 1 else [])


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw, print the paths, and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tpo.results.figures", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folders", nargs="+", type=Path, metavar="RUN", help="a folder below runs/")
    parser.add_argument("--out", type=Path, help="where to write; RUN/figures where there is one RUN")
    parser.add_argument("--formats", nargs="+", choices=[*FORMATS, "pdf"], default=list(FORMATS))
    chosen = parser.parse_args(arguments)
    try:
        paths = draw_all(chosen.folders, out=chosen.out, formats=chosen.formats)
    except TpoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(str(path) for path in paths))
    return 0


if __name__ == "__main__":
    sys.exit(main())
