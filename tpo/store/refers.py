"""What the folders of runs, evaluations and measured judges refer to, which `tpo.store.gc` keeps."""

import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from tpo.store.errors import ArtifactError
from tpo.store.in_use import ARTIFACT_ID, ASKED
from tpo.store.layout import folders_below
from tpo.store.run_files import is_run
from tpo.store.text import one_line

log = logging.getLogger(__name__)

RUNS = Path("runs")  # where runs lie unless `runs_dir` says otherwise


class Refers(NamedTuple):
    """What runs' folders refer to.

    Attributes:
        text: Of all their JSON files.
        asked: What those that have not ended noted.
        unfinished: The names of those that have not ended.
    """

    text: str
    asked: set[str]
    unfinished: set[str]


def read_runs(runs: Iterable[Path]) -> Refers:
    """Return what the folders in these places refer to, however deep they lie.

    Damaged JSON is said; what it still names stays, and a run whose summary it was counts as one that has not ended.
    """
    texts, asked, unfinished = [], set[str](), set()
    for folder in sorted(folder for place in runs for folder in folders_below(place)):
        there = set()
        for file in sorted(file for file in folder.iterdir() if file.is_file()):
            if file.suffix not in (".json", ASKED):
                continue
            text = file.read_text(encoding="utf-8", errors="replace")
            if file.suffix == ASKED:
                asked.update(ARTIFACT_ID.findall(text))
                continue
            texts.append(text)
            try:
                json.loads(text)
                there.add(file.name)
            except (ValueError, RecursionError):
                log.warning("%s is damaged: what it no longer names may go", one_line(str(file)))
        if (folder / "config.json").is_file() and "summary.json" not in there:
            unfinished.add(folder.name)
    return Refers("\n".join(texts), asked, unfinished)


def states(runs: Iterable[Path]) -> list[tuple[Path, int]]:
    """Return all folders in these places, and when a file was last added, deleted or replaced in each."""
    return [(folder, folder.stat().st_mtime_ns) for place in runs for folder in folders_below(place)]


def places_of_runs(given: Sequence[Path]) -> list[Path]:
    """Return the places whose runs refer to artifacts: those that are given, and `runs` where there is such a folder.

    Raises:
        ArtifactError: If a given place is no folder, or nothing in it refers to anything; `runs`, where none is given.
    """
    for place in given or [RUNS]:
        if not place.is_dir():
            raise ArtifactError(
                f"{place}: there is no such folder of runs; name with --runs every one whose runs use the artifacts"
            )
        if not any(is_run(folder) or any(folder.glob(f"*{ASKED}")) for folder in folders_below(place)):
            raise ArtifactError(
                f"{place}: there is no run, evaluation or measured judge in it, so nothing would be kept: name the "
                "folder that holds the runs with --runs (to delete all artifacts, delete their folder)"
            )
    more = [RUNS] if RUNS.is_dir() and not any(place.samefile(RUNS) for place in given) else []
    return [*given, *more]
