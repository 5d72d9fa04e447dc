"""Write-once artifacts: the request decides the name, the manifest is written last.

An artifact is a directory `<root>/<stage>-<hash>` with `request.json` (written before the work), the stage's files, and
`manifest.json` (written last, by rename). A directory without a manifest does not exist for a reader; a step that finds
such a directory continues from the rows in it. The hash covers the stage, its version, its settings, its seed and the
ids of its inputs. So two runs with the same request share the artifact, and a setting that does not change the result
must not be in the request's config. Processes with the same request at the same time compute it once, on several
machines too where their shared file system passes locks on (`tpo.store.locks`).

The manifest holds the digest of every file. An artifact is open when all of them are there; `Artifact.verified` hands
out what is to be read of them, and compares its content with the manifest, in general without reading it
(`tpo.store.digests`). The manifest is sealed with a digest of its own, and names the directory that it belongs to.

It also holds what each input was when it was read, the digest of that artifact's content. An artifact that was computed
from another content than its input has now, which was deleted and computed anew with other rounding, is stale: a step
that asks for it moves it to `<root>/stale/`, where nobody reads it, and computes it from what is there. The same holds
for rows that a killed process had saved. What was computed anew with the same content makes nothing stale.
"""

import json
import logging
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from tpo.store.digests import digests
from tpo.store.environment import environment, peak_memory_mib
from tpo.store.errors import ArtifactError
from tpo.store.files import (
    SealError,
    UnsealedError,
    json_digest,
    open_to_others,
    read_sealed,
    sync,
    sync_below,
    translate_disk_errors,
    write_json,
    write_sealed,
)
from tpo.store.layout import (
    CHECKPOINTS,
    LOCK,
    MANIFEST,
    PARTIAL,
    REQUEST,
    STALE,
    find_request,
    is_content,
    move_content,
    pruned,
)
from tpo.store.locks import hold
from tpo.store.progress import PROGRESS, Listener, watching
from tpo.store.records import Record, read_records
from tpo.store.stage import Budget, RunsOn, Stage, Step

log = logging.getLogger(__name__)

SPEED = {"tokens_per_second"}  # among the metrics: how fast the machine was, no content

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Artifact:
    """A completed step on disk.

    Attributes:
        artifact_id: Name of its directory.
        path: Its directory. What lies in it is read through `verified` and `rows` only.
        manifest: What was requested, computed and measured.
        is_reused: Whether an earlier request computed it.
    """

    artifact_id: str
    path: Path
    manifest: dict[str, Any]
    is_reused: bool

    @cached_property
    def content(self) -> str:
        """Digest of what it holds, files and metrics: equal for all computations with the same outcome."""
        metrics = {name: value for name, value in self.metrics.items() if name not in SPEED}
        return json_digest({"files": self.manifest["files"], "metrics": metrics})

    def input(self, role: str) -> "Artifact":
        """Return the artifact that this one was computed from, with the content that it had then.

        Raises:
            ArtifactError: If it is not there, damaged, or was computed anew with another content.
        """
        path = self.path.parent / self.manifest["inputs"][role]
        return open_artifact(path, content=self.manifest["contents"][role])

    @property
    def metrics(self) -> dict[str, Any]:
        """What the stage counted and measured."""
        metrics: dict[str, Any] = self.manifest["metrics"]
        return metrics

    @property
    def seconds(self) -> float:
        """Wall time of the computation, whenever it took place."""
        return float(self.manifest["seconds"])

    @property
    def budget(self) -> Budget | None:
        """What was known of the step's cost when it was requested."""
        found = self.manifest.get("budget")
        return None if found is None else Budget(**found)

    def verified(self, name: str) -> Path:
        """Return the path of a file or a folder of the artifact, after comparing its content with the manifest.

        A file is read for that only where its size, inode or times differ from when its digest was last computed.
        `tpo.store.digests` says what this does not detect. Files that were added to a folder are not detected either.

        Raises:
            ArtifactError: If the artifact has nothing of this name, or a file of it is missing or was changed.
        """
        expected = {
            file: digest
            for file, digest in self.manifest["files"].items()
            if file == name or file.startswith(f"{name}/")
        }
        if not expected:
            raise ArtifactError(f"{self.path} has no {name}: its {MANIFEST} lists {', '.join(self.manifest['files'])}")
        found = digests(self.path, expected)
        for file, digest in expected.items():
            if found.get(file) != digest:
                raise _gone(self.path / file) if file in pruned(self.path) else _damaged(self.path / file, self.path)
        return self.path / name

    def rows(self, kind: type[R], name: str = "rows.jsonl") -> Iterator[R]:
        """Yield the artifact's rows as records, one in memory at a time."""
        return read_records(self.verified(name), kind)


class Store:
    """The directory of all artifacts, and the one way to get one: `store.request(STAGE, ...)`.

    Attributes:
        root: The directory.
        asked: The distinct artifacts that this store was asked for, in order.
        listeners: Who is told of every step; more may be added at any time.
    """

    def __init__(
        self,
        root: Path,
        *,
        execute: Callable[[Path], None],
        run: str | None = None,
        listeners: Sequence[Listener] = (),
    ) -> None:
        """Open the store at `root`.

        Args:
            root: The directory; made when it is needed.
            execute: Computes the step whose request lies in the given directory, and writes the manifest.
            run: Name of the run that requests, written to the manifests of what is computed for it.
            listeners: Who is told of every step.
        """
        self.root = root
        self.listeners = list(listeners)
        self._execute = execute
        self._run = run
        self._asked: dict[str, Artifact] = {}

    @property
    def asked(self) -> list[Artifact]:
        """What this store was asked for, each artifact once, in the order in which they were first asked for."""
        return list(self._asked.values())

    def request(
        self,
        stage: Stage,
        config: dict[str, Any],
        inputs: Mapping[str, Artifact] | None = None,
        *,
        seed: int = 0,
        how: dict[str, Any] | None = None,
        runs_on: RunsOn | None = None,
        processes: dict[str, Any] | None = None,
        budget: Budget | None = None,
    ) -> Artifact:
        """Return the artifact of a step of `stage` (see `Step` for its parts), computing it now if it is not there yet.

        Args:
            stage: The kind of computation.
            config: What the result depends on, plain JSON types only.
            inputs: Artifacts by role.
            seed: Of the step.
            how: What the work needs and the result does not depend on.
            runs_on: What it computes with, if not what the stage says.
            processes: How several processes compute it together.
            budget: What is known of its cost.

        Raises:
            ArtifactError: If the artifact on disk is damaged, an input has changed since, or the computation failed.
            LockError: If the file system has no locks.
        """
        step = Step(
            stage=stage.name,
            version=stage.version,
            config=config,
            inputs={role: artifact.artifact_id for role, artifact in (inputs or {}).items()},
            contents={role: artifact.content for role, artifact in (inputs or {}).items()},
            seed=seed,
            how=how or {},
            work=stage.work,
            runs_on=runs_on or stage.runs_on,
            processes=processes,
            budget=budget,
        )
        artifact = self.run(step)
        return self._asked.setdefault(artifact.artifact_id, artifact)

    def open(self, artifact_id: str) -> Artifact:
        """Return an artifact that is used by its id, and tell listeners, so that it is not deleted meanwhile.

        Raises:
            ArtifactError: If it is incomplete or damaged.
        """
        artifact = open_artifact(self.root / artifact_id)
        for listener in self.listeners:
            listener.opened(artifact_id)
        return artifact

    def run(self, step: Step) -> Artifact:
        """Return the step's artifact, computing it if it is not there yet.

        A second process that requests the same step waits for the first and logs it; when the first is killed, the
        second continues at once from the rows that the first had saved.

        Raises:
            ArtifactError: If the artifact on disk is damaged, an input has changed since, or the computation failed.
            LockError: If the file system has no locks.
        """
        path = self.root / step.artifact_id
        artifact = find_artifact(step, path)
        if artifact is None:
            artifact = self._compute(step, path)
        elif any((path / name).exists() for name in (PARTIAL, CHECKPOINTS, PROGRESS)):
            with hold(path / LOCK, purpose=path.name):
                _remove_partial(path)
                (path / PROGRESS).unlink(missing_ok=True)
        if artifact.is_reused:
            log.info("%s: reused", step.artifact_id)
        for listener in self.listeners:
            listener.end(step, artifact.manifest, is_reused=artifact.is_reused)
        return artifact

    def _compute(self, step: Step, path: Path) -> Artifact:
        """Return the step's artifact, computed here, or by another process that this one waits for."""
        for listener in self.listeners:
            listener.begin(step)
        with watching(path, step, self.listeners) as watch, translate_disk_errors(path):
            try:
                path.mkdir(parents=True, exist_ok=True)
                # Child processes that compute the step inherit the lock: while one of them outlives this process, no
                # other process can start to write the same rows.
                with hold(path / LOCK, purpose=step.artifact_id, is_inheritable=True):
                    artifact = find_artifact(step, path)
                    if artifact is not None:
                        return artifact
                    _set_aside(step, path)
                    log.info("%s: computing", step.artifact_id)
                    for leftover in path.glob("*.tmp"):  # of an attempt that was killed
                        leftover.unlink()
                    write_json(path / REQUEST, {**step.to_request(), "run": self._run})
                    self._execute(path)
                    watch.read()  # before the file goes
                    (path / PROGRESS).unlink(missing_ok=True)
                    return open_artifact(path, is_reused=False)
            except KeyboardInterrupt as error:
                watch.read()
                if watch.state is not None:
                    error.add_note(f"{watch.state.kept} of {step.stage}")
                raise


def find_artifact(step: Step, path: Path) -> Artifact | None:
    """Return a step's artifact; None where there is none, or a stale one.

    Raises:
        ArtifactError: If it is damaged, or another step's.
    """
    if not (path / MANIFEST).exists():
        return None
    try:
        manifest = read_manifest(path)
    except OutdatedError:
        return None
    identity = step.to_dict()
    wrong = [key for key in identity if manifest.get(key) != identity[key]]
    if wrong:
        raise ArtifactError(
            f"{path / MANIFEST} is of another step: its {' and '.join(wrong)} differ from what was asked for. "
            f"Delete {path} to compute it again."
        )
    return open_artifact(path) if manifest["contents"] == step.contents else None


def _set_aside(step: Step, path: Path) -> None:
    """Move what was computed here from other inputs to where nobody reads it; the lock is held.

    Raises:
        ArtifactError: If it is the step's inputs that are not there any more, but newer ones.
    """
    request = find_request(path)
    before = request.get("contents")
    if not request or (before == step.contents and not (path / MANIFEST).exists()):
        return
    open_inputs(path.parent, {"inputs": step.inputs if step.contents else {}, "contents": step.contents})
    target = path.parent / STALE / f"{path.name}.{json_digest(request)[:8]}"
    changed = sorted(
        step.inputs[role] for role, content in step.contents.items() if before and before.get(role) != content
    )
    why = f"computed from another content of {', '.join(changed)}" if changed else "it does not say from what"
    log.warning("%s: stale (%s), so it is computed anew; the old one is kept in %s", path.name, why, target)
    move_content(path, target)


def open_inputs(root: Path, request: Mapping[str, Any]) -> dict[str, Artifact]:
    """Return the inputs of a requested step by role, with the content that the step is to be computed from.

    Raises:
        ArtifactError: If one is incomplete or damaged, or was computed anew since the step was requested.
    """
    contents = request["contents"]
    return {role: open_artifact(root / name, content=contents.get(role)) for role, name in request["inputs"].items()}


def open_artifact(path: Path, *, is_reused: bool = True, content: str | None = None) -> Artifact:
    """Return the completed artifact in the directory `path`, all files of which are there, their content unchecked.

    Args:
        path: The directory.
        is_reused: Whether an earlier request computed it.
        content: The `Artifact.content` that whoever wants it knows of it; None where nothing is known.

    Raises:
        ArtifactError: If it is incomplete, a file is missing, or the content is another.
    """
    manifest = read_manifest(path)
    missing = [name for name in manifest["files"] if not (path / name).is_file()]
    for name in missing and sorted(set(missing) - pruned(path)):
        raise _damaged(path / name, path)
    artifact = Artifact(artifact_id=path.name, path=path, manifest=manifest, is_reused=is_reused)
    if content is not None:
        _require_content(artifact, content)
    return artifact


def _require_content(artifact: Artifact, content: str) -> None:
    if artifact.content != content:
        raise ArtifactError(
            f"{artifact.path} was computed anew, with another content than what rests on it came from: repeat the "
            "command that asks for it, which computes the rest anew as well"
        )


def _damaged(file: Path, path: Path) -> ArtifactError:
    return ArtifactError(
        f"{file} is missing or differs from {MANIFEST}: artifacts are never edited. Delete {path} to compute it again."
    )


def _gone(file: Path) -> ArtifactError:
    return ArtifactError(
        f"{file} was deleted by tpo.gc, since no run had selected it. Delete the artifact to compute it again."
    )


class OutdatedError(ArtifactError):
    """A manifest without its own digest and those of its inputs' content: an earlier version of this code wrote it."""


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of the completed artifact in the directory `path`, its files unchecked.

    Raises:
        OutdatedError: If an earlier version of this code wrote it.
        ArtifactError: If there is none, it is damaged or was edited, or the directory is not its own.
    """
    if not (path / MANIFEST).exists():
        raise ArtifactError(f"{path} has no {MANIFEST}: the stage has not completed. Run the experiment again.")
    try:
        manifest = read_sealed(path / MANIFEST)
    except UnsealedError as error:
        raise OutdatedError(f"{error}. Run the experiment again, which computes it anew.") from error
    except SealError as error:
        raise ArtifactError(f"{error}. Delete {path} to compute it again.") from error
    name = manifest.get("artifact_id")
    if name != path.name:
        raise ArtifactError(
            f"{path} holds the artifact {name}: folders of artifacts are not renamed. Give it its name back, or delete "
            "it."
        )
    return manifest


def finish(path: Path, *, metrics: dict[str, Any], started: float) -> None:
    """Write the manifest of a computed step: from now on the artifact exists.

    Each file is read once for its digest, which is remembered. The disk holds files and folders before the manifest.

    Args:
        path: The artifact's directory with `request.json` and the stage's files.
        metrics: Counts and measurements of the stage, plain JSON types.
        started: `time.time()` at the start of the computation.

    Raises:
        ArtifactError: If an input was computed anew with another content in the meantime.
    """
    request = json.loads((path / REQUEST).read_text())
    for role, content in request.get("contents", {}).items():
        source = path.parent / request["inputs"][role]
        if (source / MANIFEST).exists():  # one that was deleted after it was read does no harm
            _require_content(Artifact(source.name, source, read_manifest(source), is_reused=True), content)
    files = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and is_content(file.relative_to(path))
    )
    open_to_others(path, files)
    sync_below(path, files)
    write_sealed(
        path / MANIFEST,
        {
            **request,
            "artifact_id": path.name,
            "metrics": metrics,
            "files": digests(path, files),
            "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 3),
            "peak_memory_mib": peak_memory_mib(),
            "environment": environment(),
        },
    )
    sync([path, path.parent])
    _remove_partial(path)


def _remove_partial(path: Path) -> None:
    """Delete what nobody goes on from, once there is a manifest."""
    if (path / MANIFEST).exists():
        (path / PARTIAL).unlink(missing_ok=True)
        shutil.rmtree(path / CHECKPOINTS, ignore_errors=True)
