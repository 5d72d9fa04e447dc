"""Files that a run has left, damaged one at a time: what depends on them is computed again, or a sentence names them.

Each `Damaged` is a folder with the undisturbed run's artifacts, of which those that read the file are gone, and with a
damage in that file. So the next run has to read it.
"""

import json
import os
import re
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

from fault_harness import Armed, Harness, what_is_wrong_with
from fault_points import KILL

Change = Callable[[bytes], bytes | None]  # None: the file is removed


def _flip(content: bytes) -> bytes:
    place = len(content) // 2
    return content[:place] + bytes([content[place] ^ 4]) + content[place + 1 :]


#: What happens to files: on disks, in transfers, and by hand.
DAMAGES: dict[str, Change] = {
    "cut off": lambda content: content[: len(content) // 2],
    "emptied": lambda content: b"",
    "zeroed": lambda content: bytes(len(content)),
    "a bit flipped": _flip,
    "without its last byte": lambda content: content[:-1],
    "a line twice": lambda content: content[: content.find(b"\n") + 1] + content,
    "a line more": lambda content: content + b"and so on\n",
    "removed": lambda content: None,
}


class Damaged(NamedTuple):
    """A file and what is done to it."""

    kind: str  # "artifacts", "checkpoints", "answers", "runs"
    path: str  # relative to the run's folder
    damage: str


def _link(source: Path, target: Path) -> None:
    shutil.copytree(source, target, copy_function=os.link, dirs_exist_ok=True)


def _inputs(path: Path) -> list[str]:
    """The names of the artifacts that an artifact was computed from."""
    found: list[str] = []

    def walk(value: object) -> None:
        if isinstance(value, str):
            found.append(value)
        elif isinstance(value, dict | list):
            for item in value.values() if isinstance(value, dict) else value:
                walk(item)

    walk(json.loads((path / "manifest.json").read_text())["inputs"])
    return found


class Corpus:
    """The undisturbed run's files, and copies of it in which one is damaged."""

    def __init__(self, harness: Harness) -> None:
        self.harness, self.whole = harness, harness.out / "undisturbed"
        self.artifacts = {path.parent.name: path.parent for path in self.whole.glob("artifacts/*/manifest.json")}
        self._half_trained: Path | None = None

    def cases(self) -> Iterator[Damaged]:
        """Yield every file with every damage."""
        for path in sorted(path for path in self.whole.rglob("*") if path.is_file()):
            name = path.relative_to(self.whole).as_posix()
            if name.startswith("model/") or path.name == ".lock" or name.startswith("runs/hydra/"):
                continue
            kind = "answers" if "answers.sqlite" in name else name.partition("/")[0]
            yield from (Damaged(kind, name, damage) for damage in DAMAGES)
            for other in self.artifacts.values():  # of another artifact of the same kind
                twin = other / Path(name).name
                is_of_kind = other.name.split("-")[0] == path.parent.name.split("-")[0]
                if path.parent in self.artifacts.values() and is_of_kind and twin.is_file() and twin != path:
                    yield Damaged(kind, name, f"swapped with {twin.relative_to(self.whole).as_posix()}")
                    break
        for row in ROWS:
            yield Damaged("answers", "artifacts/answers.sqlite", f"a row's {row}")
        for path in sorted(path for path in self.half_trained.glob("artifacts/train-*/checkpoints/checkpoint-1/**/*")):
            if path.is_file():
                name = path.relative_to(self.half_trained).as_posix()
                yield from (Damaged("checkpoints", name, damage) for damage in DAMAGES)

    @property
    def half_trained(self) -> Path:
        """A run that was killed when its first epoch was saved and its second was to be."""
        if self._half_trained is None:
            names = [point for point in self.harness.points if re.search("^mkdir .*checkpoint-2$", point.name)]
            self._half_trained = self.harness.new("half-trained")
            ended = self.harness.run(self._half_trained, Armed(*names[0], KILL))
            assert ended.is_killed, ended
        return self._half_trained

    def make(self, case: Damaged) -> Path:
        """Return a new folder with the damage."""
        root = self.harness.new("damaged")
        if case.kind == "checkpoints":
            _link(self.half_trained, root)
        else:
            _link(self.whole, root)
            owner = Path(case.path).parts[1] if case.kind in ("artifacts", "answers") else None
            for name, path in self.artifacts.items():
                is_reader = owner in _inputs(path) or (owner not in self.artifacts and _is_reader(case, name))
                if owner is not None and name != owner and is_reader:
                    shutil.rmtree(root / "artifacts" / name)
            if owner is not None:
                shutil.rmtree(root / "runs")
        self._damage(root / case.path, case.damage)
        return root

    def _damage(self, path: Path, damage: str) -> None:
        if damage.startswith("a row's "):
            copy = path.read_bytes()  # the file is a hard link
            path.unlink()
            path.write_bytes(copy)
            with closing(sqlite3.connect(path)) as database:
                database.execute(ROWS[damage.removeprefix("a row's ")])
                database.commit()
            return
        if damage.startswith("swapped with "):
            content = (self.whole / damage.removeprefix("swapped with ")).read_bytes()
        else:
            content = DAMAGES[damage](path.read_bytes())
        path.unlink()
        if content is not None:
            path.write_bytes(content)

    def attempt(self, case: Damaged) -> tuple[str, list[str]]:
        """Run on a damaged folder; return what became of the damage, and what is wrong.

        The run ends well, with the undisturbed run's result: it has computed again what the damage concerns ("computed
        again"), or nothing that it needed was in the file ("not needed"). Or it ends with a sentence that names the
        file or its folder, and after that is deleted the same command ends well.
        """
        root = self.make(case)
        before = (root / case.path).read_bytes() if (root / case.path).exists() else None
        ended = self.harness.run(root)
        if ended.code == 0:
            after = (root / case.path).read_bytes() if (root / case.path).exists() else None
            outcome = "not needed" if before == after and case.kind != "checkpoints" else "computed again"
            wrong = [f"it ended well, but {words}" for words in self.harness.differences(root)]
            if outcome == "not needed":  # nor is it taken for the result
                wrong = [words for words in wrong if "lost: " not in words]
            return outcome, wrong
        wrong = what_is_wrong_with(ended)
        *_, last = ended.stderr.strip().splitlines() or [""]
        place = Path(*Path(case.path).parts[:2])
        if str(place) not in last:
            wrong.append(f"{place} is not named: {last[:400]}")
        shutil.rmtree(root / place) if (root / place).is_dir() else (root / place).unlink(missing_ok=True)
        return "a sentence", wrong + self.harness.repeat(root)


def _is_reader(case: Damaged, name: str) -> bool:
    """Whether an artifact reads a file that belongs to none: the judge's answers, or the reference's cache."""
    stages = ("judge", "compare") if case.kind == "answers" else ("train",)
    return name.startswith(stages)


_FIRST = "WHERE key = (SELECT min(key) FROM answers)"
#: Statements that damage a row of the answers, or write it as a later version might.
ROWS = {
    "answer is no JSON": f"UPDATE answers SET answer = 'Score' {_FIRST}",
    "answer is null": f"UPDATE answers SET answer = NULL {_FIRST}",
    "answer is a list": f"UPDATE answers SET answer = '[]' {_FIRST}",
    "answer lacks its text": f"UPDATE answers SET answer = json_remove(answer, '$.text') {_FIRST}",
    "answer has a field more": f"UPDATE answers SET answer = json_set(answer, '$.later', 1) {_FIRST}",
    "text is a number": f"UPDATE answers SET answer = json_set(answer, '$.text', 3) {_FIRST}",
    "text is another": f"UPDATE answers SET answer = json_set(answer, '$.text', 'Score: [[6]]') {_FIRST}",
    "watched tokens are words": f"UPDATE answers SET answer = json_set(answer, '$.watched', 'none') {_FIRST}",
    "logprob is null": f"UPDATE answers SET answer = json_set(answer, '$.watched[0][1].\"3\"', null) {_FIRST}",
    "logprob is a million": f"UPDATE answers SET answer = json_set(answer, '$.watched[0][1].\"3\"', 1e6) {_FIRST}",
    "model is another": f"UPDATE answers SET model = '{{}}' {_FIRST}",
    "key is another": f"UPDATE answers SET key = 'x' {_FIRST}",
    "columns are others": "ALTER TABLE answers RENAME COLUMN answer TO said",
}
