"""Best against two standard deviations below the mean (arXiv 2502.16825).

"Finding the Sweet Spot" samples up to hundreds of responses an instruction and finds that the worst of them makes a
poor rejected one: it is an outlier, and the more are sampled, the more so. The response whose score is nearest to
mean - 2 standard deviations does better, and does not get worse with more samples.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tpo.config.fields import setting
from tpo.pairs.rule import Candidate, Choice, PairsRule, closest_in_length, equal


@dataclass
class MeanMinus2SdPairs(PairsRule):
    """The highest score against the one nearest to mean - 2 standard deviations of the instruction's scores.

    Ours, where the paper leaves it open or has nothing of it: scores are the length-controlled ones, which with a
    length penalty of 0 order and space the responses as the judge's do; the standard deviation is the population's;
    and the rejected one is below the best, where an outlier pulls the mean so far down that the best responses, all
    equal, are the nearest ones. No response of K is more than sqrt(K - 1) standard deviations from the mean, so up to
    five samples make this rule `best_worst`.
    """

    kind: str = setting("mean_minus_2sd")

    def choose(self, candidates: Sequence[Candidate]) -> Choice | str:
        """Return the best and, of those below it, the one nearest to two standard deviations below the mean.

        Among equals, the two closest in length.
        """
        values = np.array([candidate.value for candidate in candidates])
        best = equal(values, values.max())
        distances = np.where(best, np.inf, np.abs(values - (values.mean() - 2 * values.std())))
        return closest_in_length(candidates, chosen=best, rejected=equal(distances, distances.min()))
