"""Files written whole or not at all, digests of their content, and the operating system's error of a full disk."""

import errno
import hashlib
import json
import logging
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tpo.store.errors import ArtifactError, TpoError

log = logging.getLogger(__name__)


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


#: Errors of the operating system that lie in the disk, its permissions or the limits of a process, not in this code.
FULL = {errno.ENOSPC, errno.EDQUOT}
TOO_MANY = {errno.EMFILE, errno.ENFILE}
REFUSED = {errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ESTALE}
REFUSED |= {errno.EBUSY, errno.EFBIG, errno.ELOOP, errno.ENAMETOOLONG, errno.ENODEV, errno.ENOTEMPTY, errno.ENXIO}
#: How libraries tell the number of such an error: in Rust, such as safetensors and tokenizers, and torch.
NUMBER = re.compile(r"\(os error (\d+)\)|because of errno (\d+)")
#: How torch says that a file could not be written where the number is lost.
WRITE_FAILED = re.compile(r"PytorchStreamWriter failed|iostream error|unexpected pos \d+")


@contextmanager
def translate_disk_errors(path: Path) -> Iterator[None]:
    """Turn errors of a disk that is full, failing, read-only or closed to the user into one that says what to do.

    So too where a library raised another error on account of one. Errors of this package stay as they are.
    """
    try:
        yield
    except TpoError:
        raise
    except Exception as error:
        found = _of_system(error)
        kept = "run the same command again: all completed stages, and the rows of this one, are kept."
        if found is None and not WRITE_FAILED.search(str(error)):
            raise
        log.info("where it was:", exc_info=True)
        if found is None:
            said = f"{path} cannot be written ({' '.join(str(error).split())[:200]})"
            raise ArtifactError(f"{said}. See to the disk and the permissions, and {kept}") from error
        place = found.filename or path
        if found.errno in FULL:
            raise ArtifactError(f"no space left on the disk that holds {path}. Free some space and {kept}") from error
        said = f"{place} cannot be read or written ({found.strerror})"
        if found.errno in TOO_MANY:
            raise ArtifactError(f"{said}. Allow more open files (ulimit -n), and {kept}") from error
        raise ArtifactError(f"{said}. See to the disk and the permissions, and {kept}") from error


def _of_system(error: BaseException | None) -> OSError | None:
    """Return the operating system's error that an error is, tells of, or was raised on account of."""
    while error is not None:
        told = NUMBER.search(str(error))
        number = error.errno if isinstance(error, OSError) else int(told[told.lastindex or 0]) if told else None
        if number is not None and number in FULL | TOO_MANY | REFUSED:
            return error if isinstance(error, OSError) else OSError(number, os.strerror(number))
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


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
