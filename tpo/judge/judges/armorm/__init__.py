"""ArmoRM, the paper's pointwise judge: reward heads for many objectives, mixed by a gate that reads the instruction."""

from dataclasses import dataclass
from pathlib import Path

from tpo.config.fields import setting
from tpo.judge.judges.reward_model import RewardModelJudge
from tpo.judge.protocol import Judge
from tpo.model.policy import Policy


@dataclass
class ArmoRMJudge(RewardModelJudge):
    """Settings of the judge; the network is in `network`, since that imports torch."""

    kind: str = setting("armorm")

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return the judge, its weights loaded."""
        from tpo.judge.judges.armorm.network import ArmoRM

        return ArmoRM(self)
