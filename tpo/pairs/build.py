"""Stage "pairs": completions and scores -> one preference pair per instruction, or a counted reason for none."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import zip_longest
from typing import Any, NamedTuple

import numpy as np

from tpo.config.kinds import load_settings
from tpo.pairs.length import length_controlled, normalized, response_length
from tpo.pairs.rule import TIED, Candidate, PairsRule
from tpo.store.job import Job, Metrics
from tpo.store.records import Completion, Pair, Score, by_prompt, write_records

# Why an instruction has no pair; the first that holds is counted. A rule may have reasons of its own.
DROP_REASONS = (
    "too_few_scored",  # fewer than two responses have a score
    "truncated",  # two or more have, but the token budget ended too many, or the one that the rule chose
    "identical_responses",  # all texts are equal, or those of the two that the rule chose
    "tied",  # the judge's scores are all equal, or length makes up for the difference exactly
    "not_preferred",  # the judge does not score the chosen response above the rejected one
    "margin_too_small",
    "pair_too_long",
)


class Judged(NamedTuple):
    """A completion and what the judge made of its response."""

    completion: Completion
    score: Score


def work(job: Job) -> Metrics:
    """Choose a pair of completions of each instruction."""
    rule = load_settings(PairsRule, job.config)
    drops: Counter[str] = Counter()

    def pairs() -> Iterator[Pair]:
        completions, scores = job.inputs["completions"].rows(Completion), job.inputs["scores"].rows(Score)
        for outcome in build_pairs(completions, scores, rule):
            if isinstance(outcome, Pair):
                yield outcome
            else:
                drops[outcome] += 1

    num_pairs = write_records(job.path / "rows.jsonl", pairs())
    return {"num_pairs": num_pairs, "drops": count_drops(drops), "num_prompts": num_pairs + drops.total()}


def count_drops(reasons: Iterable[str] | Counter[str]) -> dict[str, int]:
    """Return how many instructions were dropped for each reason; those of `DROP_REASONS` also where there are none."""
    drops = Counter(reasons)
    return {reason: drops[reason] for reason in (*DROP_REASONS, *sorted(drops.keys() - set(DROP_REASONS)))}


def build_pairs(completions: Iterable[Completion], scores: Iterable[Score], rule: PairsRule) -> Iterator[Pair | str]:
    """Yield the pair of every instruction, or the reason why it has none: one of `DROP_REASONS`, or of the rule's own.

    Raises:
        ValueError: If completions and scores are not of the same responses, instruction by instruction.
    """
    return (pair_or_reason(group, rule) for group in judged_groups(completions, scores))


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


def pair_or_reason(judged: Sequence[Judged], rule: PairsRule) -> Pair | str:
    """Return the pair of one instruction, or the reason why it has none.

    The judge has to prefer the chosen response: where its scores are all equal, length control would make a pair by
    length alone, and where the two that the rule chose have equal or inverted scores, length made that choice. The
    paper's formula allows both. With best against worst the second takes a length penalty of at least 1 / sqrt(2 K)
    for K responses (a quarter for 8), because scores that differ span two standard deviations or more and lengths span
    sqrt(2 K) at most.

    Args:
        judged: Its completions in the order of their sample indices.
        rule: Of the length control and the choice.

    Raises:
        ValueError: If a score is not finite.
    """
    scored = [(row, score.score) for row, score in judged if score.score is not None]
    if len(scored) < 2:
        return "too_few_scored"
    if rule.truncated_responses == "drop":
        scored = [(row, score) for row, score in scored if row.finish_reason == "stop"]
    elif rule.truncated_responses == "reject":
        scored = lower_truncated(scored)
    if len(scored) < 2:
        return "truncated"
    if len({row.response for row, _ in scored}) == 1:
        return "identical_responses"
    candidates = weigh(scored, rule)
    values = [candidate.value for candidate in candidates]
    if (
        not normalized(np.array([candidate.score for candidate in candidates])).any()
        or max(values) - min(values) <= TIED
    ):
        return "tied"
    choice = rule.choose(candidates)
    if isinstance(choice, str):
        return choice
    chosen, rejected = candidates[choice.chosen], candidates[choice.rejected]
    margin = chosen.value - rejected.value
    if abs(margin) <= TIED:
        return "tied"
    if chosen.completion.response == rejected.completion.response:  # a preference about thoughts or length only
        return "identical_responses"
    if chosen.score <= rejected.score:
        return "not_preferred"
    if rule.truncated_responses == "reject" and chosen.completion.finish_reason != "stop":
        return "truncated"
    if margin < rule.min_margin:
        return "margin_too_small"
    rows = (chosen.completion, rejected.completion)
    if max(len(row.prompt_ids) + len(row.completion_ids) for row in rows) > rule.max_tokens:
        return "pair_too_long"
    return make_pair(chosen, rejected)


def lower_truncated(scored: Sequence[tuple[Completion, float]]) -> list[tuple[Completion, float]]:
    """Return the scores of one instruction with those of truncated responses lowered; none where all are truncated.

    A response without an end is worth what the judge says, but no more than the worst whole one. So what is whole is
    never rejected for what is not, and a policy that does not stop meets rejected responses that teach it to, as often
    as the judge tells the two apart. Worth less than all whole ones in any case, they made a policy stop at once; in no
    pair at all, never (experiments/LOG.md).
    """
    most = min((score for row, score in scored if row.finish_reason == "stop"), default=None)
    if most is None:
        return []
    return [(row, score if row.finish_reason == "stop" else min(score, most)) for row, score in scored]


def weigh(scored: Sequence[tuple[Completion, float]], rule: PairsRule) -> list[Candidate]:
    """Return the candidates of one instruction, with length-controlled scores.

    Raises:
        ValueError: If a score is not finite.
    """
    for row, score in scored:
        if not math.isfinite(score):
            raise ValueError(f"the score of {row.key} is {score}: a judge that has no number leaves it unscored")
    scores = np.array([score for _, score in scored])
    lengths = np.array([response_length(row, rule.length_unit) for row, _ in scored])
    values = length_controlled(scores, lengths, length_penalty=rule.length_penalty)
    columns = zip(scored, lengths.tolist(), values.tolist(), strict=True)
    return [Candidate(row, score, length, value) for (row, score), length, value in columns]


def make_pair(chosen: Candidate, rejected: Candidate) -> Pair:
    """Return the row of a pair."""
    best, worst = chosen.completion, rejected.completion
    return Pair(
        prompt_id=best.prompt_id,
        prompt_ids=best.prompt_ids,
        chosen_ids=best.completion_ids,
        rejected_ids=worst.completion_ids,
        chosen_forced=[best.forced_start, best.forced_stop],
        rejected_forced=[worst.forced_start, worst.forced_stop],
        chosen_response_start=best.response_start,
        rejected_response_start=worst.response_start,
        chosen=best.completion,
        rejected=worst.completion,
        chosen_index=best.sample_index,
        rejected_index=worst.sample_index,
        margin=chosen.value - rejected.value,
        chosen_score=chosen.score,
        rejected_score=rejected.score,
        chosen_length=chosen.length,
        rejected_length=rejected.length,
    )
