"""Rows of the files in which people keep instructions: .jsonl, .json, .csv, .parquet, each also gzipped (.gz).

Texts are UTF-8, with or without a byte-order mark. What is wrong is said in one sentence that names file and row.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from tpo.sample.prompts import PromptError
from tpo.store.records import RecordError, read_json_lines

ENDINGS = (".jsonl", ".json", ".csv", ".parquet")
LONGEST_CELL = 2**27  # characters; Python's csv stops at 2**17


class Row(NamedTuple):
    """A row of a file, and where it stands, for messages."""

    where: str
    values: dict[str, Any]


def read_table(path: Path) -> Iterator[Row]:
    """Yield the rows of a file, which its ending says how to read.

    A .json file holds a list of objects, or is JSON lines under another name. A .csv file has a line of names first.

    Raises:
        PromptError: Naming the file and the row, if there is none, its ending is another, or it is damaged.
    """
    if not path.is_file():
        raise PromptError(f"prompts.path: there is no file {path}")
    ending = Path(path.name.removesuffix(".gz")).suffix
    readers = {".jsonl": _json_lines, ".json": _json, ".csv": _csv, ".parquet": _parquet}
    if ending not in readers:
        raise PromptError(f"{path}: files that end in {', '.join(ENDINGS)} can be read, each also with .gz behind it")
    with _sentences(path):
        yield from readers[ending](path)


@contextmanager
def _sentences(path: Path) -> Iterator[None]:
    """Turn what readers raise on a damaged file into a sentence."""
    try:
        yield
    except RecordError as error:
        raise PromptError(str(error)) from error
    except UnicodeDecodeError as error:
        raise PromptError(f"{path}: not UTF-8 ({error})") from error
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise PromptError(f"{path}: the gzipped file is damaged ({error})") from error


def _open(path: Path) -> io.TextIOBase:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")  # type: ignore[return-value]
    return path.open(encoding="utf-8-sig", newline="")


def _json_lines(path: Path) -> Iterator[Row]:
    for number, values in read_json_lines(path):
        yield Row(f"{path}, line {number}", values)


def _json(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        text = file.read()
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        if not error.msg.startswith("Extra data"):
            raise PromptError(f"{path}, line {error.lineno}: not JSON ({error.msg})") from error
        yield from _json_lines(path)
        return
    except (ValueError, RecursionError) as error:
        raise PromptError(f"{path}: not JSON that can be read ({error})") from error
    if isinstance(found, dict):  # one line of JSON lines, or all rows below a key
        lists = [name for name, value in found.items() if isinstance(value, list)]
        hint = f"; {', '.join(lists)} in it may be that list" if lists else ""
        raise PromptError(f"{path}: expected a list of objects, got one object{hint}")
    if not isinstance(found, list):
        raise PromptError(f"{path}: expected a list of objects, got {type(found).__name__}")
    for number, values in enumerate(found, start=1):
        if not isinstance(values, dict):
            raise PromptError(f"{path}, row {number}: expected an object, got {type(values).__name__}")
        yield Row(f"{path}, row {number}", values)


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(LONGEST_CELL)
    with _open(path) as file:
        reader = csv.reader(file, strict=True)
        number = 0
        try:
            names = next(reader, None)
            if not names:
                raise PromptError(f"{path}: expected a first line with the names of the columns")
            if repeated := sorted({name for name in names if names.count(name) > 1}):
                raise PromptError(f"{path}: several columns are called {repeated[0]!r}")
            for number, cells in enumerate(reader, start=1):
                if not cells:  # a blank line
                    continue
                if len(cells) != len(names):
                    raise PromptError(f"{path}, row {number}: {len(cells)} cells under {len(names)} names of columns")
                yield Row(f"{path}, row {number}", dict(zip(names, cells, strict=True)))
        except csv.Error as error:
            raise PromptError(f"{path}, row {number + 1}: not CSV ({error})") from error


def _parquet(path: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    source: Any = path
    if path.suffix == ".gz":
        with gzip.open(path, "rb") as file:
            source = pa.BufferReader(file.read())
    number = 0
    try:
        for batch in pq.ParquetFile(source).iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                number += 1
                yield Row(f"{path}, row {number}", values)
    except Exception as error:  # also what Python's own types do not hold, in columns that nobody asks for
        raise PromptError(f"{path}, after row {number}: not parquet ({' '.join(str(error).split())[:200]})") from error
