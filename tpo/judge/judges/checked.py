"""The share of an instruction's checks that a response passes: a judge that cannot be wrong about what it judges.

Responses below the floor, such as empty or repetitive ones, pass nothing (`tpo.checks`). It says nothing of
instructions without checks, and knows nothing of what else makes a response good: in an ensemble, beside a model's
score with a small weight, the other breaks its ties.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tpo.checks import share_passed, without_floors
from tpo.config.fields import setting
from tpo.judge.protocol import Candidates, Judge, Judgement, PointwiseJudgeConfig
from tpo.model.policy import Policy


@dataclass
class CheckedJudge(PointwiseJudgeConfig):
    """Scores a response by a program; it has no settings, and is its own judge."""

    reads_tokens: ClassVar[bool] = False

    kind: str = setting("checked")

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return itself."""
        return self

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield the shares, in [0, 1]."""
        for item in candidates:
            if without_floors(item.checks):
                yield [Judgement(share_passed(response, item.checks), None) for response in item.responses]
            else:
                yield [Judgement(None, "no_checks") for _ in item.responses]
