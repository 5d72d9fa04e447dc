"""Print the tables of the paper's claims in Markdown, and draw their figure.

Reads the kept runs of experiments/paper_claims, or other folders of runs, and decides by their settings which arm each
is of. A run is kept by `python -m tpo.results 'runs/<name>' --keep experiments/paper_claims/kept`, a rerun that differs
in rounding alone in experiments/paper_claims/rounding/1, 2, 3.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from experiments.paper_claims.arms import Arms, read_arms
from experiments.paper_claims.figure import draw_claims
from experiments.paper_claims.tables import record_tables, record_text
from tpo.results.figures import save
from tpo.results.read import FinishedRun, ResultError, read_folders
from tpo.store.errors import TpoError
from tpo.store.files import writing_to

HERE = Path(__file__).parent
KEPT, ROUNDING = HERE / "kept", HERE / "rounding"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print, draw, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.paper_claims",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="folders or quoted glob patterns; default: the kept runs"
    )
    parser.add_argument(
        "--rounding",
        nargs="+",
        metavar="RUN",
        help="reruns of one seed; default: the kept ones, none where RUN is given",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="of claims.png; default: the record's folder")
    chosen = parser.parse_args(arguments)
    try:
        arms = load(chosen.runs, chosen.rounding or []) if chosen.runs or chosen.rounding else load_kept()
        out = chosen.out or HERE
        with writing_to(out):
            print(record_text(record_tables(arms)), end="")
            (path,) = save(draw_claims(arms), out, "claims", formats=["png"])
    except TpoError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path, file=sys.stderr)
    return 0


def load_kept() -> Arms:
    """Return the arms of the record's own runs.

    Raises:
        ResultError: If there are none.
    """
    return load([str(path) for path in _folders(KEPT, "*")], [str(path) for path in _folders(ROUNDING, "*/*")])


def load(runs: Sequence[str], reruns: Sequence[str]) -> Arms:
    """Return the arms of runs in folders.

    Raises:
        ResultError: If a folder holds no finished run, or as `read_arms` has it.
    """
    return read_arms(_finished(runs), _finished(reruns))


def _folders(place: Path, pattern: str) -> list[Path]:
    return sorted(path for path in place.glob(pattern) if path.is_dir())


def _finished(names: Sequence[str]) -> list[FinishedRun]:
    found = read_folders(names)
    if found.unfinished:
        raise ResultError(f"{found.unfinished[0]} is unfinished: its command, repeated, finishes it")
    return found.runs


if __name__ == "__main__":
    sys.exit(main())
