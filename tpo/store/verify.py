"""Whether artifacts and runs are what they say: manifests, digests, rows, and that all of them belong together.

Reads everything that it is pointed at and writes nothing but remembered digests. Of artifacts that are wrong it says
which others rest on them.
"""

import argparse
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from tpo.store.artifacts import Artifact, read_manifest
from tpo.store.digests import digests
from tpo.store.errors import ArtifactError, TpoError
from tpo.store.files import (
    SealError,
    UnsealedError,
    content_hash,
    file_digest,
    os_error,
    read_sealed,
)
from tpo.store.layout import (
    MANIFEST,
    PRUNED,
    REFERENCE,
    REQUEST,
    find_request,
    folders_below,
    is_artifact,
    is_content,
    pruned,
    requested,
)
from tpo.store.progress import counted
from tpo.store.records import Record, RecordError, row_format
from tpo.store.run_files import CONFIG, JUDGES, SUMMARY, is_run, read_run_file
from tpo.store.shared import ANSWERS, Wrong, verify_answers, verify_references
from tpo.store.text import one_line

ABOUT = """\
Whether artifacts and runs are what they say. Exits with 1 where something is wrong, with 2 where there is nothing.

python -m tpo.verify                              all of artifacts/, and log-probabilities and answers that they share
python -m tpo.verify runs/<run>                   a run, an evaluation or measured judges, with all that they rest on
python -m tpo.verify runs --reread                all of them; every file is read, also where its digest is remembered
"""
IDENTITY = ("stage", "version", "config", "inputs", "seed")
SHOWN = 5  # of what depends on something wrong


class Verified(NamedTuple):
    """What was verified.

    Attributes:
        root: Directory of artifacts.
        inputs: Of each artifact there, the ids by role.
        wrong: What is wrong, with these or with what rests on them.
    """

    root: Path
    inputs: dict[str, dict[str, str]]
    wrong: list[Wrong]


def verify_artifacts(root: Path, names: Iterable[str], *, run: str | None = None, rereads: bool = False) -> Verified:
    """Return what is wrong with artifacts and with how they belong together, each with those named as its inputs.

    Args:
        root: Directory of artifacts.
        names: Ids.
        run: Name of the run that asked for them; None for the one that each was computed for.
        rereads: Whether files are read whose digests are remembered.
    """
    found: list[Wrong] = []
    inputs: dict[str, dict[str, str]] = {}
    waiting = [(name, run) for name in names]  # with the run that asks for it, itself or for what rests on it
    while waiting:
        name, asker = waiting.pop(0)
        if name in inputs:
            continue
        path = root / name
        request = find_request(path)
        asker = run or request.get("run") or asker
        inputs[name] = request.get("inputs", {})
        waiting += [(source, asker) for source in inputs[name].values()]
        try:
            found += _of_artifact(path, _again(asker), rereads=rereads)
        except OSError as error:  # the rest is verified all the same
            found.append(Wrong(path, os_error(error, path), f"delete {path}; {_again(asker)}"))
    return Verified(root, inputs, found)


def _of_artifact(path: Path, todo: str, *, rereads: bool) -> Iterator[Wrong]:
    if not (path / MANIFEST).exists():
        yield Wrong(path, "is not there, or was not finished", todo)
        return
    try:
        manifest = read_manifest(path)
    except ArtifactError as error:
        is_file = isinstance(error.__cause__, SealError)
        yield Wrong(path / MANIFEST if is_file else path, str(error), todo)
        return
    yield from _of_manifest(path, manifest, todo)
    yield from _of_files(path, manifest["files"], f"delete {path}; {todo}", rereads=rereads)
    with suppress(FileNotFoundError):
        try:
            read_sealed(path / PRUNED)
        except SealError as error:
            what = f"{str(error).removeprefix(str(path / PRUNED)).strip()}: it says which files were deleted on purpose"
            yield Wrong(path / PRUNED, what, f"delete it; if files are missing then, {todo}")


def _again(run: str | None) -> str:
    return f"repeat the command of {f'the run {run}' if run else 'a run that asks for it'}, which computes it anew"


def _of_manifest(path: Path, manifest: dict[str, Any], todo: str) -> Iterator[Wrong]:
    identity = {key: manifest[key] for key in IDENTITY}
    if path.name != f"{manifest['stage']}-{content_hash(identity)}":
        yield Wrong(path, "its name is not the hash of what its manifest says was asked for", f"delete it; {todo}")
    try:
        request = json.loads((path / REQUEST).read_text(encoding="utf-8"))
        said = None if request == requested(manifest) else f"differs from {MANIFEST}"
    except FileNotFoundError:
        said = "is missing"
    except (ValueError, RecursionError):
        said = "is damaged"
    if said is not None:
        yield Wrong(path / REQUEST, said, f"{MANIFEST} is read in its place; to have both, delete {path}; {todo}")
    for role, name in manifest["inputs"].items():
        source = path.parent / name
        with suppress(ArtifactError):  # of the input itself
            now = Artifact(name, source, read_manifest(source), is_reused=True).content
            if now != manifest["contents"].get(role):
                yield Wrong(path, f"stale: its input {name} was computed anew since, with another content", todo)


def _of_files(path: Path, files: dict[str, str], todo: str, *, rereads: bool) -> Iterator[Wrong]:
    gone = pruned(path)
    there = {name for name in files if (path / name).is_file()}
    found = {name: file_digest(path / name) for name in sorted(there)} if rereads else digests(path, sorted(there))
    for name, digest in files.items():
        if name not in there:
            if name not in gone:
                yield Wrong(path / name, "is missing", todo)
        elif found[name] != digest:
            yield Wrong(path / name, f"differs from {MANIFEST}", todo)
        elif name.endswith(".jsonl") and (said := wrong_row(path / name)) is not None:
            yield Wrong(path / name, said, todo)
    others = (file for file in sorted(path.rglob("*")) if file.is_file() and is_content(file.relative_to(path)))
    for file in (file for file in others if file.relative_to(path).as_posix() not in files):
        yield Wrong(file, f"is not listed in {MANIFEST}", "delete it, if it is not yours")


def wrong_row(path: Path) -> str | None:
    """Return what is wrong with the first wrong row of a file, None where all are right.

    Rows are read as the kind of record that the first one is; rows of none are objects.
    """
    kinds = list(_kinds(Record))
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            left = [kind for kind in kinds if _reads(kind, line)]
            if not left and number > 1 and kinds:
                return f"row {number} is no {kinds[0].__name__}, as the rows before it"
            kinds = left
            if not left:
                try:
                    is_object = isinstance(json.loads(line), dict)
                except (ValueError, RecursionError):
                    is_object = False
                if not is_object:
                    return f"row {number} is no JSON object"
    return None


def _kinds(kind: type[Record]) -> Iterator[type[Record]]:
    for each in kind.__subclasses__():
        yield each
        yield from _kinds(each)


def _reads(kind: type[Record], line: bytes) -> bool:
    try:
        row_format(kind).decode(line)
    except RecordError:
        return False
    return True


def verify_run(path: Path, *, artifacts: Path | None, rereads: bool = False) -> Verified:
    """Return the artifacts that a run or an evaluation rests on, and what is wrong with these and its own files.

    Args:
        path: The run's folder.
        artifacts: Directory of artifacts; None for that of the run's settings.
        rereads: See `verify_artifacts`.
    """
    found: list[Wrong] = []
    files: dict[str, Any] = {}
    named: list[str] = []
    again = "repeat the command that made it"
    for file in sorted(file for file in path.glob("*.json") if file.is_file()):
        try:
            files[file.name] = read_run_file(file)
            named += named_artifacts(files[file.name])
        except UnsealedError as error:
            found.append(Wrong(file, f"{error}, so nobody can tell whether it was edited", again))
        except SealError as error:
            found.append(Wrong(file, str(error), again))
        except RecursionError:
            found.append(Wrong(file, "is damaged (brackets without end)", again))
    settings = files.get(CONFIG, {}).get("artifacts_dir")
    root = artifacts or Path(settings if isinstance(settings, str) else "artifacts")
    if not path.name.startswith(JUDGES) and not (path / SUMMARY).is_file():
        found.append(Wrong(path, f"has no {SUMMARY}: it has not ended", "repeat the command"))
    names = dict.fromkeys(named)
    if names and not root.is_dir():
        whose = "artifacts_dir of its config.json" if isinstance(settings, str) else "the default"
        what = f"the folder of its artifacts, {root.absolute()}, is not there ({whose})"
        return Verified(root, {}, [*found, Wrong(path, what, "name the folder that holds them with --artifacts")])
    verified = verify_artifacts(root, names, run=path.name, rereads=rereads)
    found += [*verified.wrong, *verify_references(root, verified.inputs)]
    for name, value in files.items():
        for stage in _stages(value):
            found += _of_content(path / name, root, stage)
    return verified._replace(wrong=found)


def _stages(value: Any) -> list[dict[str, Any]]:
    """Return what a file says of stages, as a summary does; others, which are somebody else's, may say anything."""
    stages = value.get("stages") if isinstance(value, dict) else None
    found = stages if isinstance(stages, list) else []
    return [stage for stage in found if isinstance(stage, dict) and isinstance(stage.get("artifact_id"), str)]


def _of_content(file: Path, root: Path, stage: dict[str, Any]) -> Iterator[Wrong]:
    name = stage["artifact_id"]
    with suppress(ArtifactError):  # of the artifact itself
        now = Artifact(name, root / name, read_manifest(root / name), is_reused=True).content
        if stage.get("content") != now:
            what = f"shows another content of {name} than there is now, which was computed anew since"
            yield Wrong(file, what, "repeat the command that made it")


def named_artifacts(value: Any, key: str = "") -> Iterator[str]:
    """Yield the ids that a summary names: under `artifacts`, by role, as `artifact_id`, and as what it trained."""
    if isinstance(value, str) and key in ("artifacts", "artifact_id", "adapter"):
        yield value.partition("/")[0]
    elif isinstance(value, dict):
        for name, part in value.items():
            yield from named_artifacts(part, "artifacts" if key == "artifacts" else name)
    elif isinstance(value, list):
        for part in value:
            yield from named_artifacts(part, key)


def dependents(root: Path, names: Iterable[str]) -> dict[str, list[str]]:
    """Return for each artifact the ids of all that were computed from it, directly or not."""
    users: dict[str, set[str]] = {}
    for path in root.glob("*"):
        if is_artifact(path):
            for source in find_request(path).get("inputs", {}).values():
                users.setdefault(source, set()).add(path.name)
    found = {}
    for name in names:
        reached: set[str] = set()
        waiting = [name]
        while waiting:
            more = users.get(waiting.pop(), set()) - reached
            reached |= more
            waiting += more
        found[name] = sorted(reached)
    return found


def report(root: Path, found: Sequence[Wrong]) -> Iterator[str]:
    """Yield lines on what is wrong, what rests on it and what to do."""
    owners = {wrong.path: wrong.path.relative_to(root).parts[0] for wrong in found if wrong.path.is_relative_to(root)}
    resting = dependents(root, set(owners.values()))
    for wrong in found:
        yield one_line(f"{wrong.path}: {wrong.what.removeprefix(str(wrong.path)).strip()}")
        users = resting.get(owners.get(wrong.path, ""), [])
        if users:
            more = f" and {len(users) - SHOWN} more" if len(users) > SHOWN else ""
            yield f"    rests on it: {one_line(', '.join(users[:SHOWN]))}{more}"
        yield f"    {one_line(wrong.todo)}"


def make_parser() -> argparse.ArgumentParser:
    """Return the command's parser."""
    parser = argparse.ArgumentParser(
        prog="python -m tpo.verify", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    usual = [Path("artifacts")]
    about = "artifacts, or folders of runs (default: artifacts)"
    parser.add_argument("paths", nargs="*", default=usual, type=Path, metavar="PATH", help=about)
    parser.add_argument("--artifacts", type=Path, metavar="DIR", help="of the runs (default: that of their settings)")
    parser.add_argument("--reread", action="store_true", help="read every file, also where its digest is remembered")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Verify what is named, and say what is wrong; return the exit status."""
    given = make_parser().parse_args(arguments)
    num_wrong = 0
    try:
        if given.artifacts is not None and not given.artifacts.is_dir():
            raise ArtifactError(f"--artifacts {given.artifacts}: there is no such folder")
        for path in (part for named in given.paths for part in _parts(named)):
            root, inputs, found = verify(path, artifacts=given.artifacts, rereads=given.reread)
            for line in report(root, found):
                print(line)
            is_one = len(found) == 1
            said = f"{counted(len(found), 'thing')} {'is' if is_one else 'are'} wrong" if found else "all is as it says"
            place = "" if root == path else f" in {root}"
            print(one_line(f"{path}: {said}, with {counted(len(inputs), 'artifact')}{place}"))
            num_wrong += len(found)
    except TpoError as error:
        print(f"error: {one_line(str(error))}", file=sys.stderr)
        return 2
    return 1 if num_wrong else 0


def verify(path: Path, *, artifacts: Path | None, rereads: bool) -> Verified:
    """Return what is wrong with an artifact, a run's folder or a directory of artifacts, and what that rests on.

    Args:
        path: See `_parts`.
        artifacts: See `verify_run`.
        rereads: See `verify_artifacts`.
    """
    if is_artifact(path):
        verified = verify_artifacts(path.parent, [path.name], rereads=rereads)
        shared = verify_references(path.parent, verified.inputs)
    elif is_run(path):
        return verify_run(path, artifacts=artifacts, rereads=rereads)
    else:
        names = [folder.name for folder in sorted(path.glob("*")) if (folder / MANIFEST).exists()]
        verified = verify_artifacts(path, names, rereads=rereads)
        shared = chain(verify_references(path), verify_answers(path))
    return verified._replace(wrong=[*verified.wrong, *shared])


def _parts(path: Path) -> list[Path]:
    """Return what is verified where a path is named: itself, or in a directory of runs' folders each of these.

    Raises:
        ArtifactError: If there is nothing.
    """
    if not path.is_dir():
        raise ArtifactError(f"{path}: there is no such folder of artifacts, or of a run")
    is_shared = (path / REFERENCE).is_dir() or (path / ANSWERS).exists()
    if is_artifact(path) or is_run(path) or is_shared or any(map(is_artifact, path.glob("*"))):
        return [path]
    found = [folder for folder in folders_below(path) if is_run(folder)]
    if not found:
        raise ArtifactError(f"{path}: there is nothing to verify, neither artifacts nor the folder of a run")
    return sorted(found)
