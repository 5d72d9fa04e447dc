"""Write-once artifacts: the request decides the name, the manifest is written last.

An artifact is a directory `<root>/<stage>-<hash>` with `request.json` (written before the work), the stage's files, and
`manifest.json` (written last, by rename). A directory without a manifest does not exist for a reader; a step that finds
such a directory continues from the rows in it. The hash covers the stage, its version, its settings, its seed and the
ids of its inputs. So two runs with the same request share the artifact, and a setting that does not change the result
must not be in the request's config. Processes with the same request at the same time compute it once, on several
machines too where their shared file system passes locks on (`tpo.store.locks`).
"""

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tpo.store.environment import environment, peak_memory_mib
from tpo.store.errors import ArtifactError
from tpo.store.files import file_digest, translate_disk_errors, write_json
from tpo.store.locks import hold
from tpo.store.records import Record, read_records
from tpo.store.stage import Budget, RunsOn, Stage, Step

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOCK = ".lock"

R = TypeVar("R", bound=Record)


@dataclass(frozen=True)
class Artifact:
    """A completed step on disk."""

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

    def rows(self, kind: type[R], name: str = "rows.jsonl") -> Iterator[R]:
        """Yield the artifact's rows as records, one in memory at a time."""
        return read_records(self.path / name, kind)


class Store:
    """The directory of all artifacts, and the one way to get one: `store.request(STAGE, ...)`.

    Attributes:
        root: The directory.
        asked: The distinct artifacts that this store was asked for, in order.
    """

    def __init__(self, root: Path, *, execute: Callable[[Path], None], run: str | None = None) -> None:
        """Open the store at `root`.

        Args:
            root: The directory; made when it is needed.
            execute: Computes the step whose request lies in the given directory, and writes the manifest.
            run: Name of the run that requests, written to the manifests of what is computed for it.
        """
        self.root = root
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
            ArtifactError: If the artifact on disk is damaged or the computation failed.
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
            ArtifactError: If the artifact on disk is damaged or the computation failed.
            LockError: If the file system has no locks.
        """
        path = self.root / step.artifact_id
        if not (path / MANIFEST).exists():
            with translate_disk_errors(path):
                path.mkdir(parents=True, exist_ok=True)
                # Child processes that compute the step inherit the lock: while one of them outlives this process, no
                # other process can start to write the same rows.
                with hold(path / LOCK, purpose=step.artifact_id, is_inheritable=True):
                    if not (path / MANIFEST).exists():
                        log.info("%s: computing", step.artifact_id)
                        for leftover in path.glob("*.tmp"):  # of an attempt that was killed
                            leftover.unlink()
                        write_json(path / "request.json", {**step.to_request(), "run": self._run})
                        self._execute(path)
                        return open_artifact(path, is_reused=False)
        log.info("%s: reused", step.artifact_id)
        return open_artifact(path)


def open_artifact(path: Path, *, is_reused: bool = True) -> Artifact:
    """Return the completed artifact in the directory `path` after checking its files against the manifest.

    Raises:
        ArtifactError: If it is incomplete, or a file is missing or was changed.
    """
    manifest = read_manifest(path)
    for name, digest in manifest["files"].items():
        if not (path / name).exists() or file_digest(path / name) != digest:
            raise ArtifactError(
                f"{path / name} is missing or differs from {MANIFEST}: artifacts are never edited. "
                f"Delete {path} to compute it again."
            )
    return Artifact(artifact_id=path.name, path=path, manifest=manifest, is_reused=is_reused)


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

    Args:
        path: The artifact's directory with `request.json` and the stage's files.
        metrics: Counts and measurements of the stage, plain JSON types.
        started: `time.time()` at the start of the computation.
    """
    request = json.loads((path / "request.json").read_text())
    files = sorted(
        file.relative_to(path).as_posix()
        for file in path.rglob("*")
        if file.is_file() and file.name not in {"request.json", MANIFEST, LOCK} and file.suffix != ".tmp"
    )
    write_json(
        path / MANIFEST,
        {
            **request,
            "metrics": metrics,
            "files": {name: file_digest(path / name) for name in files},
            "started": datetime.fromtimestamp(started, UTC).isoformat(timespec="seconds"),
            "seconds": round(time.time() - started, 3),
            "peak_memory_mib": peak_memory_mib(),
            "environment": environment(),
        },
    )
