"""Files written whole or not at all, digests of their content, and the operating system's error of a full disk.

A sealed file is a JSON object with the digest of itself, so that whoever reads it knows whether it was edited.
"""

import errno
import hashlib
import json
import logging
import os
import re
import secrets
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tpo.store.errors import ArtifactError, TpoError
from tpo.store.secrets import hidden
from tpo.store.text import printable

log = logging.getLogger(__name__)

DIGEST = "digest"  # the key of a sealed file's own digest
TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp$")  # how the names end that `replacing` gives


class SealError(ArtifactError):
    """A sealed file that is no JSON, or was edited."""


class UnsealedError(SealError):
    """A file without its own digest: of an earlier version of this code, or written by somebody else."""


def content_hash(value: Any) -> str:
    """Return 12 hex digits of the sha256 over canonical JSON.

    Raises:
        TypeError: If the value holds anything that is not a plain JSON type.
        ValueError: If it holds NaN or an infinity.
    """
    return json_digest(value)[:12]


def json_digest(value: Any) -> str:
    """Return the sha256 over canonical JSON in hex.

    Raises:
        TypeError: If the value holds anything that is not a plain JSON type.
        ValueError: If it holds NaN or an infinity.
    """
    _require_json(value)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def row_digest(key: str, value: str) -> str:
    """Return the sha256 in hex of a value and its key: one that was edited, or moved to another key, has another."""
    return hashlib.sha256(f"{key} {value}".encode()).hexdigest()


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


def write_sealed(path: Path, value: dict[str, Any]) -> None:
    """Write a JSON object with its own digest, as `write_json` does."""
    plain = json.loads(json.dumps(value, allow_nan=False, ensure_ascii=False))  # tuples are lists when they are read
    write_json(path, {**plain, DIGEST: json_digest(plain)})


def read_sealed(path: Path) -> dict[str, Any]:
    """Return what `write_sealed` wrote, without its digest.

    Raises:
        SealError: If the file is no JSON object, or not what was written.
        UnsealedError: If it has no digest.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SealError(f"{path} is damaged ({error})") from error
    if not isinstance(value, dict):
        raise SealError(f"{path} is damaged (it holds no JSON object)")
    return unsealed(path, value)


def unsealed(path: Path, value: dict[str, Any]) -> dict[str, Any]:
    """Return what a sealed file holds without its digest, which is compared with the rest.

    Raises:
        SealError: If they differ.
        UnsealedError: If there is none.
    """
    rest = {key: item for key, item in value.items() if key != DIGEST}
    if DIGEST not in value:
        raise UnsealedError(f"{path} has no digest of its own: an earlier version of this code wrote it")
    try:
        is_whole = json_digest(rest) == value[DIGEST]
    except (ValueError, RecursionError):  # NaN, or brackets without end, which `write_json` refuses to write
        is_whole = False
    if not is_whole:
        raise SealError(f"{path} was edited: its content has another digest than it names")
    return rest


def sync(paths: Iterable[Path]) -> None:
    """Have the disk hold the content of files, and the names in folders, before anything that vouches for them."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        except OSError as error:
            if error.errno != errno.EINVAL or not path.is_dir():  # some file systems do not sync folders
                raise
        finally:
            os.close(descriptor)


def open_to_others(folder: Path, names: Iterable[str]) -> None:
    """Give the named files of a folder what its own mode, and so the umask, allows others.

    Those of safetensors are readable to their owner alone, since they are written as temporary files.
    """
    allowed = folder.stat().st_mode & 0o666
    for path in (folder / name for name in names):
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode | allowed != mode:
            path.chmod(mode | allowed)


def sync_below(folder: Path, names: Iterable[str]) -> None:
    """Have the disk hold the named files of a folder, and every folder on the way to them, itself last."""
    files = [folder / name for name in names]
    parents = {parent for file in files for parent in file.parents if parent.is_relative_to(folder)}
    sync([*files, *sorted(parents - {folder}, reverse=True), folder])


def remove_temporary(folder: Path) -> None:
    """Delete what writers left below a folder that were killed; for whoever holds its lock."""
    for path in folder.rglob("*.tmp"):
        if TEMPORARY.search(path.name):
            path.unlink(missing_ok=True)


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
REFUSED = {
    *(errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENOTEMPTY, errno.ENAMETOOLONG, errno.ELOOP),  # the path
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO, errno.ENXIO, errno.ENODEV, errno.EBUSY),  # the disk
    *(errno.ESTALE, errno.EFBIG),
    *(errno.EMFILE, errno.ENFILE, errno.ENOLCK),  # limits
}
NETWORK = {
    *(errno.ECONNREFUSED, errno.ETIMEDOUT, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EHOSTDOWN),
    *(errno.ECONNRESET, errno.ECONNABORTED, errno.EADDRNOTAVAIL),
}
ADVICE = {
    **dict.fromkeys(FULL, "Free some space"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Allow more open files (`ulimit -n`)"),
    **dict.fromkeys((errno.ENAMETOOLONG, errno.ELOOP, errno.ENOTDIR, errno.EEXIST, errno.EISDIR), "Name another path"),
}
#: How libraries tell the number of such an error: in Rust, such as safetensors and tokenizers, and torch.
NUMBER = re.compile(r"\(os error (\d+)\)|because of errno (\d+)")
#: How torch tells such an error in words: "open file failed with strerror: Too many open files", or of a file that it
#: maps, "unable to open file <x> in read-only mode: Input/output error (5)"; lines on where it was raised may follow.
WORDS = {os.strerror(number): number for number in FULL | REFUSED}
IN_WORDS = re.compile(rf": ({'|'.join(map(re.escape, WORDS))})(?: \(\d+\))?\.?$", re.MULTILINE)
OF_FILE = re.compile(r"file <([^>]+)>")
#: How torch says that a file could not be written where the number is lost.
WRITE_FAILED = re.compile(r"PytorchStreamWriter failed|iostream error|unexpected pos \d+")


def os_error(error: OSError, path: Path | None = None) -> str:
    """Return a sentence about an error of the operating system: which path, what, and what to do.

    Libraries raise the same class where a connection fails, or on anything of their own: no disk is blamed for those.

    Args:
        error: The error.
        path: What was read or written, where the error does not say it.
    """
    return printable(hidden(_sentence(error, path)))


def _sentence(error: OSError, path: Path | None) -> str:
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    at = " and ".join(names) or str(path or "a file")
    if error.errno in FULL:
        return f"no space left on the disk that holds {at}. {ADVICE[error.errno]}"
    why = " ".join((error.strerror or str(error) or type(error).__name__).split())
    if _is_network(error):
        return f"{why.rstrip('.')}. See to the network"
    if error.errno is None and not names and path is None:
        return why
    advice = ADVICE.get(error.errno or 0, "See to the disk and the permissions")
    return f"{at} cannot be read or written ({why}). {advice}"


def _is_network(error: BaseException | None) -> bool:
    """Return whether an error tells of a connection, by its number or its class, or was raised from one that does."""
    while isinstance(error, Exception) and not isinstance(error, BrokenPipeError):
        names = {kind.__name__ for kind in type(error).__mro__}
        is_named = not names.isdisjoint({"ConnectionError", "TimeoutError", "Timeout", "gaierror"})
        if is_named or (isinstance(error, OSError) and error.errno in NETWORK):
            return True
        error = error.__cause__
    return False


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
        if found is None and not WRITE_FAILED.search(str(error)):
            raise
        log.info("where it was:", exc_info=True)
        if found is None:
            found = OSError(None, " ".join(str(error).split())[:200])
        kept = "all completed stages, and the rows of this one, are kept"
        raise ArtifactError(f"{os_error(found, path)}, and run the same command again: {kept}.") from error


def _of_system(error: BaseException | None) -> OSError | None:
    """Return the operating system's error that an error is, tells of, or was raised on account of."""
    while error is not None:
        found = error if isinstance(error, OSError) and error.errno is not None else _told(str(error))
        if found is not None and found.errno in FULL | REFUSED:
            return found
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def _told(message: str) -> OSError | None:
    """Return the operating system's error that another library's message tells of."""
    if numbered := NUMBER.search(message):
        number = int(numbered[numbered.lastindex or 0])
        return OSError(number, os.strerror(number))
    if found := IN_WORDS.search(message):
        file = OF_FILE.search(message)
        return OSError(WORDS[found[1]], found[1], file[1] if file else None)
    return None


@contextmanager
def writing_to(folder: Path) -> Iterator[None]:
    """Turn errors of a folder that a user named and that cannot be written, or of a full disk, into sentences."""
    with translate_disk_errors(folder):
        try:
            yield
        except OSError as error:
            place = Path(error.filename or folder)
            # /proc, for one, takes no folders.
            is_nowhere = error.errno == errno.ENOENT and folder.absolute().is_relative_to(place.absolute().parent)
            if error.errno in REFUSED or is_nowhere:
                raise ArtifactError(f"{place} cannot be written ({error.strerror}): name a folder that can") from error
            raise


def folder_digest(path: Path) -> str:
    """Return the sha256 over the names and digests of all files in a folder and below it."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    lines = [f"{file.relative_to(path).as_posix()} {file_digest(file)}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
