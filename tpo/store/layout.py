"""What lies where in a directory of artifacts: the names in an artifact's folder, and those beside the artifacts."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from tpo.store.digests import DIGESTS
from tpo.store.files import DIGEST, SealError, read_sealed

MANIFEST, REQUEST = "manifest.json", "request.json"
#: What the manifest holds besides all that the request does.
RESULT = {"artifact_id", "metrics", "files", "started", "seconds", "peak_memory_mib", "environment", DIGEST}
LOCK = ".lock"
REFERENCE = "reference"  # beside the artifacts: log-probabilities that trainings share (`tpo.train.reference`)
STALE = "stale"  # beside the artifacts: what was computed from inputs that are others by now
# Of an artifact that is being computed, what the next attempt goes on from: rows as they came, epochs as they ended.
PARTIAL, CHECKPOINTS = "rows.partial.jsonl", "checkpoints"
NOT_RUNS = {"hydra", "wandb", "figures"}  # in a directory of runs' folders, or in one of these
PRUNED = "pruned.json"  # which files of a complete artifact were deleted on purpose (`tpo.store.gc`)


def is_artifact(path: Path) -> bool:
    """Return whether a directory is one that a step was, or is being, computed in."""
    return path.is_dir() and ((path / REQUEST).exists() or (path / MANIFEST).exists())


def find_request(path: Path) -> dict[str, Any]:
    """Return what was asked for where something was computed, whole or in part; empty where nothing was.

    The manifest says it where there is one that nobody edited, else `request.json`, which has no digest of its own.
    """
    for name, read in ((MANIFEST, read_sealed), (REQUEST, _read_json), (MANIFEST, _read_json)):
        with suppress(OSError, SealError, ValueError, RecursionError):
            request = read(path / name)
            inputs = request.get("inputs", {}) if isinstance(request, dict) else None
            if isinstance(inputs, dict) and all(isinstance(each, str) for each in inputs.values()):
                return requested(request)
    return {}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def requested(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return what of a manifest `request.json` holds too."""
    return {key: value for key, value in manifest.items() if key not in RESULT}


def folders_below(place: Path) -> Iterator[Path]:
    """Yield a directory of runs' folders, or one such folder, and all folders below it but those of other tools."""

    def fail(error: OSError) -> None:  # a folder that cannot be read may refer to anything
        raise error

    seen = set()
    for name, below, _ in os.walk(place, onerror=fail, followlinks=True):
        if (real := os.path.realpath(name)) in seen:  # a link to a folder above it
            below.clear()
            continue
        seen.add(real)
        below[:] = sorted(set(below) - NOT_RUNS)
        yield Path(name)


def is_content(name: Path) -> bool:
    """Return whether a manifest lists a file of this name, relative to the artifact's directory."""
    not_content = {REQUEST, MANIFEST, LOCK, DIGESTS, PARTIAL, PRUNED}
    return name.name not in not_content and name.suffix != ".tmp" and name.parts[0] != CHECKPOINTS


def pruned(path: Path) -> set[str]:
    """Return which files of a complete artifact were deleted on purpose."""
    try:
        return set(read_sealed(path / PRUNED)["files"])
    except (FileNotFoundError, SealError):
        return set()


def move_content(path: Path, target: Path) -> None:
    """Move what an artifact's folder holds to another one, but for the lock, which is held.

    The request goes last, so that after a kill the rest follows what was moved before.
    """
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(path.iterdir(), key=lambda entry: (entry.name == REQUEST, entry.name != MANIFEST)):
        if entry.name == LOCK:
            continue
        if (target / entry.name).is_dir():  # of the same request, moved there once before
            shutil.rmtree(target / entry.name)
        entry.replace(target / entry.name)
