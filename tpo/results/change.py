"""What training changed: a policy less the untrained one on the same instructions, paired. Pure.

What makes an instruction easy or hard for both cancels, and the baseline's draws, which both are compared with, do too:
so a change shows where two win rates with their own intervals cannot tell.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from tpo.results.rate import Rate
from tpo.results.stats import mean_interval, paired_difference
from tpo.results.winrate import win_rate
from tpo.store.records import Comparison
from tpo.store.seeds import derive_seed


def paired_change(
    first: Mapping[str, float | None],
    last: Mapping[str, float | None],
    clusters: Mapping[str, str],
    *,
    confidence: float,
    seed: int = 0,
    is_bounded: bool = True,
) -> Rate:
    """Return the mean of `last` less that of `first` over the instructions that have both.

    Args:
        first: By prompt_id, of the untrained policy; None where it was not scored.
        last: Likewise, of the trained one, on the same instructions.
        clusters: By prompt_id, the instruction that it was made from (`Prompt.base_id`).
        confidence: Nominal coverage in (0, 1).
        seed: Of the sign flips, where there are too many to enumerate.
        is_bounded: As for `stats.paired_difference`: whether the values are in [0, 1].

    Returns:
        With a p-value; `num_unscored` are the instructions that lack either value.

    Raises:
        ValueError: If the instructions are not the same.
    """
    if first.keys() != last.keys():
        raise ValueError(f"{len(first.keys() ^ last.keys())} instructions have a value on one side only")
    names = sorted(first)
    return paired_difference(
        [last[name] for name in names],
        [first[name] for name in names],
        seed=seed,
        confidence=confidence,
        is_bounded=is_bounded,
        clusters=[clusters[name] for name in names],
    )


#: What a comparison says of the policy's responses to an instruction.
COMPARED: dict[str, Callable[[Comparison], float | None]] = {
    "win_rate": lambda row: row.win,
    "score": lambda row: row.policy_score,
    "response_tokens": lambda row: row.policy_tokens,
}


def compared_change(
    first: Iterable[Comparison], last: Iterable[Comparison], *, confidence: float, seed: int
) -> dict[str, Rate]:
    """Return the change of the win rate, of the judge's score and of the response's tokens, by these names.

    A score, in the judge's unit, and tokens are means over an instruction's responses; where one side has none, the
    instruction is left out and counted. Scores of a judge that scores responses beside each other are relative to the
    baseline's.

    Args:
        first: Comparisons of the untrained policy.
        last: Of the trained one with the same baseline, on the same instructions.
        confidence: Nominal coverage in (0, 1).
        seed: Of the sign flips.
    """
    before, after = list(first), list(last)
    clusters = {row.prompt_id: row.base_id for row in after}
    return {
        name: paired_change(
            {row.prompt_id: value(row) for row in before},
            {row.prompt_id: value(row) for row in after},
            clusters,
            confidence=confidence,
            seed=derive_seed(seed, name),
            is_bounded=name == "win_rate",
        )
        for name, value in COMPARED.items()
    }


def null_control(comparisons: Sequence[Comparison], *, confidence: float, seed: int = 0) -> dict[str, Any]:
    """Return what `summary.json` says of draws of the baseline's own policy: one half and 0 are right.

    Args:
        comparisons: Of these draws with the baseline's.
        confidence: Nominal coverage in (0, 1).
        seed: Of the sign flips.

    Returns:
        `win_rate`, and `score`: how much higher the judge scores these draws than the baseline's.
    """
    gap = paired_change(
        {row.prompt_id: row.baseline_score for row in comparisons},
        {row.prompt_id: row.policy_score for row in comparisons},
        {row.prompt_id: row.base_id for row in comparisons},
        confidence=confidence,
        seed=seed,
        is_bounded=False,
    )
    return {"win_rate": win_rate(comparisons, confidence=confidence).to_dict(), "score": gap.to_dict()}


def second_judge(
    judge: str,
    first: Sequence[Comparison],
    second: Sequence[Comparison],
    *,
    untrained: Sequence[Comparison] | None = None,
    confidence: float,
    seed: int = 0,
) -> dict[str, Any]:
    """Return what `summary.json` says of the judge that was not trained against.

    Args:
        judge: Its kind.
        first: The comparisons of the judge that was.
        second: Its own, of the same responses.
        untrained: Its own of the untrained policy; None where this is that one.
        confidence: Nominal coverage in (0, 1).
        seed: Of the sign flips.

    Returns:
        `judge`, `win_rate`, its `change` since the untrained policy or None, and `agreement` of the two.
    """
    change = None if untrained is None else compared_change(untrained, second, confidence=confidence, seed=seed)
    return {
        "judge": judge,
        "win_rate": win_rate(second, confidence=confidence).to_dict(),
        "change": None if change is None else change["win_rate"].to_dict(),
        "agreement": agreement(first, second, confidence=confidence).to_dict(),
    }


def agreement(first: Iterable[Comparison], second: Iterable[Comparison], *, confidence: float) -> Rate:
    """Return how often two judges prefer the same side; where either sees a tie, that is one half.

    Args:
        first: One judge's comparisons.
        second: The other's, of the same responses.
        confidence: Nominal coverage in (0, 1).
    """
    others = {row.prompt_id: row.win for row in second}
    values, clusters, num_unscored = [], [], 0
    for row in first:
        other = others[row.prompt_id]
        if row.win is None or other is None:
            num_unscored += 1
            continue
        product = (row.win - 0.5) * (other - 0.5)
        values.append(0.5 + 0.5 * ((product > 0) - (product < 0)))
        clusters.append(row.base_id)
    if not values:
        return Rate(None, None, 0, num_unscored)
    interval = mean_interval(values, confidence=confidence, clusters=clusters)
    return Rate(sum(values) / len(values), interval, len(values), num_unscored)
