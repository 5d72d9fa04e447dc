"""Write-once artifacts: what was asked decides the name, the manifest comes last.

An artifact is a directory `<root>/<stage>-<hash>` with `request.json` (written before the work), the
stage's files, and `manifest.json` (written last, by rename). A directory without a manifest does not
exist for a reader; a stage that finds one continues from the rows it left. The hash covers the stage, its
version, its settings, its seed and the ids of its inputs, so that two runs which ask for the same thing
share it, and nothing that does not change the result may be among the settings. Two that ask for it at the same time
compute it once, on several machines as far as their shared file system keeps locks (`tpo.store.locks`).
"""

import errno
import hashlib
import json
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from tpo.store.environment import environment, peak_memory_mib
from tpo.store.errors import TpoError
from tpo.store.locks import hold
from tpo.store.records import Record, RecordError, read_records

log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
LOCK = ".lock"

R = TypeVar("R", bound=Record)


class ArtifactError(TpoError):
    """An artifact that cannot be made, or one that is not what its manifest says."""


@dataclass(frozen=True)
class Step:
    """A requested computation; its id is a hash of everything below but `how`.

    Attributes:
        stage: Which computation, for example "sample".
        version: Of the stage's code: raised when the same settings would give another result.
        config: The stage's settings, plain JSON types only.
        inputs: Role to artifact id.
        seed: The run's seed, or 0 for stages without randomness.
        how: What the computation needs to know and its result does not depend on, such as a server's
            address; not part of the id.
    """

    stage: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    how: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as a plain dictionary, without `how`."""
        return {
            "stage": self.stage,
            "version": self.version,
            "config": self.config,
            "inputs": self.inputs,
            "seed": self.seed,
        }

    @property
    def artifact_id(self) -> str:
        """`<stage>-<first 12 hex digits of the sha256 of the canonical JSON>`."""
        return f"{self.stage}-{content_hash(self.to_dict())}"


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

    def rows(self, kind: type[R], name: str = "rows.jsonl") -> list[R]:
        """Return the artifact's rows as records."""
        return read_records(self.path / name, kind)


def content_hash(value: Any) -> str:
    """Return 12 hex digits of the sha256 over canonical JSON.

    Raises:
        TypeError: If the value holds anything that is not a plain JSON type.
        ValueError: If it holds NaN or an infinity.
    """
    _require_json(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _require_json(value: Any) -> None:
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError(f"keys must be text: {list(value)}")
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            _require_json(item)
    elif isinstance(value, tuple):
        raise TypeError(f"a tuple is not a JSON type: {value}")


class Store:
    """The directory of all artifacts, and the one way to get one: `store.run(step)`."""

    def __init__(self, root: Path, *, execute: Callable[[Path], None], run: str | None = None) -> None:
        """Open the store at `root`.

        Args:
            root: The directory; made when it is needed.
            execute: Computes the step whose request lies in the given directory, and writes the manifest.
            run: Name of the run that asks, which the manifest of what is computed for it keeps.
        """
        self.root = root
        self._execute = execute
        self._run = run

    def run(self, step: Step) -> Artifact:
        """Return the step's artifact, computing it if it is not there yet.

        A second process that asks for the same step waits for the first and says so; when the first is killed it goes
        on at once from the rows that the first had saved.

        Raises:
            ArtifactError: If the artifact on disk is damaged or the computation failed.
            LockError: If the file system has no locks.
        """
        path = self.root / step.artifact_id
        if not (path / MANIFEST).exists():
            with translate_disk_errors(path):
                path.mkdir(parents=True, exist_ok=True)
                # What `tpo.store.processes.launch` starts inherits the lock: if this process is killed and the stage lives on, nobody
                # else starts to write the same rows.
                with hold(path / LOCK, purpose=step.artifact_id, is_inheritable=True):
                    if not (path / MANIFEST).exists():
                        log.info("%s: computing", step.artifact_id)
                        for leftover in path.glob("*.tmp"):  # of an attempt that was killed
                            leftover.unlink()
                        write_json(path / "request.json", {**step.to_dict(), "how": step.how, "run": self._run})
                        self._execute(path)
                        return self.open(step.artifact_id, is_reused=False)
        log.info("%s: reused", step.artifact_id)
        return self.open(step.artifact_id, is_reused=True)

    def request(
        self,
        stage: str,
        version: int,
        config: dict[str, Any],
        inputs: Mapping[str, Artifact] | None = None,
        *,
        seed: int = 0,
        how: dict[str, Any] | None = None,
    ) -> Artifact:
        """Return the artifact of the step with these parts (see `Step`); `inputs` are artifacts by role."""
        ids = {role: artifact.artifact_id for role, artifact in (inputs or {}).items()}
        return self.run(Step(stage, version, config, ids, seed, how or {}))

    def open(self, artifact_id: str, *, is_reused: bool = True) -> Artifact:
        """Return a completed artifact after checking its files against the manifest.

        Raises:
            ArtifactError: If it is incomplete, or a file is missing or was changed.
        """
        return open_artifact(self.root / artifact_id, is_reused=is_reused)


def open_artifact(path: Path, *, is_reused: bool = True) -> Artifact:
    """Return the completed artifact in the directory `path` (see `Store.open`)."""
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


def read_how(path: Path) -> dict[str, Any]:
    """Return `Step.how` of the step that is being computed in the directory `path`."""
    how: dict[str, Any] = json.loads((path / "request.json").read_text())["how"]
    return how


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


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees all of it or nothing, also after a crash of the machine."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, allow_nan=False, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside `path`; what is written under it takes the place of `path` when the context ends, at once.

    The name is this call's alone, so that two processes which write the same file do not write into each other's. After
    an error `path` is as it was.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def file_digest(path: Path) -> str:
    """Return the sha256 of a file's bytes in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def grow_rows(
    path: Path, kind: type[R], *, prompt_ids: Sequence[str], chunk_size: int, compute: Callable[[list[str]], list[R]]
) -> list[R]:
    """Compute the rows of all prompts chunk by chunk, continuing what a killed process left.

    Chunks are cut from the whole list, so that which prompts are computed together, and with it every
    last bit of the result, does not depend on where an earlier attempt stopped.

    Args:
        path: The artifact's directory; `rows.partial.jsonl` in it becomes `rows.jsonl` at the end.
        kind: The record; it has a `prompt_id`.
        prompt_ids: All prompts in order.
        chunk_size: Prompts per chunk; at most this many are lost to a kill.
        compute: Rows of the given prompts, at least one for each.

    Returns:
        All rows, in the order of the prompts.
    """
    partial, final = path / "rows.partial.jsonl", path / "rows.jsonl"
    if final.exists():  # killed between the rename below and the manifest
        partial.unlink(missing_ok=True)
        return read_records(final, kind)
    chunks = [list(prompt_ids[start : start + chunk_size]) for start in range(0, len(prompt_ids), chunk_size)]
    rows, num_done = _recover(partial, kind, chunks)
    with partial.open("a", encoding="utf-8") as file:
        for chunk in chunks[num_done:]:
            new = compute(chunk)
            rows.extend(new)
            lines = [json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False) for row in new]
            file.write("".join(line + "\n" for line in [*lines, json.dumps({"chunk_done": len(new)})]))
            file.flush()
            os.fsync(file.fileno())
    with final.with_suffix(".tmp").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row.to_dict(), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    final.with_suffix(".tmp").replace(final)
    partial.unlink()
    return rows


def _recover(partial: Path, kind: type[R], chunks: list[list[str]]) -> tuple[list[R], int]:
    """Return the rows of the chunks that were written whole, and cut the file after the last of them."""
    rows: list[R] = []
    pending: list[R] = []
    num_done, good_bytes, position = 0, 0, 0
    if partial.exists():
        for line in partial.read_bytes().splitlines(keepends=True):
            position += len(line)
            if not line.endswith(b"\n"):
                break  # the line that was being written when the process died
            try:
                row = json.loads(line)
                if "chunk_done" in row:
                    rows.extend(pending)
                    pending, num_done, good_bytes = [], num_done + 1, position
                else:
                    pending.append(kind.from_dict(row))
            except (ValueError, RecordError):
                break  # what a crash of the machine left
        os.truncate(partial, good_bytes)
        log.info("continuing after %d of %d chunks", num_done, len(chunks))
    return rows, num_done


@contextmanager
def translate_disk_errors(path: Path) -> Iterator[None]:
    """Turn the operating system's error of a full disk into one that says what to do."""
    try:
        yield
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise ArtifactError(
                f"no space left on the disk that holds {path}. Free some space and run the same command again: "
                "all completed stages, and the rows of this one, are kept."
            ) from error
        raise
