"""Write-once artifacts: the request decides the name, the manifest is written last.

An artifact is a directory `<root>/<stage>-<hash>` with `request.json` (written before the work), the stage's files, and
`manifest.json` (written last, by rename). A directory without a manifest does not exist for a reader; a step that finds
such a directory continues from the rows in it. The hash covers the stage, its version, its settings, its seed and the
ids of its inputs. So two runs with the same request share the artifact, and a setting that does not change the result
must not be in the request's config. Processes with the same request at the same time compute it once, on several
machines too where their shared file system passes locks on (`tpo.store.locks`).

The manifest holds the digest of every file. An artifact is open when all of them are there; `Artifact.verified` hands
out what is to be read of them, and compares its content with the manifest, in general without reading it
(`tpo.store.digests`).
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tpo.store.digests import DIGESTS, digests
from tpo.store.environment import environment, peak_memory_mib
from tpo.store.errors import ArtifactError
from tpo.store.files import translate_disk_errors, write_json
from tpo.store.locks import hold
from tpo.store.progress import PROGRESS, Listener, watching
from tpo.store.records import Record, read_records
from tpo.store.stage import Budget, RunsOn, Stage, Step

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOCK = ".lock"

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
                raise _damaged(self.path / file, self.path)
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
            ArtifactError: If the artifact on disk lacks a file or the computation failed.
            LockError: If the file system has no locks.
        """
        step = Step(
            stage=stage.name,
            version=stage.version,
            config=config,
            inputs={role: artifact.artifact_id for role, artifact in (inputs or {}).items()},
            seed=seed,
            how=how or {},
            work=stage.work,
            runs_on=runs_on or stage.runs_on,
            processes=processes,
            budget=budget,
        )
        artifact = self.run(step)
        return self._asked.setdefault(artifact.artifact_id, artifact)

    def run(self, step: Step) -> Artifact:
        """Return the step's artifact, computing it if it is not there yet.

        A second process that requests the same step waits for the first and logs it; when the first is killed, the
        second continues at once from the rows that the first had saved.

        Raises:
            ArtifactError: If the artifact on disk lacks a file or the computation failed.
            LockError: If the file system has no locks.
        """
        path = self.root / step.artifact_id
        artifact = open_artifact(path) if (path / MANIFEST).exists() else self._compute(step, path)
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
                    if (path / MANIFEST).exists():
                        return open_artifact(path)
                    log.info("%s: computing", step.artifact_id)
                    for leftover in path.glob("*.tmp"):  # of an attempt that was killed
                        leftover.unlink()
                    write_json(path / "request.json", {**step.to_request(), "run": self._run})
                    self._execute(path)
                    watch.read()  # before the file goes
                    (path / PROGRESS).unlink(missing_ok=True)
                    return open_artifact(path, is_reused=False)
            except KeyboardInterrupt as error:
                watch.read()
                if watch.state is not None:
                    error.add_note(f"{watch.state.kept} of {step.stage}")
                raise


def open_artifact(path: Path, *, is_reused: bool = True) -> Artifact:
    """Return the completed artifact in the directory `path`, all files of which are there, their content unchecked.

    Raises:
        ArtifactError: If it is incomplete, or a file is missing.
    """
    manifest = read_manifest(path)
    for name in manifest["files"]:
        if not (path / name).is_file():
            raise _damaged(path / name, path)
    return Artifact(artifact_id=path.name, path=path, manifest=manifest, is_reused=is_reused)


def _damaged(file: Path, path: Path) -> ArtifactError:
    return ArtifactError(
        f"{file} is missing or differs from {MANIFEST}: artifacts are never edited. Delete {path} to compute it again."
    )


def read_manifest(path: Path) -> dict[str, Any]:
    """Return the manifest of the completed artifact in the directory `path`, its files unchecked.

    Raises:
        ArtifactError: If there is none, or it is damaged.
    """
    if not (path / MANIFEST).exists():
        raise ArtifactError(f"{path} has no {MANIFEST}: the stage has not completed. Run the experiment again.")
    try:
        manifest: dict[str, Any] = json.loads((path / MANIFEST).read_text())
    except ValueError as error:
        raise ArtifactError(f"{path / MANIFEST} is damaged ({error}). Delete {path} to compute it again.") from error
    return manifest


def finish(path: Path, *, metrics: dict[str, Any], started: float) -> None:
    """Write the manifest of a computed step: from now on the artifact exists.

    Each file is read once for its digest, which is remembered.

    Args:
        path: The artifact's directory with `request.json` and the stage's files.
        metrics: Counts and measurements of the stage, plain JSON types.
        started: `time.time()` at the start of the computation.
    """
    request = json.loads((path / "request.json").read_text())
    files = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and file.name not in {"request.json", MANIFEST, LOCK, DIGESTS} and file.suffix != ".tmp"
    )
    write_json(
        path / MANIFEST,
        {
            **request,
            "metrics": metrics,
            "files": digests(path, files),
            "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 3),
            "peak_memory_mib": peak_memory_mib(),
            "environment": environment(),
        },
    )
