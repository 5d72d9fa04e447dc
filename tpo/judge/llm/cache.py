"""A cache of language models' answers, one SQLite file, written as they arrive.

Several processes may use the file at once. SQLite's plain rollback journal is used rather than its write-ahead log,
which needs memory shared between all processes and so breaks on network file systems; there the plain journal is as
safe as the file system's locks are. The price is a few fsyncs an answer.
"""

import hashlib
import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import msgspec

from tpo.judge.llm.question import Answer, Question
from tpo.store.errors import TpoError
from tpo.store.files import row_digest

BUSY_TIMEOUT_S = 60.0  # how long to wait for another process's write
TABLE = "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, model TEXT, request TEXT, answer TEXT, digest TEXT)"


@dataclass(frozen=True)
class Asked:
    """A question and whom it is put to."""

    model: dict[str, Any]
    question: Question

    @cached_property
    def key(self) -> str:
        """All of the sha256 of the canonical JSON; `content_hash`'s 12 digits would collide among millions."""
        return hashlib.sha256(_canonical({"model": self.model, **asdict(self.question)}).encode()).hexdigest()


class AnswerCache:
    """Answers by key, with what was asked beside them for people to read."""

    def __init__(self, path: Path) -> None:
        """Store the path; the file is made when it is first needed."""
        self.path = path

    def find(self, asked: Asked) -> Answer | None:
        """Return the answer that is in the cache, if one is that holds all that was asked for.

        Raises:
            TpoError: If the file or the row cannot be read.
        """
        with self._translated() as database:
            return self._find(database, asked)

    def put(self, asked: Asked, answer: Answer) -> Answer:
        """Store a whole answer, durably once this returns, and return the stored one.

        Where another process has stored an answer first, that one is returned, so that all processes use the same. One
        that is not whole, which an earlier version may have kept, is replaced.

        Raises:
            TpoError: If the file cannot be written, or the answer not be read from it again; then it is not written.
        """
        try:
            text = msgspec.json.encode(answer).decode()
            if msgspec.json.decode(text, type=Answer) != answer:
                raise ValueError("it would be read as another")
        except (ValueError, TypeError, OverflowError, RecursionError) as error:  # msgspec's are ValueErrors
            raise TpoError(
                f"{self.path}: an answer of {asked.model.get('model')} has a form that cannot be kept ({error}). "
                "Nothing of it is written: see to the model, or its server, and run the same command again"
            ) from error
        row = (asked.key, _canonical(asked.model), _readable(asked.question), text, row_digest(asked.key, text))
        with self._translated() as database:
            database.execute("BEGIN IMMEDIATE")
            with database:  # commits, or after an error rolls back
                found = self._find(database, asked)
                if found is None:
                    database.execute("INSERT OR REPLACE INTO answers VALUES (?, ?, ?, ?, ?)", row)
            return answer if found is None else found

    def count(self, model: dict[str, Any]) -> int:
        """Return how many answers of a model are kept."""
        with self._translated() as database:
            query = "SELECT COUNT(*) FROM answers WHERE model = ?"
            return int(database.execute(query, (_canonical(model),)).fetchone()[0])

    def _find(self, database: sqlite3.Connection, asked: Asked) -> Answer | None:
        query = "SELECT model, request, answer, digest FROM answers WHERE key = ?"
        row = database.execute(query, (asked.key,)).fetchone()
        if row is None:
            return None
        try:
            if json.loads(row[0]) != asked.model or json.loads(row[1]) != _plain(asked.question):
                raise ValueError("it answers another question")
            if row[3] != row_digest(asked.key, row[2]):
                raise ValueError("its answer was edited")
            answer = msgspec.json.decode(row[2], type=Answer)
        except (ValueError, TypeError, RecursionError) as error:  # msgspec's are ValueErrors
            raise TpoError(
                f"{self.path}: the row with the key {asked.key} cannot be read ({error}): it was damaged, or written "
                f"by a newer version of this repository. Delete the row (DELETE FROM answers WHERE key = '{asked.key}'"
                "), or move the file away, and run the same command again; what is missing is asked anew"
            ) from error
        return answer if answer.is_whole(asked.question) else None

    @cached_property
    def _database(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        database = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S, isolation_level=None)  # each statement commits
        database.execute(TABLE)
        return database

    @contextmanager
    def _translated(self) -> Iterator[sqlite3.Connection]:
        try:
            yield self._database
        except sqlite3.Error as error:
            raise TpoError(
                f"{self.path}: answers of the judge cannot be read or kept ({error}). Is the disk full, or the file "
                "damaged or locked? Mend that, or move the file away, and run the same command again"
            ) from error


def _canonical(value: dict[str, Any]) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False)


def _readable(question: Question) -> str:
    return json.dumps(asdict(question), allow_nan=False, ensure_ascii=False)


def _plain(question: Question) -> dict[str, Any]:
    """Return a question as JSON gives it back."""
    return asdict(question) | {"watch": list(question.watch)}
