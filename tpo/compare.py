"""Stage "compare": the policy's responses against the baseline's on held-out instructions.

The higher score wins, whether a judge scored each response alone or rated the two against each other. Thoughts play no
part: a `Score` is of a response alone.
"""

from collections.abc import Sequence
from typing import Any

from tpo.length_control import length_controlled_win_rate
from tpo.records import Comparison, Completion, Prompt, Score
from tpo.winrate import outcome, win_rate, win_rate_by_category

VERSION = 2


def compare(
    prompts: Sequence[Prompt],
    policy: tuple[Sequence[Completion], Sequence[Score]],
    baseline: tuple[Sequence[Completion], Sequence[Score]],
    *,
    no_response: str,
    baseline_index: int = 0,
) -> list[Comparison]:
    """Return one comparison per prompt, of the first sample of each side; equal responses are a tie.

    A response that the judge could not score makes the comparison unscored, with the side and its reason.

    Args:
        prompts: The held-out instructions.
        policy: Completions and scores.
        baseline: Likewise.
        baseline_index: The sample index of the baseline's scores: 1 where both sides were judged together.
        no_response: What becomes of a side whose completion holds no response: "loss", since its user got
            nothing (a tie where both hold none), or "unscored".
    """
    sides = [_first_samples(*policy, index=0), _first_samples(*baseline, index=baseline_index)]
    rows = []
    for prompt in prompts:
        (ours, our_score), (theirs, their_score) = (side[prompt.prompt_id] for side in sides)
        win, reason = None, None
        if no_response == "loss" and (ours.response is None or theirs.response is None):
            win = outcome(ours.response is not None, theirs.response is not None)
        elif ours.response is not None and ours.response == theirs.response:
            win = 0.5
        elif our_score.score is None:
            reason = f"policy: {our_score.unscored_reason}"
        elif their_score.score is None:
            reason = f"baseline: {their_score.unscored_reason}"
        else:
            win = outcome(our_score.score, their_score.score)
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


def _first_samples(
    completions: Sequence[Completion], scores: Sequence[Score], *, index: int
) -> dict[str, tuple[Completion, Score]]:
    by_id = {score.prompt_id: score for score in scores if score.sample_index == index}
    return {row.prompt_id: (row, by_id[row.prompt_id]) for row in completions if row.sample_index == 0}


def summarize(comparisons: Sequence[Comparison], *, confidence: float, seed: int) -> dict[str, Any]:
    """Return win rates over all prompts, controlled for length, and per category, and the policy's mean score."""
    scores = [row.policy_score for row in comparisons if row.policy_score is not None]
    return {
        "mean_score": sum(scores) / len(scores) if scores else None,
        "win_rate": win_rate(comparisons, confidence=confidence).to_dict(),
        "win_rate_length_controlled": length_controlled_win_rate(
            comparisons, seed=seed, confidence=confidence
        ).to_dict(),
        "categories": {
            name: rate.to_dict() for name, rate in win_rate_by_category(comparisons, confidence=confidence).items()
        },
    }
