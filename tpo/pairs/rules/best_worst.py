"""Best against worst, the paper's rule (section 2.3 of "Thinking LLMs", arXiv 2410.10630)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tpo.config.fields import setting
from tpo.pairs.rule import Candidate, Choice, PairsRule, closest_in_length, equal


@dataclass
class BestWorstPairs(PairsRule):
    """The highest against the lowest length-controlled score."""

    kind: str = setting("best_worst")

    def choose(self, candidates: Sequence[Candidate]) -> Choice | str:
        """Return the best and the worst; among equals, the two closest in length."""
        values = np.array([candidate.value for candidate in candidates])
        return closest_in_length(candidates, chosen=equal(values, values.max()), rejected=equal(values, values.min()))
