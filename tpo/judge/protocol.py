"""Judges: pointwise ones give each response a score, pairwise ones give two responses a verdict.

`Candidates` are the only input of a judge and have no field for a thought. So the judge sees responses only, as the
paper has it (section 2.2), by construction.
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
    """Responses to one instruction; two of them, in the order in which it sees them, for a judge that compares."""

    instruction: str
    responses: tuple[str, ...]


class Judgement(NamedTuple):
    """What a judge says of a response, or of the first of two; or the reason why it says nothing.

    Attributes:
        value: A score, higher is better; of two responses, how surely the first is better: 1 better, 0.5 tie, 0 worse.
            None where there is no judgement.
        unscored_reason: Why there is none; None where there is one.
        raw: What a language model wrote.
        num_tokens: Read and written.
        weight: How many games a comparison counts for.
    """

    value: float | None
    unscored_reason: str | None
    raw: str | None = None
    num_tokens: int = 0
    weight: float = 1.0


class PairwiseJudge(Protocol):
    """Compares responses two at a time."""

    def compare(self, pairs: Sequence[Candidates]) -> list[Judgement]:
        """Return one judgement per pair of responses, of its first one, in the order given."""
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
