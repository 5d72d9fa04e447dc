"""The best checkpoint of an iteration by judge score on validation instructions, as in the paper (section 3.1)."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tpo.store.records import Completion, Key, Score


class Selection(NamedTuple):
    """The chosen epoch and what decided it.

    Attributes:
        epoch: The chosen one.
        mean_scores: Epoch to its mean judge score, in which a missing response counts as the lowest score that any
            epoch got; the chosen epoch has the highest. Empty if nothing was scored.
        num_responses: Epoch to how many of its completions hold a response.
        num_completions: Of each epoch.
    """

    epoch: int
    mean_scores: dict[int, float]
    num_responses: dict[int, int]
    num_completions: int


def best_epoch(scores: Mapping[int, Iterable[Score]], answers: Mapping[int, Iterable[Completion]]) -> Selection:
    """Return the epoch with the highest mean score, in which a missing response ranks lowest.

    Of equal means the one with more responses, then the earlier. A missing response takes the lowest score that a
    response of any epoch got, so that an epoch cannot win by leaving hard instructions without a response. A response
    that the judge left unscored says nothing of the epoch: its key (prompt, sample) is left out at every epoch. Where
    no key is left, or no response was scored, the last epoch is selected.

    Args:
        scores: Epoch to the scores of its validation completions.
        answers: Epoch to the completions.
    """
    values: dict[int, dict[Key, float | None]] = {}  # None: there is no response
    num_responses: dict[int, int] = {}
    unscored: set[Key] = set()
    for epoch in sorted(scores):
        has_response = {row.key: row.response is not None for row in answers[epoch]}
        values[epoch] = {row.key: row.score for row in scores[epoch]}
        num_responses[epoch] = sum(has_response.values())
        unscored |= {key for key, score in values[epoch].items() if score is None and has_response[key]}
    keys = sorted(set.intersection(*(set(found) for found in values.values())) - unscored)
    known = [score for found in values.values() for key in keys if (score := found[key]) is not None]
    num_completions = max(len(found) for found in values.values())
    if not known:
        return Selection(max(scores), {}, num_responses, num_completions)
    lowest = min(known)
    means = {}
    for epoch, found in values.items():
        means[epoch] = sum(lowest if (score := found[key]) is None else score for key in keys) / len(keys)
    best = max(means, key=lambda epoch: (means[epoch], num_responses[epoch], -epoch))
    return Selection(best, means, num_responses, num_completions)


def only_epoch(epoch: int) -> Selection:
    """Return the selection of an epoch that was compared with no other."""
    return Selection(epoch, {}, {}, 0)
