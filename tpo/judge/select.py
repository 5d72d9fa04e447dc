"""The best checkpoint of an iteration by judge score on validation instructions, as in the paper (section 3.1)."""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tpo.store.records import Score


class Selection(NamedTuple):
    """The chosen epoch and what decided it."""

    epoch: int
    mean_scores: dict[int, float]  # epoch -> mean judge score over the shared responses; empty if there is none
    num_scores: int  # responses scored at every epoch


def best_epoch(scores: Mapping[int, Iterable[Score]]) -> Selection:
    """Return the epoch with the highest mean score; equal means go to the earlier epoch.

    Means are over the (prompt, sample) keys scored at *every* epoch, so that an epoch cannot win by leaving hard
    instructions without a response. Where there is no such key, the last epoch is selected.

    Args:
        scores: Epoch to the scores of its validation responses.
    """
    values = {
        epoch: {(row.prompt_id, row.sample_index): row.score for row in rows if row.score is not None}
        for epoch, rows in scores.items()
    }
    shared = sorted(set.intersection(*(set(found) for found in values.values())))
    if not shared:
        return Selection(max(scores), {}, 0)
    means = {epoch: sum(found[key] for key in shared) / len(shared) for epoch, found in sorted(values.items())}
    best = max(means, key=lambda epoch: (means[epoch], -epoch))
    return Selection(best, means, len(shared))
