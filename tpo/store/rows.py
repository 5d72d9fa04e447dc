"""Rows that grow one by one in any order, so that a killed stage loses only what it was computing.

Each row is appended to `rows.partial.jsonl` as it comes and handed to the operating system before the next one, so a
kill of the process loses none of them. At the end the lines are copied to `rows.jsonl` in the order of the keys, byte
for byte. Memory holds where in the file each row lies, never the rows.
"""

import logging
import os
import time
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Generic

from tpo.store.files import replacing
from tpo.store.progress import Progress
from tpo.store.records import K, Key, R, RecordError, row_format

log = logging.getLogger(__name__)

SYNC_SECONDS = 1.0  # a crash of the machine, which a kill of the process is not, loses at most the rows of this time
MISSING = -1


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
        path: The artifact's directory; `rows.partial.jsonl` in it grows, and `rows.jsonl` takes its place at the end.
        kind: The record.
        keys: `row.key` of all rows, in the order that the file is to have.
        compute: Yields the rows of the keys that it is given, which are those that are missing, in order; each once,
            in any order. Not called where none is missing.
        unit: What a row is called where progress is shown.
        count_tokens: Tokens of a row, for the tokens a second that are shown.

    Raises:
        ValueError: If a key repeats, or `compute` yields a row that is not missing or leaves one out.
    """
    partial, final = path / "rows.partial.jsonl", path / "rows.jsonl"
    if not final.exists():  # otherwise an earlier process was killed between the rename and the manifest
        saved = _SavedRows(partial, kind, keys)
        missing = saved.missing()
        if missing:
            num_saved = len(keys) - len(missing)
            with Progress(path, total=len(keys), unit=unit, done=num_saved) as progress:
                saved.append(_reported(compute(missing), progress, count_tokens))
        saved.copy_in_order(final)
    partial.unlink(missing_ok=True)


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
                        file.seek(offset)
                        ordered.write(file.readline())
            ordered.flush()
            os.fsync(ordered.fileno())

    def _recover(self) -> None:
        """Find the rows up to the first line that is not a missing row, and cut the file there.

        Such a line was being written when the process died, or was damaged when the machine crashed.
        """
        stop = 0
        with self._path.open("rb") as file:
            for line in file:
                try:
                    position = self._positions.get(self._format.decode(line).key, MISSING)
                except RecordError:
                    break
                if position == MISSING or self._offsets[position] != MISSING or not line.endswith(b"\n"):
                    break
                self._offsets[position] = stop
                stop += len(line)
        os.truncate(self._path, stop)
        log.info("continuing after %d of %d rows", len(self._keys) - self._offsets.count(MISSING), len(self._keys))


def _reported(rows: Iterable[R], progress: Progress, count_tokens: Callable[[R], int] | None) -> Iterator[R]:
    """Yield the rows and count each when the next one is asked for: it is saved then."""
    for row in rows:
        yield row
        progress.advance(num_tokens=0 if count_tokens is None else count_tokens(row))
