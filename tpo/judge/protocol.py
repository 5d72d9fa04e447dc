"""Judges: pointwise ones give each response a score, pairwise ones give two responses a verdict.

`Candidates` and `Match` are the only inputs of a judge and have no field for a thought. So the judge sees responses
only, as the paper has it (section 2.2), by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from tpo.config.fields import setting
from tpo.config.groups import JudgeConfig
from tpo.model.policy import Policy


@dataclass(frozen=True)
class Candidates:
    """Responses to one instruction."""

    instruction: str
    responses: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """Two responses to one instruction, in the order in which the judge sees them."""

    instruction: str
    first: str
    second: str


class Judgement(NamedTuple):
    """A score, or the reason why there is none; exactly one of the two is None."""

    score: float | None
    unscored_reason: str | None
    raw: str | None = None  # what a language model wrote
    num_tokens: int = 0  # read and written


class Decision(NamedTuple):
    """The outcome of a match for its first response, or the reason why there is none; exactly one is None."""

    outcome: float | None  # 1 better, 0.5 tie, 0 worse; or between, how surely it is better
    unscored_reason: str | None
    raw: str | None = None  # what the judge wrote
    weight: float = 1.0  # how many games the verdict counts for
    num_tokens: int = 0  # read and written


class PairwiseJudge(Protocol):
    """Compares responses two at a time."""

    def compare(self, matches: Sequence[Match]) -> list[Decision]:
        """Return one decision per match, in the order given."""
        ...


class Judge(Protocol):
    """Scores responses pointwise; higher is better."""

    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return one judgement per response, in the order given."""
        ...


@dataclass
class PointwiseJudgeConfig(JudgeConfig):
    """Settings of a judge that scores each response by itself; each kind has a file in `tpo/judge/judges`."""

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return the judge.

        Args:
            policy: The frozen seed model, where `uses_seed_model`.
            answers_path: File in which answers of language models are cached.

        Raises:
            TpoError: If it cannot judge here, for example because weights are missing.
        """
        raise NotImplementedError


@dataclass
class PairwiseJudgeConfig(JudgeConfig):
    """Settings of a judge that compares two responses at a time; `tpo.judge.rating` makes scores of its verdicts."""

    gives_verdicts: ClassVar[bool] = True
    is_comparative: ClassVar[bool] = True

    orders: str = setting("both", choices=("both", "random"))

    def make(self, *, policy: Policy | None, answers_path: Path) -> PairwiseJudge:
        """Return the judge; arguments and errors as for `PointwiseJudgeConfig.make`."""
        raise NotImplementedError
