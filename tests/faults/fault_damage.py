"""Files that a run has left, damaged one at a time: what depends on them is computed again, or a sentence names them.

Each `Damaged` is a folder with the undisturbed run's artifacts, of which those that read the file are gone, and with a
damage in that file. So the next run has to read it.
"""

import json
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
            yield Damaged("answers", "artifacts/answers.sqlite", row)
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
        """Return a new folder with the damage, without the artifacts that were computed from the file."""
        root = self.harness.new("damaged")
        source = self.half_trained if case.kind == "checkpoints" else self.whole
        for name in ("artifacts", "runs"):
            shutil.copytree(source / name, root / name)
        if case.kind in ("artifacts", "answers"):
            shutil.rmtree(root / "runs")
            for name in self._readers(case):
                shutil.rmtree(root / "artifacts" / name)
        path = root / case.path
        if case.damage in ROWS:
            with closing(sqlite3.connect(path)) as database:
                database.execute(ROWS[case.damage])
                database.commit()
        elif case.damage.startswith("swapped with "):
            path.write_bytes((self.whole / case.damage.removeprefix("swapped with ")).read_bytes())
        else:
            content = DAMAGES[case.damage](path.read_bytes())
            path.unlink()
            if content is not None:
                path.write_bytes(content)
        return root

    def _readers(self, case: Damaged) -> list[str]:
        """The artifacts that are computed from a file: from its artifact, from the answers or from the reference."""
        owner = Path(case.path).parts[1]
        if owner in self.artifacts:
            return [name for name, path in self.artifacts.items() if owner in _inputs(path)]
        stages = ("judge-", "compare-") if case.kind == "answers" else ("train-",)
        return [name for name in self.artifacts if name.startswith(stages)]

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
            # A damaged row that nobody asks for may stay in the table of answers.
            spared = "lost: " if outcome == "not needed" else "answers differ" if case.kind == "answers" else None
            return outcome, [words for words in wrong if spared is None or spared not in words]
        wrong = what_is_wrong_with(ended)
        *_, last = ended.stderr.strip().splitlines() or [""]
        place = Path(*Path(case.path).parts[:2])
        if str(place) not in last:
            wrong.append(f"{place} is not named: {last[:400]}")
        shutil.rmtree(root / place) if (root / place).is_dir() else (root / place).unlink(missing_ok=True)
        wrong += self.harness.repeat(root)
        if case.kind == "answers":  # those that artifacts needed before the sentence are not asked for again
            wrong = [words for words in wrong if "answers differ" not in words]
        return "a sentence", wrong


def _row(change: str) -> str:
    return f"UPDATE answers SET {change} WHERE key = (SELECT min(key) FROM answers)"


def _field(place: str, value: str) -> str:
    return _row(f"answer = json_set(answer, '$.{place}', {value})")


#: Statements that damage a row of the answers, or write it as a later version might.
ROWS = {
    "a row's answer is no JSON": _row("answer = 'Score'"),
    "a row's answer is null": _row("answer = NULL"),
    "a row's answer is a list": _row("answer = '[]'"),
    "a row's answer lacks its text": _row("answer = json_remove(answer, '$.text')"),
    "a row's answer has a field more": _field("later", "1"),
    "a row's text is a number": _field("text", "3"),
    "a row's text is another": _field("text", "'Score: [[6]]'"),
    "a row's watched tokens are words": _field("watched", "'none'"),
    "a row's logprob is null": _field('watched[0][1]."3"', "null"),
    "a row's logprob is a million": _field('watched[0][1]."3"', "1e6"),
    "a row's model is another": _row("model = '{}'"),
    "a row's key is another": _row("key = 'x'"),
    "a row's columns are others": "ALTER TABLE answers RENAME COLUMN answer TO said",
}
