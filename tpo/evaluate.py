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
    *,
    no_response: str,
) -> list[Comparison]:
    """Return one comparison per prompt, of the first sample of each side.

    A response that the judge could not score makes the comparison unscored, with the side and its reason.

    Args:
        prompts: The held-out instructions.
        policy: Completions and scores.
        baseline: Likewise.
        no_response: What becomes of a side whose completion holds no response: "loss", since its user got
            nothing (a tie where both hold none), or "unscored".
    """
    sides = [_first_samples(*policy), _first_samples(*baseline)]
    rows = []
    for prompt in prompts:
        (ours, our_score), (theirs, their_score) = (side[prompt.prompt_id] for side in sides)
        win, reason = None, None
        if no_response == "loss" and (ours.response is None or theirs.response is None):
            win = _win(ours.response is not None, theirs.response is not None)
        elif our_score.score is None:
            reason = f"policy: {our_score.unscored_reason}"
        elif their_score.score is None:
            reason = f"baseline: {their_score.unscored_reason}"
        else:
            win = _win(our_score.score, their_score.score)
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


def _win(ours: float, theirs: float) -> float:
    return 0.5 + 0.5 * (ours > theirs) - 0.5 * (ours < theirs)


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
