"""What may be deleted of a directory of artifacts: whatever no run refers to, and nothing that a process uses.

A run's folder refers to the artifacts that its JSON files name, and these to what they were computed from; so does that
of an evaluation or of measured judges. What has not ended refers to all that it has asked for, which a note in its
folder names (`tpo.store.in_use`), and to all that was computed for it. Deleting anything costs time at most: a run that
is repeated computes it again.
"""

import argparse
import math
import re
import secrets
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from fnmatch import fnmatch
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tpo.store.artifacts import read_manifest
from tpo.store.errors import ArtifactError, TpoError
from tpo.store.files import SealError, read_sealed, write_sealed
from tpo.store.in_use import ARTIFACT_ID, ids_in_use
from tpo.store.layout import (
    CHECKPOINTS,
    LOCK,
    MANIFEST,
    PARTIAL,
    PRUNED,
    REFERENCE,
    REQUEST,
    STALE,
    find_request,
    folders_below,
    is_artifact,
    pruned,
)
from tpo.store.locks import HeldError, hold
from tpo.store.progress import counted
from tpo.store.refers import places_of_runs, read_runs, states
from tpo.store.run_files import is_run
from tpo.store.text import one_line

ABOUT = """\
What of the artifacts no run refers to, with sizes. Deletes nothing without --delete, and nothing that a process uses.

python -m tpo.gc                                    what could go
python -m tpo.gc --runs /data/runs                  what neither these runs nor those in runs/ refer to
python -m tpo.gc --keep 'train-*' --keep-days 7     but trainings, and what is younger than a week
python -m tpo.gc --epochs                           of trainings that runs need, the epochs that none of them selected
python -m tpo.gc --delete                           delete it
"""
TEMPORARY_S = 3600.0  # a process that writes a file under a temporary name renames it sooner
GIB = 2**30


class Leftover(NamedTuple):
    """Something that may be deleted.

    Attributes:
        path: A file or a folder.
        why: Nobody needs it.
        size: Bytes.
        owner: The artifact that it is part of, whose lock is held while it goes; itself where it is one.
        epochs: Of a training, to be deleted in place of all of it.
    """

    path: Path
    why: str
    size: int
    owner: Path
    epochs: tuple[str, ...] = ()


def find(
    root: Path, runs: Sequence[Path], *, keep: Sequence[str] = (), keep_days: float = 0.0, has_epochs: bool = False
) -> list[Leftover]:
    """Return what may be deleted, in the order of paths.

    Epochs of trainings that something unfinished refers to stay: it has not selected any.

    Args:
        root: Directory of artifacts.
        runs: Directories of runs' folders: all that use these artifacts, since what none of them needs may go.
        keep: Patterns of ids of artifacts, or of names of runs, to keep with all that they were computed from.
        keep_days: What is younger is kept.
        has_epochs: Whether epochs of needed trainings may go that no run has selected.
    """
    paths = {path.name: path for path in sorted(root.glob("*")) if is_artifact(path)}
    requests = {name: find_request(path) for name, path in paths.items()}
    used = ids_in_use(root) | {name for name, path in paths.items() if _is_held(path)}
    refers = read_runs(runs)  # after what is in use: a run that ends in between has its summary by now

    def is_young(path: Path) -> bool:
        written = [path] if path.is_file() else [path / REQUEST, path / MANIFEST]
        return _age(max(map(_mtime, written))) < 86_400 * keep_days

    open_ids = used | refers.asked
    wanted = open_ids | set(ARTIFACT_ID.findall(refers.text))
    for name, request in requests.items():
        run = _run_of(request)
        if run in refers.unfinished:
            open_ids.add(name)
        elif is_young(paths[name]) or any(fnmatch(name, rule) or fnmatch(run, rule) for rule in keep):
            wanted.add(name)
    wanted |= open_ids
    needed = with_inputs(wanted, requests)

    found: list[Leftover] = []
    for name, path in paths.items():
        if name not in needed:
            why = "no run refers to it" if (path / MANIFEST).exists() else "it was begun, and no run goes on with it"
            found.append(Leftover(path, why, size_of(path), path))
            continue
        if (path / MANIFEST).exists():
            for part in (PARTIAL, CHECKPOINTS):
                if (path / part).exists():
                    found.append(Leftover(path / part, "its artifact is complete", size_of(path / part), path))
            if has_epochs and name not in open_ids:
                found += _unselected(path, refers.text)
        found += _temporary(path.rglob("*.tmp"), owner=path)
    found += _temporary(root.glob("*.tmp"), owner=root)
    found += _temporary((root / REFERENCE).glob("*.tmp"), owner=None)
    for path in sorted((root / STALE).glob("*")):
        if not is_young(path):
            found.append(Leftover(path, "stale: its inputs were computed anew", size_of(path), path))
    for path in sorted((root / REFERENCE).glob("*.json")):
        if not _is_needed_reference(path, needed) and not is_young(path):
            found.append(Leftover(path, "no training that is needed shares it", size_of(path), path))
    return found


def unmatched(root: Path, runs: Sequence[Path], keep: Sequence[str]) -> list[str]:
    """Return the patterns that no artifact's id and no run's name matches, so that they keep nothing."""
    artifacts = [path for path in root.glob("*") if is_artifact(path)]
    names = {path.name for path in artifacts} | {_run_of(find_request(path)) for path in artifacts}
    names |= {folder.name for place in runs for folder in folders_below(place) if is_run(folder)}
    return [rule for rule in keep if not any(fnmatch(name, rule) for name in names)]


def _run_of(request: dict[str, Any]) -> str:
    return str(request.get("run") or "")


def with_inputs(names: Iterable[str], requests: dict[str, dict[str, Any]]) -> set[str]:
    """Return these ids and those of all that they were computed from."""
    found: set[str] = set()
    open_names = list(names)
    while open_names:
        name = open_names.pop()
        if name not in found:
            found.add(name)
            open_names += requests.get(name, {}).get("inputs", {}).values()
    return found


def size_of(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.lstat().st_size for file in files)


def _mtime(path: Path) -> float:
    return path.stat().st_mtime if path.exists() else 0.0


def _age(written: float) -> float:
    """Return the seconds since then; a time that lies ahead, of a clock that was set back, is as long ago."""
    return abs(time.time() - written)


def _is_held(path: Path) -> bool:
    try:
        with hold(path / LOCK, purpose="gc", waits=False):
            return False
    except HeldError:
        return True


def _unselected(path: Path, text: str) -> list[Leftover]:
    """Return the epochs of a training that no run has selected, where a run has selected any."""
    try:
        manifest = read_manifest(path)
    except ArtifactError:
        return []
    epochs = {name.partition("/")[0] for name in manifest["files"] if name.startswith("epoch-")}
    there = {epoch for epoch in epochs if (path / epoch).is_dir()}
    selected = set(re.findall(rf"{re.escape(path.name)}/(epoch-\d+)", text)) & epochs
    gone = tuple(sorted(there - selected))
    if not selected or not gone:
        return []
    why = f"{', '.join(gone)}: no run has selected them"
    return [Leftover(path, why, sum(size_of(path / epoch) for epoch in gone), path, gone)]


def _temporary(files: Iterable[Path], *, owner: Path | None) -> list[Leftover]:
    old = [file for file in files if CHECKPOINTS not in file.parts and _age(_mtime(file)) > TEMPORARY_S]
    return [Leftover(file, "a killed process was writing it", size_of(file), owner or file) for file in sorted(old)]


def _is_needed_reference(path: Path, needed: set[str]) -> bool:
    try:
        return set(read_sealed(path)["inputs"].values()) <= needed
    except SealError:
        return False


def delete(
    found: Sequence[Leftover],
    root: Path,
    *,
    runs: Sequence[Path],
    again: Callable[[], Sequence[Leftover]],
    tell: Callable[[str], None],
) -> int:
    """Delete what was found, without what a process or a run has begun to use meanwhile; return the bytes.

    A folder is renamed before anything in it is deleted, so that no process finds half of it.

    Args:
        found: By `find`.
        root: Directory of artifacts.
        runs: As `find` had them.
        again: Calls `find` as before; called where runs' folders have changed since the last time.
        tell: Is told what is kept, and why.
    """
    done, seen, left = 0, None, set[tuple[Path, tuple[str, ...]]]()
    for leftover in found:
        is_asked = leftover.owner.name in ids_in_use(root)  # first: what has ended before has changed its folder too
        if (now := states(runs)) != seen:
            seen, left = now, {(each.path, each.epochs) for each in again()}
        if is_asked or (leftover.path, leftover.epochs) not in left:
            who = "process has asked for" if is_asked else "run, or a process, needs"
            tell(f"kept {one_line(str(leftover.path))}: a {who} it meanwhile")
            continue
        try:
            if leftover.owner.parent != root:  # stale, or a file of its own: nobody locks it
                _remove(leftover.path)
            else:
                with hold(leftover.owner / LOCK, purpose="gc", waits=False):
                    if leftover.epochs:
                        prune(leftover.owner, leftover.epochs)
                    elif leftover.path == leftover.owner:
                        trash = root / STALE / f"{leftover.path.name}.{secrets.token_hex(4)}"
                        trash.parent.mkdir(exist_ok=True)
                        leftover.path.rename(trash)
                        _remove(trash)
                    else:
                        _remove(leftover.path)
        except HeldError as error:
            tell(f"kept {one_line(str(leftover.path))}: {one_line(str(error))}")
            continue
        done += leftover.size
    return done


def prune(path: Path, folders: Sequence[str]) -> None:
    """Delete folders of a complete artifact, which still holds what it held for all that was computed from it.

    Args:
        path: The artifact's directory, whose lock is held.
        folders: Names in it; a note of their files is written before they go.
    """
    names = [name for name in read_manifest(path)["files"] if name.partition("/")[0] in folders]
    write_sealed(path / PRUNED, {"files": sorted(pruned(path).union(names))})
    for folder in folders:
        shutil.rmtree(path / folder)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m tpo.gc", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("artifacts", nargs="?", type=Path, default=Path("artifacts"), help="default: artifacts")
    parser.add_argument(
        "--runs",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="of runs that use them, beside runs/, which is always read where it is; repeatable",
    )
    parser.add_argument(
        "--keep", action="append", default=[], metavar="PATTERN", help="ids or names of runs to keep; repeatable"
    )
    parser.add_argument("--keep-days", type=_days, default=0.0, metavar="DAYS", help="keep what is younger")
    parser.add_argument("--epochs", action="store_true", help="of trainings that are needed, epochs that are not")
    parser.add_argument("--delete", action="store_true", help="delete it; without this nothing is changed")
    return parser


def _days(text: str) -> float:
    try:
        days = float(text)
    except ValueError:
        days = math.nan
    if not (math.isfinite(days) and days >= 0):
        raise argparse.ArgumentTypeError(f"{text} is no number of days: give one of at least 0")
    return days


def main(arguments: Sequence[str] | None = None) -> int:
    """Tell what may go, and delete it with --delete; return the exit status."""
    given = make_parser().parse_args(arguments)
    root: Path = given.artifacts
    try:
        if not root.is_dir():
            raise ArtifactError(f"{root}: there is no such folder of artifacts")
        runs = places_of_runs(given.runs)
        for rule in unmatched(root, runs, given.keep):
            what = f"--keep {rule}: no artifact and no run has such a name, so it keeps nothing"
            if given.delete:
                raise ArtifactError(f"{what}, and nothing was deleted: mend the pattern, or leave it out")
            print(f"warning: {one_line(what)}", file=sys.stderr)
        look = partial(find, root, runs, keep=given.keep, keep_days=given.keep_days, has_epochs=given.epochs)
        found = look()
        for leftover in found:
            print(f"{_gib(leftover.size):>12}  {one_line(f'{leftover.path}: {leftover.why}')}")
        total, places = sum(leftover.size for leftover in found), one_line(", ".join(map(str, runs)))
        if not found:
            print(f"Nothing in {one_line(str(root))} may go: runs in {places} need it, or it is kept or in use")
            return 0
        print(f"{_gib(total):>12}  in {counted(len(found), 'place')} that no run in {places} needs")
        if given.delete:
            print(f"{_gib(delete(found, root, runs=runs, again=look, tell=print)):>12}  deleted")
        else:
            print("Nothing was deleted: add --delete")
    except TpoError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 0


def _gib(size: int) -> str:
    return f"{size / GIB:,.2f} GiB" if size >= GIB / 100 else f"{size / 2**10:,.0f} KiB"
