"""Stage "pairs": completions and scores -> one preference pair per instruction, or a counted reason for none.

Best against worst after length control (section 2.3 of arXiv 2410.10630); pure Python and numpy.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tpo.config.fields import identity, restore
from tpo.config.groups import PairsConfig
from tpo.store.artifacts import Artifact, Store
from tpo.store.job import Job, Metrics
from tpo.store.records import Completion, Pair, Score, by_prompt, write_records
from tpo.store.stage import Stage

PAIRS = Stage("pairs", version=1, work="tpo.pairs:work")
DROP_REASONS = ("too_few_scored", "tied", "identical_responses", "margin_too_small", "pair_too_long")


class Judged(NamedTuple):
    """A completion and what the judge made of its response."""

    completion: Completion
    score: Score


def make_pairs(store: Store, completions: Artifact, scores: Artifact, *, settings: PairsConfig) -> Artifact:
    """Return the pairs of all instructions that were sampled from."""
    inputs = {"completions": completions, "scores": scores}
    sampled = completions.budget
    budget = None if sampled is None else sampled._replace(tokens=0)
    return store.request(PAIRS, identity(settings), inputs, budget=budget)


def work(job: Job) -> Metrics:
    """Pair the best with the worst completion of each instruction."""
    settings = restore(PairsConfig, job.config)
    drops: Counter[str] = Counter()

    def pairs() -> Iterator[Pair]:
        completions, scores = job.inputs["completions"].rows(Completion), job.inputs["scores"].rows(Score)
        for outcome in build_pairs(completions, scores, settings):
            if isinstance(outcome, Pair):
                yield outcome
            else:
                drops[outcome] += 1

    num_pairs = write_records(job.path / "rows.jsonl", pairs())
    counts = {reason: drops[reason] for reason in DROP_REASONS}
    return {"num_pairs": num_pairs, "drops": counts, "num_prompts": num_pairs + drops.total()}


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


def build_pairs(
    completions: Iterable[Completion], scores: Iterable[Score], settings: PairsConfig
) -> Iterator[Pair | str]:
    """Yield the pair of every instruction, best against worst, or the one of `DROP_REASONS` why it has none.

    Raises:
        ValueError: If completions and scores are not of the same responses, instruction by instruction.
    """
    return (pair_or_reason(group, settings) for group in judged_groups(completions, scores))


def judged_groups(completions: Iterable[Completion], scores: Iterable[Score]) -> Iterator[list[Judged]]:
    """Yield the completions of each instruction with their scores, in the order of the sample indices.

    Both are read side by side, so that one instruction's rows are in memory at a time.

    Raises:
        ValueError: If completions and scores are not of the same responses, instruction by instruction.
    """
    nothing: tuple[None, list[Any]] = (None, [])
    for (_, group), (_, judged) in zip_longest(by_prompt(completions), by_prompt(scores), fillvalue=nothing):
        rows, found = {row.key: row for row in group}, {row.key: row for row in judged}
        for key in sorted(rows.keys() ^ found.keys()):
            there, missing = ("completion", "score") if key in rows else ("score", "completion")
            raise ValueError(f"{there} {key} has no {missing} row beside it: the scores belong to other completions")
        yield [Judged(rows[key], found[key]) for key in sorted(rows)]


def pair_or_reason(judged: Sequence[Judged], settings: PairsConfig) -> Pair | str:
    """Return the pair of one instruction, or the one of `DROP_REASONS` why it has none.

    Args:
        judged: Its completions in the order of their sample indices: among equals the first is taken.
        settings: Of the length control and the choice.
    """
    group = [
        (row, score.score)
        for row, score in judged
        if score.score is not None and (settings.truncated_responses == "keep" or row.finish_reason == "stop")
    ]
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
