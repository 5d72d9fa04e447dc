"""Judges: pointwise ones give each response a score, pairwise ones give two responses a verdict.

`Candidates` are the only input of a judge and have no field for a thought. So the judge sees responses only, as the
paper has it (section 2.2), by construction. Both kinds read a stream of them and yield a stream in the same order:
nobody holds all responses, and rows are written as they are judged.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol, TypeVar

from tpo.config.fields import setting
from tpo.config.groups import JudgeConfig
from tpo.model.policy import Policy
from tpo.store.records import Check
from tpo.store.stage import RunsOn

BLOCK = 16  # instructions whose responses a judge with a model of its own computes together

T = TypeVar("T")


@dataclass(frozen=True)
class Candidates:
    """Responses to one instruction; two of them, in the order in which it sees them, for a judge that compares.

    `checks` are the instruction's, for a judge that is a program.
    """

    instruction: str
    responses: tuple[str, ...]
    checks: tuple[Check, ...] = ()


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

    def compare(self, pairs: Iterable[Candidates]) -> Iterator[Judgement]:
        """Yield one judgement per pair of responses, of its first one, in the order given; take pairs as needed."""
        ...


class Judge(Protocol):
    """Scores responses pointwise; higher is better."""

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield for each instruction one judgement per response, in the order given; take instructions as needed."""
        ...


def blocks(items: Iterable[T]) -> Iterator[list[T]]:
    """Yield `BLOCK` items at a time, and the rest at the end.

    A block is what is batched, and nothing is batched across blocks: a batch's shape decides how its sums round. Where
    a stream is entered only at the start of a block, scores depend neither on where an earlier attempt was killed nor
    on which process computes which block.
    """
    left = iter(items)
    while block := list(islice(left, BLOCK)):
        yield block


@dataclass
class PointwiseJudgeConfig(JudgeConfig):
    """Settings of a judge that scores each response by itself; each kind has a file in `tpo/judge/judges`."""

    #: Whether it has a model in plain torch and computes block by block, which several processes can share.
    computes_blocks: ClassVar[bool] = False

    @property
    def runs_on(self) -> RunsOn:
        """A model of its own is asked by several steps, those of a training's epochs for example."""
        return RunsOn.KEPT if self.computes_blocks else super().runs_on

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
