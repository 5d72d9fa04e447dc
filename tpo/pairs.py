"""Stage "pairs": completions and scores -> one preference pair per instruction, or a counted reason for none.

Best against worst after length control (section 2.3 of arXiv 2410.10630); pure Python and numpy.
"""

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tpo.config.fields import identity, restore
from tpo.config.groups import PairsConfig
from tpo.store.artifacts import Artifact, Store
from tpo.store.job import Job, Metrics
from tpo.store.records import Completion, Pair, Score, write_records
from tpo.store.stage import Stage

PAIRS = Stage("pairs", version=1, work="tpo.pairs:work")
DROP_REASONS = ("too_few_scored", "tied", "identical_responses", "margin_too_small", "pair_too_long")


class Pairs(NamedTuple):
    """Pairs and, for every instruction without one, why; `len(pairs) + sum(drops) == instructions`."""

    pairs: list[Pair]
    drops: dict[str, int]


def make_pairs(store: Store, completions: Artifact, scores: Artifact, *, settings: PairsConfig) -> Artifact:
    """Return the pairs of all instructions that were sampled from."""
    inputs = {"completions": completions, "scores": scores}
    sampled = completions.budget
    budget = None if sampled is None else sampled._replace(tokens=0)
    return store.request(PAIRS, identity(settings), inputs, budget=budget)


def work(job: Job) -> Metrics:
    """Pair the best with the worst completion of each instruction."""
    completions = job.inputs["completions"].rows(Completion)
    pairs, drops = build_pairs(completions, job.inputs["scores"].rows(Score), restore(PairsConfig, job.config))
    write_records(job.path / "rows.jsonl", pairs)
    return {"num_pairs": len(pairs), "drops": drops, "num_prompts": len({row.prompt_id for row in completions})}


def length_controlled(
    scores: NDArray[np.float64], lengths: NDArray[np.float64], *, length_penalty: float
) -> NDArray[np.float64]:
    """Return N(score) - rho N(length), N as in `normalized`: "Thinking LLMs", section 2.3.

    Args:
        scores: (samples,), higher is better.
        lengths: (samples,), in any unit.
        length_penalty: rho >= 0; 0 ignores length, 1 weighs it like the score.

    Returns:
        (samples,) in standard deviations.
    """
    return normalized(scores) - length_penalty * normalized(lengths)


def normalized(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return N(v) = (v - mean v) / std v over the samples of one prompt; std is the population's.

    Values that are all equal have N(v) = 0: they say nothing about which sample is better.
    """
    centered = values - values.mean()
    deviation = values.std()
    # Relative, because equal values can differ by rounding once they are centered.
    if deviation <= 1e-12 * max(1.0, float(np.abs(values).max())):
        return np.zeros_like(values)
    result: NDArray[np.float64] = centered / deviation
    return result


def build_pairs(completions: Sequence[Completion], scores: Sequence[Score], settings: PairsConfig) -> Pairs:
    """Return the best-against-worst pair of every instruction that has one, and count the reasons of the others.

    Among equals the lowest sample index is taken, so the result does not depend on the order of the rows.

    Raises:
        ValueError: If a completion has no score row.
    """
    pairs: list[Pair] = []
    drops: Counter[str] = Counter(dict.fromkeys(DROP_REASONS, 0))
    for result in pair_or_reason(completions, scores, settings).values():
        if isinstance(result, Pair):
            pairs.append(result)
        else:
            drops[result] += 1
    return Pairs(pairs, dict(drops))


def pair_or_reason(
    completions: Sequence[Completion], scores: Sequence[Score], settings: PairsConfig
) -> dict[str, Pair | str]:
    """Return the pair of every instruction, or the one of `DROP_REASONS` why it has none, by prompt id.

    Raises:
        ValueError: If a completion has no score row.
    """
    by_key = {(score.prompt_id, score.sample_index): score for score in scores}
    groups: dict[str, list[tuple[Completion, float]]] = {}
    for completion in completions:
        key = (completion.prompt_id, completion.sample_index)
        if key not in by_key:
            raise ValueError(f"completion {key} has no score row: the scores belong to other completions")
        group = groups.setdefault(completion.prompt_id, [])
        value = by_key[key].score
        is_allowed = settings.truncated_responses == "keep" or completion.finish_reason == "stop"
        if value is not None and is_allowed:
            group.append((completion, value))
    return {
        prompt_id: _pair(sorted(group, key=lambda item: item[0].sample_index), settings)
        for prompt_id, group in groups.items()
    }


def _pair(group: list[tuple[Completion, float]], settings: PairsConfig) -> Pair | str:
    """Return the pair of one instruction, or the reason why there is none."""
    if len(group) < 2:
        return "too_few_scored"
    lengths = np.array([response_length(completion, settings.length_unit) for completion, _ in group])
    values = length_controlled(np.array([score for _, score in group]), lengths, length_penalty=settings.length_penalty)
    best, worst = int(values.argmax()), int(values.argmin())
    margin = float(values[best] - values[worst])
    (chosen, chosen_score), (rejected, rejected_score) = group[best], group[worst]
    if margin <= 1e-9:
        return "identical_responses" if len({row.response for row, _ in group}) == 1 else "tied"
    if chosen.response == rejected.response:  # the same text in more tokens: a preference about thoughts only
        return "identical_responses"
    if margin < settings.min_margin:
        return "margin_too_small"
    if max(len(row.prompt_ids) + len(row.completion_ids) for row in (chosen, rejected)) > settings.max_tokens:
        return "pair_too_long"
    return Pair(
        prompt_id=chosen.prompt_id,
        prompt_ids=chosen.prompt_ids,
        chosen_ids=chosen.completion_ids,
        rejected_ids=rejected.completion_ids,
        chosen_forced=[chosen.forced_start, chosen.forced_stop],
        rejected_forced=[rejected.forced_start, rejected.forced_stop],
        chosen=chosen.completion,
        rejected=rejected.completion,
        chosen_index=chosen.sample_index,
        rejected_index=rejected.sample_index,
        margin=margin,
        chosen_score=chosen_score,
        rejected_score=rejected_score,
        chosen_length=float(lengths[best]),
        rejected_length=float(lengths[worst]),
    )


def response_length(completion: Completion, unit: str) -> float:
    """Return the length of a completion's response in tokens, characters or words."""
    response = completion.response or ""
    match unit:
        case "tokens":
            return float(completion.num_response_tokens)
        case "characters":
            return float(len(response))
        case "words":
            return float(len(response.split()))
        case _:
            raise ValueError(f"length unit {unit!r}: expected tokens, characters or words")
