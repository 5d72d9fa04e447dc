"""Whether what artifacts share is what it says: the reference's log-probabilities, and the answers of language models.

Both are caches: what is wrong there is computed, or asked, again.
"""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from tpo.store.files import SealError, read_sealed, row_digest
from tpo.store.layout import REFERENCE

ANSWERS = "answers.sqlite"
TRAIN = "train-"  # begins the id of what the reference's log-probabilities are computed for


class Wrong(NamedTuple):
    """Something that is not what it says.

    Attributes:
        path: Where.
        what: Is wrong.
        todo: About it.
    """

    path: Path
    what: str
    todo: str


def verify_references(root: Path, inputs: Mapping[str, dict[str, str]] | None = None) -> Iterator[Wrong]:
    """Yield what is wrong with the reference's log-probabilities that trainings share.

    Args:
        root: Directory of artifacts.
        inputs: Those of each artifact, where only what these trainings used is verified: files of their inputs, and any
            that no longer says of which.
    """
    trained = [ids for name, ids in (inputs or {}).items() if name.startswith(TRAIN)]
    for path in sorted((root / REFERENCE).glob("*.json")) if inputs is None or trained else ():
        said = None
        try:
            reference = read_sealed(path)
            if reference.get("key") != path.stem:
                said = "is the file of another reference"
        except SealError as error:
            reference, said = _read_object(path), str(error)
        of = reference.get("inputs")
        if said is not None and (inputs is None or not isinstance(of, dict) or of in trained):
            yield Wrong(path, said, "delete it: the next training computes it again")


def _read_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in a file, an empty one where there is none."""
    with suppress(ValueError, RecursionError):
        value = json.loads(path.read_text(encoding="utf-8"))
        return value if isinstance(value, dict) else {}
    return {}


def verify_answers(root: Path) -> Iterator[Wrong]:
    """Yield what is wrong with the answers of language models, which all judges with the same questions share."""
    answers = root / ANSWERS
    if answers.exists():
        try:
            with closing(sqlite3.connect(f"file:{answers}?mode=ro", uri=True)) as database:
                [[said], *_] = database.execute("PRAGMA quick_check").fetchall()
                rows = database.execute("SELECT key, answer, digest FROM answers")
                edited = [key for key, answer, digest in rows if row_digest(key, answer) != digest]
        except sqlite3.Error as error:
            said, edited = str(error), []
        if said != "ok":
            yield Wrong(answers, f"is damaged ({said})", "move it away: what is missing is asked again")
        for key in edited:
            if re.fullmatch("[0-9a-f]{64}", str(key)):
                todo = f"delete the row (DELETE FROM answers WHERE key = '{key}'): it is asked again"
            else:  # nothing that a statement is to hold
                todo = "delete the row, whose key is no digest: nobody asks for it"
            yield Wrong(answers, f"has an edited answer in the row {key}", todo)
