"""A weighted sum of other judges' scores, each normalized within an instruction (`tpo.judge.score.combine`)."""

from dataclasses import dataclass
from typing import Any, ClassVar

from tpo.config.fields import ConfigError, setting
from tpo.config.groups import JudgeConfig


@dataclass
class EnsembleJudge(JudgeConfig):
    """Members are judges of any kind, each with a weight by the same name."""

    is_comparative: ClassVar[bool] = True

    kind: str = setting("ensemble")
    members: dict[str, Any] = setting({}, of=JudgeConfig)
    weights: dict[str, float] = setting({}, above=0)

    def check(self, at: str) -> None:
        """Check that each member has a weight."""
        if not self.members or self.members.keys() != self.weights.keys():
            raise ConfigError(
                f"{at}.weights has {sorted(self.weights)}, {at}.members has {sorted(self.members)}: give each member "
                "a weight"
            )
