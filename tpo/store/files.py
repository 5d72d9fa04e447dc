"""Files written whole or not at all, digests of their content, and the operating system's error of a full disk."""

import errno
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tpo.store.errors import ArtifactError


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


def write_json(path: Path, value: Any) -> None:
    """Write JSON so that a reader sees all of it or nothing, also after a crash of the machine."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        json.dump(value, file, indent=2, allow_nan=False, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, and rename it to `path` when the context ends.

    The temporary name is unique, so that two processes which write the same file do not write into each other's. After
    an error `path` is unchanged.
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


FULL = {errno.ENOSPC, errno.EDQUOT}
REFUSED = {
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),  # the path
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENXIO, errno.ESTALE, errno.EFBIG),  # the disk
    *(errno.EMFILE, errno.ENFILE, errno.ENOLCK),  # limits
}
ADVICE = {
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Allow more open files (`ulimit -n`)"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "Name another path"),
}
#: How torch and safetensors say that a file could not be written; theirs are no errors of the operating system.
WRITE_FAILED = ("PytorchStreamWriter failed", "No space left on device", "Read-only file system", "Input/output error")


def os_error(error: OSError, path: Path | None = None) -> str:
    """Return a sentence about an error of the operating system: which path, what, and what to do.

    Args:
        error: The error.
        path: What was read or written, where the error does not say it.
    """
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    at = " and ".join(names) or str(path or "a file")
    why = error.strerror or str(error) or type(error).__name__
    advice = ADVICE.get(error.errno or 0, "See to the disk and the permissions")
    return f"{at} cannot be read or written ({why}). {advice}"


@contextmanager
def translate_disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of a disk that is full, failing, read-only or closed to the user into one that says what to do."""
    try:
        yield
    except ArtifactError:
        raise
    except Exception as error:
        if isinstance(error, OSError):
            is_full, is_refused = error.errno in FULL, error.errno in REFUSED
            said = os_error(error, path)
        else:
            text = str(error) if type(error).__name__ in ("RuntimeError", "SafetensorError") else ""
            is_full, is_refused = "No space left" in text, any(words in text for words in WRITE_FAILED)
            said = f"{path} cannot be written ({' '.join(text.split())[:200]}). See to the disk and the permissions"
        kept = "run the same command again: all completed stages, and the rows of this one, are kept."
        if is_full:
            raise ArtifactError(f"no space left on the disk that holds {path}. Free some space and {kept}") from error
        if is_refused:
            raise ArtifactError(f"{said}, and {kept}") from error
        raise


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn errors of a folder that a user named and that cannot be written, or of a full disk, into sentences."""
    with translate_disk_errors(folder):
        try:
            yield
        except OSError as error:
            if error.errno in REFUSED:
                place = error.filename or folder
                raise ArtifactError(f"{place} cannot be written ({error.strerror}): name a folder that can") from error
            raise


def folder_digest(path: Path) -> str:
    """Return the sha256 over the names and digests of all files in a folder and below it."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {file_digest(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
