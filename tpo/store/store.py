"""The directory of all artifacts: a step is requested, and computed where it is not there, or is stale.

An artifact that was computed from another content than its input has now, which was deleted and computed anew with
other rounding, is stale: a step that asks for it moves it to `<root>/stale/`, where nobody reads it, and computes it
from what is there. The same holds for rows that a killed process had saved. What was computed anew with the same
content makes nothing stale.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tpo.store.artifacts import Artifact, OutdatedError, open_artifact, open_inputs, read_manifest, remove_partial
from tpo.store.errors import ArtifactError
from tpo.store.files import json_digest, translate_disk_errors, write_json
from tpo.store.layout import CHECKPOINTS, LOCK, MANIFEST, PARTIAL, REQUEST, STALE, find_request, move_content
from tpo.store.locks import hold
from tpo.store.progress import PROGRESS, Listener, watching
from tpo.store.stage import Budget, RunsOn, Stage, Step

log = logging.getLogger(__name__)


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
                remove_partial(path)
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
