"""The number of characters of a response: what any judge must beat."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tpo.config.fields import setting
from tpo.judge.protocol import Candidates, Judge, Judgement, PointwiseJudgeConfig
from tpo.model.policy import Policy


@dataclass
class LengthJudge(PointwiseJudgeConfig):
    """Scores a response by its number of characters; it has no settings, and is its own judge."""

    reads_tokens: ClassVar[bool] = False

    kind: str = setting("length")

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return itself."""
        return self

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield the lengths."""
        for item in candidates:
            yield [Judgement(float(len(response)), None) for response in item.responses]
