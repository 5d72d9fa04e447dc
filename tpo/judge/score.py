"""Stages "judge", "verdicts", "rate", "normalize" and "combine": responses -> scores. A judge never gets a thought.

A pointwise judge scores each response ("judge"). A pairwise one gives verdicts on all ordered pairs of an instruction's
responses ("verdicts"), which `tpo.judge.rating` turns into scores. An ensemble adds up other judges' scores
("combine").
"""

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations, repeat
from pathlib import Path
from typing import Any

import numpy as np
from msgspec.structs import replace

from tpo.config.kinds import load_settings
from tpo.judge.protocol import (
    Candidates,
    Judge,
    Judgement,
    PairwiseJudge,
    PairwiseJudgeConfig,
    PointwiseJudgeConfig,
)
from tpo.judge.rating import Rating, rate_responses
from tpo.model.policy import open_policy
from tpo.pairs import normalized
from tpo.store.artifacts import Artifact
from tpo.store.job import Job, Metrics
from tpo.store.records import Completion, LabelledPair, Prompt, Response, Score, Verdict, write_records
from tpo.store.rows import grow_rows
from tpo.store.seeds import derive_seed

CHUNK_PROMPTS = 64  # instructions judged together; at most these are lost to a kill


def judge_work(job: Job) -> Metrics:
    """Score responses one by one."""
    prompts, responses = judged_responses(job.inputs)
    settings = load_settings(PointwiseJudgeConfig, job.config["judge"], job.how)
    return judge_responses(job.path, prompts, responses, settings.make(**_made_with(job)))


def verdicts_work(job: Job) -> Metrics:
    """Compare responses two at a time."""
    prompts, responses = judged_responses(job.inputs)
    pairs: dict[str, list[tuple[int, int]]] | None = None
    if "labelled" in job.inputs:  # only the pairs that have a label
        pairs = {}
        for pair in job.inputs["labelled"].rows(LabelledPair, "pairs.jsonl"):
            indices = (min(pair.first_index, pair.second_index), max(pair.first_index, pair.second_index))
            if indices not in pairs.setdefault(pair.prompt_id, []):
                pairs[pair.prompt_id].append(indices)
    elif "against" in job.config:
        indices_of: dict[str, list[int]] = {}
        for row in responses:
            indices_of.setdefault(row.prompt_id, []).append(row.sample_index)
        other = job.config["against"]
        pairs = {key: [(index, other) for index in found if index != other] for key, found in indices_of.items()}
    settings = load_settings(PairwiseJudgeConfig, job.config["judge"], job.how)
    judge = settings.make(**_made_with(job))
    return collect_verdicts(job.path, prompts, responses, judge, orders=settings.orders, pairs=pairs)


def combine_work(job: Job) -> Metrics:
    """Add up the scores of an ensemble's members."""
    members = {role.removeprefix("member_"): list(artifact.rows(Score)) for role, artifact in job.inputs.items()}
    return _write_scores(job.path, combine(members, job.config["weights"]))


def normalize_work(job: Job) -> Metrics:
    """Turn log-likelihoods into scores."""
    parts = {role: list(artifact.rows(Score)) for role, artifact in job.inputs.items()}
    scores = normalize_likelihoods(parts["likelihoods"], parts.get("priors"), per_token=job.config["per_token"])
    return _write_scores(job.path, scores)


def rate_work(job: Job) -> Metrics:
    """Turn verdicts into scores."""
    _, responses = judged_responses(job.inputs)
    verdicts = list(job.inputs["verdicts"].rows(Verdict))
    rating = load_settings(Rating, job.config["rating"])
    return _write_scores(job.path, rate_responses(responses, verdicts, rating=rating, seed=job.seed))


def _write_scores(path: Path, scores: list[Score]) -> Metrics:
    write_records(path / "rows.jsonl", scores)
    return count_scores(scores)


def _made_with(job: Job) -> dict[str, Any]:
    """Return what a judge is made with, beside its settings."""
    return {
        "policy": open_policy(job.config, job.inputs) if "model" in job.inputs else None,
        "answers_path": job.answers_path,
    }


def judged_responses(inputs: Mapping[str, Artifact]) -> tuple[list[Prompt], list[Response]]:
    """Return what a judge may see: the responses of labelled pairs, or of completions and a benchmark's references.

    Samples are numbered on from one set to the next; the references come last.
    """
    if "labelled" in inputs:
        labelled = inputs["labelled"]
        return list(labelled.rows(Prompt, "prompts.jsonl")), list(labelled.rows(Response, "responses.jsonl"))
    count = sum(role.startswith("completions_") for role in inputs)
    sets = [inputs[f"completions_{position}"].rows(Completion) for position in range(count)]
    responses = visible(sets)
    if "references" in inputs:
        number = 1 + max((row.sample_index for row in responses), default=-1)
        references = inputs["references"].rows(Response, "references.jsonl")
        responses += [replace(row, sample_index=number) for row in references]
    return list(inputs["prompts"].rows(Prompt)), responses


def visible(completions: Sequence[Iterable[Completion]]) -> list[Response]:
    """Return what judges may see of one or more sets of completions of the same instructions.

    Sample indices continue from set to set: with K samples in the first set, the second set's start at K.
    """
    responses = []
    offset = 0
    for rows in completions:
        responses += [Response(row.prompt_id, offset + row.sample_index, row.response, row.split_error) for row in rows]
        offset = 1 + max(row.sample_index for row in responses)
    return responses


def judge_responses(
    path: Path, prompts: Sequence[Prompt], responses: Sequence[Response], judge: Judge
) -> dict[str, Any]:
    """Write a score, or the reason for none, for every response; return the stage's metrics.

    Equal responses to one instruction are judged once.
    """
    from tqdm import tqdm

    instructions, groups = _by_prompt(prompts, responses)
    with tqdm(total=len(responses), desc=path.name, unit="response") as progress:

        def compute(prompt_ids: list[str]) -> list[Score]:
            candidates = [
                Candidates(instructions[key], tuple(dict.fromkeys(row.text for row in groups[key] if row.text)))
                for key in prompt_ids
            ]
            rows = []
            for key, item, judged in zip(prompt_ids, candidates, judge.score(candidates), strict=True):
                found = dict(zip(item.responses, judged, strict=True))
                for row in groups[key]:
                    judgement = found[row.text] if row.text else Judgement(None, row.error)
                    rows.append(
                        Score(
                            prompt_id=key,
                            sample_index=row.sample_index,
                            score=judgement.value,
                            unscored_reason=judgement.unscored_reason,
                            raw=judgement.raw,
                            num_tokens=judgement.num_tokens,
                        )
                    )
            progress.update(len(rows))
            return rows

        scores = grow_rows(path, Score, prompt_ids=list(groups), chunk_size=CHUNK_PROMPTS, compute=compute)
    return count_scores(scores)


def count_scores(scores: Sequence[Score]) -> dict[str, Any]:
    """Return how many scores there are, how many are missing, and their mean."""
    scored = [score.score for score in scores if score.score is not None]
    return {
        "num_scores": len(scores),
        "num_unscored": len(scores) - len(scored),
        "mean_score": sum(scored) / len(scored) if scored else None,
        "num_tokens": sum(score.num_tokens for score in scores),
    }


def collect_verdicts(
    path: Path,
    prompts: Sequence[Prompt],
    responses: Sequence[Response],
    judge: PairwiseJudge,
    *,
    orders: str = "both",
    pairs: Mapping[str, Sequence[tuple[int, int]]] | None = None,
) -> dict[str, Any]:
    """Write verdicts on every pair of an instruction's different responses; return the stage's metrics.

    Each pair is judged in both orders, because judges favour a position, or in one random order, so that over many
    instructions neither side is favoured. Equal responses are judged once, under the lowest of their sample indices.

    Args:
        path: The artifact's directory.
        prompts: Instructions.
        responses: What is compared.
        judge: Decides the pairs.
        orders: "both", or "random": one of the two, which depends on the instruction and the sample indices alone,
            not on the other rows or their order.
        pairs: Instruction id to the pairs of sample indices to compare, where not all are.
    """
    from tqdm import tqdm

    instructions, groups = _by_prompt(prompts, responses)
    texts = {key: {row.sample_index: row.text for row in rows} for key, rows in groups.items()}

    def ordered_pairs(key: str) -> list[tuple[int, int]]:
        if pairs is not None:
            wanted = [pair for pair in pairs[key] if all(texts[key][index] for index in pair) and pair[0] != pair[1]]
        else:
            ordered = sorted(groups[key], key=lambda row: -row.sample_index)
            distinct = {row.text: row.sample_index for row in ordered if row.text}
            wanted = list(combinations(sorted(distinct.values()), 2))
        if orders == "random":
            return [
                (low, high) if derive_seed(0, "orders", key, low, high) % 2 else (high, low)
                for low, high in map(sorted, wanted)
            ]
        return [order for first, second in wanted for order in ((first, second), (second, first))]

    schedule = {key: found for key in groups if (found := ordered_pairs(key))}
    with tqdm(total=sum(map(len, schedule.values())), desc=path.name, unit="verdict") as progress:

        def compute(chunk: list[str]) -> list[Verdict]:
            games = [(key, first, second) for key in chunk for first, second in schedule[key]]
            pairs = [
                Candidates(instructions[key], (texts[key][first] or "", texts[key][second] or ""))
                for key, first, second in games
            ]
            rows = [
                Verdict(
                    prompt_id=key,
                    first_index=first,
                    second_index=second,
                    outcome=judgement.value,
                    weight=judgement.weight if judgement.value is not None else 0.0,
                    unscored_reason=judgement.unscored_reason,
                    raw=judgement.raw,
                    num_tokens=judgement.num_tokens,
                )
                for (key, first, second), judgement in zip(games, judge.compare(pairs), strict=True)
            ]
            progress.update(len(rows))
            return rows

        verdicts = grow_rows(path, Verdict, prompt_ids=list(schedule), chunk_size=CHUNK_PROMPTS, compute=compute)
    return {
        "num_verdicts": len(verdicts),
        "num_unscored": sum(verdict.outcome is None for verdict in verdicts),
        "num_tokens": sum(verdict.num_tokens for verdict in verdicts),
    }


def combine(scores: Mapping[str, Sequence[Score]], weights: Mapping[str, float]) -> list[Score]:
    """Return the weighted mean of several judges' normalized scores.

    Each judge's scores of one instruction are normalized over its responses as in the paper's length control
    (`tpo.pairs.normalized`), so that weights mean the same for judges with different units. Only responses scored by
    every judge are included; a judge that gives all the same score adds 0.

    Args:
        scores: Judge to its scores, all of the same responses in the same order.
        weights: Judge to its weight.
    """
    names = sorted(scores)
    shares = np.array([weights[name] for name in names]) / sum(weights[name] for name in names)
    rows = list(zip(*(scores[name] for name in names), strict=True))
    complete: dict[str, list[int]] = {}
    for position, group in enumerate(rows):
        if all(row.score is not None for row in group):
            complete.setdefault(group[0].prompt_id, []).append(position)
    combined: dict[int, float] = {}
    for positions in complete.values():
        values = np.array([[row.score for row in rows[position]] for position in positions], dtype=float)
        means = np.column_stack([normalized(column) for column in values.T]) @ shares
        combined |= dict(zip(positions, means.tolist(), strict=True))
    result = []
    for position, group in enumerate(rows):
        reasons = [
            f"{name}: {row.unscored_reason}" for name, row in zip(names, group, strict=True) if row.score is None
        ]
        result.append(
            Score(
                prompt_id=group[0].prompt_id,
                sample_index=group[0].sample_index,
                score=combined.get(position),
                unscored_reason="; ".join(reasons) or None,
                raw=None,
                num_tokens=sum(row.num_tokens for row in group),
            )
        )
    return result


def normalize_likelihoods(
    likelihoods: Sequence[Score], priors: Sequence[Score] | None, *, per_token: bool
) -> list[Score]:
    """Return log p(y | x), less log p(y) where priors are given, and divided by |y| if `per_token`.

    Args:
        likelihoods: Summed log-probabilities of the responses, in nats; `num_tokens` is |y|.
        priors: The same without the instruction, in the same order.
        per_token: The mean over the response's tokens in place of the sum.
    """
    result = []
    for row, prior in zip(likelihoods, priors if priors is not None else repeat(None, len(likelihoods)), strict=True):
        if row.score is None or (prior is not None and prior.score is None):
            result.append(row if prior is None or row.score is None else prior)
            continue
        value = row.score - (prior.score or 0.0 if prior is not None else 0.0)
        result.append(replace(row, score=value / row.num_tokens if per_token else value))
    return result


def _by_prompt(
    prompts: Sequence[Prompt], responses: Sequence[Response]
) -> tuple[dict[str, str], dict[str, list[Response]]]:
    groups: dict[str, list[Response]] = {}
    for response in responses:
        groups.setdefault(response.prompt_id, []).append(response)
    return {prompt.prompt_id: prompt.text for prompt in prompts}, groups
