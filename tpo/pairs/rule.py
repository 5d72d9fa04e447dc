"""Rules: which of an instruction's completions become chosen and rejected; the rules are in `tpo.pairs.rules`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from tpo.config.groups import PairsConfig
from tpo.store.records import Completion


class Candidate(NamedTuple):
    """A scored completion that may become chosen or rejected.

    Attributes:
        completion: Thought and response.
        score: The judge's, in its own unit, higher is better.
        length: Of the response, in the configured unit.
        value: The length-controlled score (`tpo.pairs.length`), in standard deviations of the candidates.
    """

    completion: Completion
    score: float
    length: float
    value: float


class Choice(NamedTuple):
    """Positions among the candidates."""

    chosen: int
    rejected: int


@dataclass
class PairsRule(PairsConfig):
    """Settings of a rule, and the rule; each kind has a file in `tpo/pairs/rules`."""

    def choose(self, candidates: Sequence[Candidate]) -> Choice | str:
        """Return the pair of one instruction, or a reason why it has none, which is counted under its name.

        Args:
            candidates: Two or more, in the order of their sample indices, whose scores differ; among equals a rule
                takes the first.
        """
        raise NotImplementedError
