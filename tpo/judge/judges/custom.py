"""A judge of the user's own: a class with `score`, or with `compare` (`tpo.judge.protocol`)."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tpo.config.custom import Custom
from tpo.config.fields import setting
from tpo.judge.protocol import Judge, PairwiseJudge, PairwiseJudgeConfig, PointwiseJudgeConfig
from tpo.model.policy import Policy


@dataclass
class CustomJudge(Custom, PointwiseJudgeConfig):
    """A class that scores each response by itself; one whose constructor takes `policy` gets the seed model."""

    needs: ClassVar[tuple[str, ...]] = ("score",)
    offers: ClassVar[tuple[str, ...]] = ("policy",)

    kind: str = setting("custom")

    @property
    def uses_seed_model(self) -> bool:
        """Whether its constructor takes the seed model."""
        return "policy" in self.wants

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return an instance of the class."""
        judge: Judge = self.create(policy=policy)
        return judge


@dataclass
class CustomPairwiseJudge(Custom, PairwiseJudgeConfig):
    """A class that compares two responses at a time; one whose constructor takes `policy` gets the seed model."""

    needs: ClassVar[tuple[str, ...]] = ("compare",)
    offers: ClassVar[tuple[str, ...]] = ("policy",)

    kind: str = setting("custom")

    @property
    def uses_seed_model(self) -> bool:
        """Whether its constructor takes the seed model."""
        return "policy" in self.wants

    def make(self, *, policy: Policy | None, answers_path: Path) -> PairwiseJudge:
        """Return an instance of the class."""
        judge: PairwiseJudge = self.create(policy=policy)
        return judge
