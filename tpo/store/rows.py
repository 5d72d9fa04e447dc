"""Rows that grow one by one in any order, so that a killed stage loses only what it was computing.

Each row is appended to `rows.partial.jsonl` as it comes, behind a checksum, and handed to the operating system before
the next one, so a kill of the process loses none of them, and a line that was edited or torn since is computed again.
At the end the rows are copied to `rows.jsonl` in the order of the keys, byte for byte. The partial file goes when the
manifest vouches for that one (`tpo.store.artifacts.finish`). Memory holds where in the file each row lies, never the
rows.
"""

import hashlib
import logging
import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic

from tpo.store.files import replacing
from tpo.store.layout import PARTIAL
from tpo.store.progress import Progress
from tpo.store.records import K, Key, R, RecordError, row_format

log = logging.getLogger(__name__)

SYNC_SECONDS = 1.0  # a crash of the machine, which a kill of the process is not, loses at most the rows of this time
MISSING = -1
CHECK = 16  # hex digits before each saved row, and a space


def grow_rows(
    path: Path,
    kind: type[R],
    *,
    keys: Sequence[K],
    compute: Callable[[Sequence[K]], Iterable[R]],
    unit: str,
    count_tokens: Callable[[R], int] | None = None,
) -> None:
    """Write the rows of all keys to `rows.jsonl`, computing those that a killed process before this one did not save.

    Reports rows and tokens as they come (`tpo.store.progress`).

    Args:
        path: The artifact's directory; `rows.partial.jsonl` in it grows, and `rows.jsonl` is made of it at the end,
            again where one is there: without a manifest nothing vouches for it.
        kind: The record.
        keys: `row.key` of all rows, in the order that the file is to have.
        compute: Yields the rows of the keys that it is given, which are those that are missing, in order; each once,
            in any order. Not called where none is missing.
        unit: What a row is called where progress is shown.
        count_tokens: Tokens of a row, for the tokens a second that are shown.

    Raises:
        ValueError: If a key repeats, or `compute` yields a row that is not missing or leaves one out.
    """
    saved = _SavedRows(path / PARTIAL, kind, keys)
    missing = saved.missing()
    if missing:
        num_saved = len(keys) - len(missing)
        with Progress(path, total=len(keys), unit=unit, done=num_saved) as progress:
            saved.append(_reported(compute(missing), progress, count_tokens))
    saved.copy_in_order(path / "rows.jsonl")


class _SavedRows(Generic[R, K]):
    """The partial file, and where in it the row of each key lies."""

    def __init__(self, path: Path, kind: type[R], keys: Sequence[K]) -> None:
        """Find the rows that an earlier process saved, and cut off what comes after them."""
        self._path, self._format, self._keys = path, row_format(kind), keys
        self._positions: dict[Key, int] = {key: position for position, key in enumerate(keys)}
        if len(self._positions) < len(keys):
            raise ValueError(f"{len(keys) - len(self._positions)} of the {len(keys)} keys repeat another one")
        self._offsets = array("q", [MISSING]) * len(keys)  # by position
        if path.exists():
            self._recover()

    def missing(self) -> list[K]:
        """Return the keys without a row, in order."""
        return [key for key, offset in zip(self._keys, self._offsets, strict=True) if offset == MISSING]

    def append(self, rows: Iterable[R]) -> None:
        """Write rows as they come.

        Raises:
            ValueError: If a row is not one of the missing, or one of these does not come.
        """
        with self._path.open("ab") as file:
            offset, synced = file.tell(), time.monotonic()
            for row in rows:
                position = self._positions.get(row.key, MISSING)
                if position == MISSING or self._offsets[position] != MISSING:
                    raise ValueError(
                        f"row {row.key} came {'twice' if position != MISSING else 'but was not asked for'}"
                    )
                line = self._format.encode(row)
                line = _checksum(line) + line
                file.write(line)
                file.flush()
                self._offsets[position] = offset
                offset += len(line)
                if time.monotonic() - synced > SYNC_SECONDS:
                    os.fsync(file.fileno())
                    synced = time.monotonic()
            os.fsync(file.fileno())
        if missing := self.missing():
            raise ValueError(
                f"{len(missing)} of the {len(self._keys)} rows did not come, the first of them {missing[0]}"
            )

    def copy_in_order(self, target: Path) -> None:
        """Write all rows to `target` in the order of the keys."""
        with replacing(target) as temporary, temporary.open("wb") as ordered:
            if self._keys:
                with self._path.open("rb") as file:
                    for offset in self._offsets:
                        file.seek(offset + CHECK + 1)
                        ordered.write(file.readline())
            ordered.flush()
            os.fsync(ordered.fileno())

    def _recover(self) -> None:
        """Find the rows up to the first line that is not a missing row, and cut the file there.

        Such a line was being written when the process died, was damaged when the machine crashed, or was edited.
        """
        stop = 0
        with self._path.open("rb") as file:
            for line in file:
                row = line[CHECK + 1 :]
                if line[: CHECK + 1] != _checksum(row):
                    break
                try:
                    position = self._positions.get(self._format.decode(row).key, MISSING)
                except RecordError:
                    break
                if position == MISSING or self._offsets[position] != MISSING or not line.endswith(b"\n"):
                    break
                self._offsets[position] = stop
                stop += len(line)
        os.truncate(self._path, stop)
        log.info("continuing after %d of %d rows", len(self._keys) - self._offsets.count(MISSING), len(self._keys))


def _checksum(row: bytes) -> bytes:
    """Return what stands before a saved row."""
    return hashlib.blake2b(row, digest_size=CHECK // 2).hexdigest().encode() + b" "


def _reported(rows: Iterable[R], progress: Progress, count_tokens: Callable[[R], int] | None) -> Iterator[R]:
    """Yield the rows and count each when the next one is asked for: it is saved then."""
    for row in rows:
        yield row
        progress.advance(num_tokens=0 if count_tokens is None else count_tokens(row))
