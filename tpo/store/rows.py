"""Rows that grow chunk by chunk, so that a killed stage loses at most one chunk."""

import json
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from tpo.store.records import Record, RecordError, read_records

log = logging.getLogger(__name__)
R = TypeVar("R", bound=Record)


def grow_rows(
    path: Path, kind: type[R], *, prompt_ids: Sequence[str], chunk_size: int, compute: Callable[[list[str]], list[R]]
) -> list[R]:
    """Compute the rows of all prompts chunk by chunk, continuing after the chunks that a killed process saved.

    Chunks are cut from the whole list. So which prompts are computed together, and with it the rounding of the results,
    does not depend on where an earlier attempt was killed.

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
                break  # damaged by a crash of the machine
        os.truncate(partial, good_bytes)
        log.info("continuing after %d of %d chunks", num_done, len(chunks))
    return rows, num_done
