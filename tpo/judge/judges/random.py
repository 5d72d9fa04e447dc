"""A number that depends on nothing but instruction and response: what chance gives."""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tpo.config.fields import setting
from tpo.judge.protocol import Candidates, Judge, Judgement, PointwiseJudgeConfig
from tpo.model.policy import Policy


@dataclass
class RandomJudge(PointwiseJudgeConfig):
    """Scores a response by a hash of instruction and response: the same each time, and unrelated to either."""

    reads_tokens: ClassVar[bool] = False

    kind: str = setting("random")

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return itself."""
        return self

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield numbers in [0, 1)."""
        for item in candidates:
            yield [Judgement(_hash(item.instruction, response), None) for response in item.responses]


def _hash(instruction: str, response: str) -> float:
    digest = hashlib.sha256(json.dumps([instruction, response]).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
