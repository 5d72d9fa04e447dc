"""Rules: which of an instruction's completions become chosen and rejected; the rules are in `tpo.pairs.rules`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tpo.config.groups import PairsConfig
from tpo.store.records import Completion

TIED = 1e-9  # standard deviations: what rounding makes of no difference


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
            candidates: Two or more, in the order of their sample indices, whose scores and values differ. Among equals
                a rule takes those of `closest_in_length`.
        """
        raise NotImplementedError


def closest_in_length(
    candidates: Sequence[Candidate], *, chosen: NDArray[np.bool_], rejected: NDArray[np.bool_]
) -> Choice:
    """Return the two whose lengths differ least: one of those that may be chosen, one of those that may be rejected.

    A judge of few values, such as one that counts checks, leaves many equals at both ends, and the paper does not say
    which to take. Close in length, a pair says as little of length as the judge allows. Of equal gaps, the first.

    Args:
        candidates: Of one instruction.
        chosen: (candidates,), true where the rule would choose; one at least.
        rejected: (candidates,), true where it would reject; one at least.
    """
    lengths = np.array([candidate.length for candidate in candidates])
    gaps = np.abs(lengths[:, None] - lengths)
    best, worst = np.unravel_index(np.where(chosen[:, None] & rejected, gaps, np.inf).argmin(), gaps.shape)
    return Choice(int(best), int(worst))


def equal(values: NDArray[np.float64], value: float) -> NDArray[np.bool_]:
    """Return where `values`, in standard deviations, are `value`, but for rounding; of the shape of `values`."""
    return np.abs(values - value) <= TIED
