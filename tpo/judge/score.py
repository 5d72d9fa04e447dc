"""Stages "judge", "verdicts", "rate", "normalize" and "combine": responses -> scores. A judge never gets a thought.

A pointwise judge scores each response ("judge"). A pairwise one gives verdicts on all ordered pairs of an instruction's
responses ("verdicts"), which `tpo.judge.rating` turns into scores. An ensemble adds up other judges' scores
("combine"). All of them read the responses of one instruction at a time (`tpo.judge.responses`).
"""

import math
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import combinations, repeat
from pathlib import Path
from typing import Any

import numpy as np

from tpo.config.kinds import load_settings
from tpo.judge.protocol import (
    Candidates,
    Judge,
    Judgement,
    PairwiseJudge,
    PairwiseJudgeConfig,
    PointwiseJudgeConfig,
    blocks,
)
from tpo.judge.rating import Rating, rate_responses
from tpo.judge.responses import Group, JudgedResponses, Pair, all_pairs, matched_pairs
from tpo.judge.spread import open_judge
from tpo.model.policy import open_policy
from tpo.pairs.length import normalized
from tpo.store.job import Job, Metrics
from tpo.store.records import Key, LabelledPair, Score, Verdict, by_prompt, read_records, write_records
from tpo.store.rows import grow_rows
from tpo.store.seeds import derive_seed


def judge_work(job: Job) -> Metrics:
    """Score responses one by one."""
    settings = load_settings(PointwiseJudgeConfig, job.config["judge"], job.how)
    identity = [job.config, job.how, *(job.inputs[role].artifact_id for role in job.inputs if role == "model")]
    with open_judge(settings, **_made_with(job), identity=identity) as judge:
        return judge_responses(job.path, JudgedResponses(job.inputs), judge)


def verdicts_work(job: Job) -> Metrics:
    """Compare responses two at a time."""
    responses = JudgedResponses(job.inputs)
    wanted: Callable[[Group], Sequence[Pair]] | None = None
    if "labelled" in job.inputs:  # only the pairs that have a label
        labelled: dict[str, dict[Pair, None]] = {}
        for pair in job.inputs["labelled"].rows(LabelledPair, "pairs.jsonl"):
            low, high = sorted((pair.first_index, pair.second_index))
            labelled.setdefault(pair.prompt_id, {})[low, high] = None
        wanted = lambda group: list(labelled[group.prompt_id])  # noqa: E731
    elif "pairs" in job.config:  # of the first set of completions with the second
        wanted = partial(pairs_between, which=job.config["pairs"], num_first=responses.starts[1])
    settings = load_settings(PairwiseJudgeConfig, job.config["judge"], job.how)
    judge = settings.make(**_made_with(job))
    return collect_verdicts(job.path, responses, judge, orders=settings.orders, wanted=wanted)


def combine_work(job: Job) -> Metrics:
    """Add up the scores of an ensemble's members."""
    members = {role.removeprefix("member_"): artifact.rows(Score) for role, artifact in job.inputs.items()}
    return _write_scores(job.path, combine(members, job.config["weights"]))


def normalize_work(job: Job) -> Metrics:
    """Turn log-likelihoods into scores."""
    parts = {role: artifact.rows(Score) for role, artifact in job.inputs.items()}
    scores = normalize_likelihoods(parts["likelihoods"], parts.get("priors"), per_token=job.config["per_token"])
    return _write_scores(job.path, scores)


def rate_work(job: Job) -> Metrics:
    """Turn verdicts into scores."""
    rating = load_settings(Rating, job.config["rating"])
    verdicts = job.inputs["verdicts"].rows(Verdict)
    return _write_scores(job.path, rate_groups(JudgedResponses(job.inputs), verdicts, rating=rating, seed=job.seed))


def _write_scores(path: Path, scores: Iterable[Score]) -> Metrics:
    write_records(path / "rows.jsonl", scores)
    return count_scores(read_records(path / "rows.jsonl", Score))


def _made_with(job: Job) -> dict[str, Any]:
    """Return what a judge is made with, beside its settings."""
    return {
        "policy": open_policy(job.config, job.inputs) if "model" in job.inputs else None,
        "answers_path": job.answers_path,
    }


def judge_responses(path: Path, groups: Iterable[Group], judge: Judge) -> dict[str, Any]:
    """Write a score, or the reason for none, for every response; return the stage's metrics.

    Equal responses to one instruction are judged once.

    Args:
        path: The artifact's directory.
        groups: Can be iterated more than once.
        judge: Scores them.
    """

    def compute(missing: Sequence[Key]) -> Iterator[Score]:
        wanted = set(missing)
        waiting: deque[Group] = deque()

        def candidates() -> Iterator[Candidates]:
            for block in blocks(groups):
                # Whole blocks, of which some rows may be there: see `blocks`.
                if any(row.key in wanted for group in block for row in group.responses):
                    for group in block:
                        waiting.append(group)
                        texts = dict.fromkeys(row.text for row in group.responses if row.text)
                        yield Candidates(group.instruction, tuple(texts), group.checks)

        for judged in judge.score(candidates()):
            group = waiting.popleft()
            texts = dict.fromkeys(row.text for row in group.responses if row.text)
            found = dict(zip(texts, judged, strict=True))
            for row in group.responses:
                if row.key in wanted:
                    judgement = finite(found[row.text]) if row.text else Judgement(None, row.error)
                    yield Score(
                        prompt_id=row.prompt_id,
                        sample_index=row.sample_index,
                        score=judgement.value,
                        unscored_reason=judgement.unscored_reason,
                        raw=judgement.raw,
                        num_tokens=judgement.num_tokens,
                    )

    keys = [row.key for group in groups for row in group.responses]
    grow_rows(path, Score, keys=keys, compute=compute, unit="response", count_tokens=lambda row: row.num_tokens)
    return count_scores(read_records(path / "rows.jsonl", Score))


def finite(judgement: Judgement) -> Judgement:
    """Return a judgement, without its value and with the reason "not_finite" where that is infinite or no number.

    An overflow of a 16-bit model is one of these. Such a value has no place among others, and no form in JSON.
    """
    if judgement.value is None or math.isfinite(judgement.value):
        return judgement
    return judgement._replace(value=None, unscored_reason="not_finite")


def count_scores(scores: Iterable[Score]) -> dict[str, Any]:
    """Return how many scores there are, how many are missing and why, and their mean."""
    num_scores = num_scored = num_tokens = 0
    total = 0.0
    reasons: Counter[str] = Counter()
    for row in scores:
        num_scores, num_tokens = num_scores + 1, num_tokens + row.num_tokens
        if row.score is not None:
            num_scored, total = num_scored + 1, total + row.score
        else:
            reasons[row.unscored_reason or "unknown"] += 1
    return {
        "num_scores": num_scores,
        "num_unscored": num_scores - num_scored,
        "unscored_reasons": dict(sorted(reasons.items())),
        "mean_score": total / num_scored if num_scored else None,
        "num_tokens": num_tokens,
    }


def collect_verdicts(
    path: Path,
    groups: Iterable[Group],
    judge: PairwiseJudge,
    *,
    orders: str = "both",
    wanted: Callable[[Group], Sequence[Pair]] | None = None,
) -> dict[str, Any]:
    """Write verdicts on every pair of an instruction's different responses; return the stage's metrics.

    Each pair is judged in both orders, because judges favour a position, or in one random order, so that over many
    instructions neither side is favoured. Equal responses are judged once, under the lowest of their sample indices.

    Args:
        path: The artifact's directory.
        groups: What is compared; can be iterated more than once.
        judge: Decides the pairs.
        orders: "both", or "random": one of the two, which depends on the instruction and the sample indices alone,
            not on the other rows or their order.
        wanted: Returns the pairs of a group that are compared, where not all are.
    """

    def games(group: Group) -> list[Pair]:
        return ordered_pairs(group, orders=orders, pairs=None if wanted is None else wanted(group))

    def compute(missing: Sequence[Key]) -> Iterator[Verdict]:
        left = set(missing)
        waiting: deque[tuple[str, int, int]] = deque()

        def pairs() -> Iterator[Candidates]:
            for group in groups:
                texts = {row.sample_index: row.text or "" for row in group.responses}
                for first, second in games(group):
                    key = (group.prompt_id, first, second)
                    if key in left:
                        waiting.append(key)
                        yield Candidates(group.instruction, (texts[first], texts[second]))

        for judgement in map(finite, judge.compare(pairs())):
            prompt_id, first, second = waiting.popleft()
            yield Verdict(
                prompt_id=prompt_id,
                first_index=first,
                second_index=second,
                outcome=judgement.value,
                weight=judgement.weight if judgement.value is not None else 0.0,
                unscored_reason=judgement.unscored_reason,
                raw=judgement.raw,
                num_tokens=judgement.num_tokens,
            )

    keys = [(group.prompt_id, first, second) for group in groups for first, second in games(group)]
    grow_rows(path, Verdict, keys=keys, compute=compute, unit="verdict", count_tokens=lambda row: row.num_tokens)
    num_tokens, reasons = 0, Counter[str]()
    for row in read_records(path / "rows.jsonl", Verdict):
        num_tokens += row.num_tokens
        if row.outcome is None:
            reasons[row.unscored_reason or "unknown"] += 1
    return {
        "num_verdicts": len(keys),
        "num_unscored": reasons.total(),
        "unscored_reasons": dict(sorted(reasons.items())),
        "num_tokens": num_tokens,
    }


def ordered_pairs(group: Group, *, orders: str, pairs: Sequence[Pair] | None) -> list[Pair]:
    """Return the pairs of a group that are shown to a judge, as they are shown.

    Args:
        group: Responses to one instruction.
        orders: As for `collect_verdicts`.
        pairs: To choose from; None for all of different responses. Those of equal responses, which are a tie whatever
            a judge says, and those that lack one are not shown.
    """
    if pairs is not None:
        texts = {row.sample_index: row.text for row in group.responses}
        chosen = [(low, high) for low, high in pairs if texts[low] and texts[high] and texts[low] != texts[high]]
    else:
        ordered = sorted(group.responses, key=lambda row: -row.sample_index)
        distinct = {row.text: row.sample_index for row in ordered if row.text}
        chosen = list(combinations(sorted(distinct.values()), 2))
    if orders == "random":
        return [
            (low, high) if derive_seed(0, "orders", group.prompt_id, low, high) % 2 else (high, low)
            for low, high in map(sorted, chosen)
        ]
    return [order for first, second in chosen for order in ((first, second), (second, first))]


def pairs_between(group: Group, which: str, *, num_first: int) -> list[Pair]:
    """Return which of the first set's samples meets which of the second's, by the indices within the group.

    Args:
        group: Responses to one instruction, those of the first set under the indices below `num_first`.
        which: "matched", or "all": then equal responses are one, under the lowest of their indices, as for a rating.
        num_first: Samples of the first set.
    """
    num_second = max(row.sample_index for row in group.responses) + 1 - num_first
    if which == "matched":
        return [(first, num_first + second) for first, second in matched_pairs(num_first, num_second)]
    texts = {row.sample_index: row.text for row in group.responses}
    lowest = {texts[index]: index for index in sorted(texts, reverse=True)}
    found = ((lowest[texts[first]], lowest[texts[num_first + j]]) for first, j in all_pairs(num_first, num_second))
    return list(dict.fromkeys((min(pair), max(pair)) for pair in found))


def rate_groups(groups: Iterable[Group], verdicts: Iterable[Verdict], *, rating: Rating, seed: int) -> Iterator[Score]:
    """Yield the scores of `tpo.judge.rating.rate_responses`, one instruction after the other.

    Args:
        groups: Responses.
        verdicts: Those on an instruction together, and instructions in the order of `groups`; some may have none.
        rating: How games become ratings.
        seed: Of the orders in which Elo plays the games.

    Raises:
        ValueError: If a verdict is on another instruction.
    """
    end: tuple[str, list[Verdict]] = ("", [])
    games = by_prompt(verdicts)
    prompt_id, found = next(games, end)
    for group in groups:
        played: list[Verdict] = []
        if prompt_id == group.prompt_id:
            played = found
            prompt_id, found = next(games, end)
        yield from rate_responses(group.responses, played, rating=rating, seed=seed)
    if found:
        raise ValueError(f"a verdict on prompt {prompt_id}, which has no response: other responses' verdicts")


def combine(scores: Mapping[str, Iterable[Score]], weights: Mapping[str, float]) -> Iterator[Score]:
    """Yield the weighted mean of several judges' normalized scores.

    Each judge's scores of one instruction are normalized over its responses as in the paper's length control
    (`tpo.pairs.length.normalized`), so that weights mean the same for judges with different units. Only responses
    scored by every judge are included; a judge that gives all the same score adds 0.

    Args:
        scores: Judge to its scores, all of the same responses in the same order, an instruction's together.
        weights: Judge to its weight.
    """
    names = sorted(scores)
    shares = np.array([weights[name] for name in names]) / sum(weights[name] for name in names)
    for groups in zip(*(by_prompt(scores[name]) for name in names), strict=True):
        rows = list(zip(*(group for _, group in groups), strict=True))
        complete = [position for position, row in enumerate(rows) if all(part.score is not None for part in row)]
        combined: dict[int, float] = {}
        if complete:
            values = np.array([[part.score for part in rows[position]] for position in complete], dtype=float)
            means = np.column_stack([normalized(column) for column in values.T]) @ shares
            combined = dict(zip(complete, means.tolist(), strict=True))
        for position, row in enumerate(rows):
            reasons = [
                f"{name}: {part.unscored_reason}" for name, part in zip(names, row, strict=True) if part.score is None
            ]
            yield Score(
                prompt_id=row[0].prompt_id,
                sample_index=row[0].sample_index,
                score=combined.get(position),
                unscored_reason="; ".join(reasons) or None,
                raw=None,
                num_tokens=sum(part.num_tokens for part in row),
            )


def normalize_likelihoods(
    likelihoods: Iterable[Score], priors: Iterable[Score] | None, *, per_token: bool
) -> Iterator[Score]:
    """Yield log p(y | x), less log p(y) where priors are given, and divided by |y| if `per_token`.

    Args:
        likelihoods: Summed log-probabilities of the responses, in nats; `num_tokens` is |y|.
        priors: The same without the instruction, in the same order.
        per_token: The mean over the response's tokens in place of the sum.
    """
    pairs: Iterable[tuple[Score, Score | None]]
    pairs = zip(likelihoods, repeat(None)) if priors is None else zip(likelihoods, priors, strict=True)
    for row, prior in pairs:
        if row.score is None or (prior is not None and prior.score is None):
            yield row if prior is None or row.score is None else prior
            continue
        value = row.score - (prior.score or 0.0 if prior is not None else 0.0)
        yield Score(
            prompt_id=row.prompt_id,
            sample_index=row.sample_index,
            score=value / row.num_tokens if per_token else value,
            unscored_reason=None,
            raw=row.raw,
            num_tokens=row.num_tokens,
        )
