"""The entry point: `python -m tpo.results.page runs/<run>` writes the `report.html` of a finished run anew."""

import argparse
import sys
from pathlib import Path

from tpo.results.page.page import write_report
from tpo.results.page.samples import MAX_INSTRUCTIONS
from tpo.store.errors import TpoError
from tpo.store.files import translate_disk_errors


def main() -> None:
    """Write the report and print where it is; errors that are the user's to mend come without a traceback."""
    parser = argparse.ArgumentParser(
        prog="python -m tpo.results.page", description="Write a finished run's report.html."
    )
    parser.add_argument("run", type=Path, help="the run's folder, with summary.json and config.json")
    parser.add_argument(
        "--max-instructions",
        type=_count,
        default=MAX_INSTRUCTIONS,
        metavar="N",
        help="instructions to show per iteration, of training and of held-out ones each; where there are more, N are "
        "drawn with the run's seed (default: %(default)s, which keeps a run of the paper's size below 20 MB)",
    )
    arguments = parser.parse_args()
    try:
        with translate_disk_errors(arguments.run):
            path = write_report(arguments.run, max_instructions=arguments.max_instructions)
    except TpoError as error:
        sys.exit(f"error: {error}")
    print(path)


def _count(text: str) -> int:
    count = int(text)
    if count < 1:
        raise ValueError("at least 1")
    return count


if __name__ == "__main__":
    main()
