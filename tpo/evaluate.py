"""Stage "compare": the policy's responses against the baseline's on held-out instructions.

Both were judged pointwise; the higher score wins. Thoughts play no part: a `Score` is of a response alone.
"""

from collections.abc import Sequence
from typing import Any

from tpo.records import Comparison, Completion, Prompt, Score
from tpo.winrate import length_controlled_win_rate, win_rate, win_rate_by_category

VERSION = 1


def compare(
    prompts: Sequence[Prompt],
    policy: tuple[Sequence[Completion], Sequence[Score]],
    baseline: tuple[Sequence[Completion], Sequence[Score]],
) -> list[Comparison]:
    """Return one comparison per prompt, of the first sample of each side.

    A side without a score makes the comparison unscored, with the side and its reason.
    """
    sides = [_first_samples(*policy), _first_samples(*baseline)]
    rows = []
    for prompt in prompts:
        (ours, our_score), (theirs, their_score) = (side[prompt.prompt_id] for side in sides)
        win, reason = None, None
        if our_score.score is None:
            reason = f"policy: {our_score.unscored_reason}"
        elif their_score.score is None:
            reason = f"baseline: {their_score.unscored_reason}"
        else:
            win = 0.5 + 0.5 * (our_score.score > their_score.score) - 0.5 * (our_score.score < their_score.score)
        rows.append(
            Comparison(
                prompt_id=prompt.prompt_id,
                category=prompt.category,
                win=win,
                unscored_reason=reason,
                policy_score=our_score.score,
                baseline_score=their_score.score,
                policy_tokens=ours.num_response_tokens,
                baseline_tokens=theirs.num_response_tokens,
            )
        )
    return rows


def _first_samples(completions: Sequence[Completion], scores: Sequence[Score]) -> dict[str, tuple[Completion, Score]]:
    by_id = {score.prompt_id: score for score in scores if score.sample_index == 0}
    return {row.prompt_id: (row, by_id[row.prompt_id]) for row in completions if row.sample_index == 0}


def summarize(comparisons: Sequence[Comparison], *, confidence: float, seed: int) -> dict[str, Any]:
    """Return win rates over all prompts, controlled for length, and per category."""
    return {
        "win_rate": win_rate(comparisons, confidence=confidence).to_dict(),
        "win_rate_length_controlled": length_controlled_win_rate(
            comparisons, seed=seed, confidence=confidence
        ).to_dict(),
        "categories": {
            name: rate.to_dict() for name, rate in win_rate_by_category(comparisons, confidence=confidence).items()
        },
    }
