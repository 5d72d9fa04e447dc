"""Stage "compare": the policy's responses against the baseline's on the same instructions.

Both sides may have several samples. Where a judge scores responses, each of the policy's samples meets each of the
baseline's, and the higher score wins. Where a judge gives verdicts, which are paid for one by one, sample i meets
sample i mod B of the baseline's B. An instruction's win is the mean over its pairs. Judges get responses only, never
thoughts.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import mean
from typing import Any, NamedTuple

from tpo.evaluate.interventions import NO_THOUGHT
from tpo.evaluate.length_control import length_controlled_win_rate
from tpo.judge.responses import all_pairs, matched_pairs, starts, visible
from tpo.results.winrate import outcome, win_rate, win_rate_answered, win_rate_by_category
from tpo.store.job import Job, Metrics
from tpo.store.records import Comparison, Completion, Prompt, Response, Score, Verdict, by_prompt, write_records

Key = tuple[str, int]  # of a sample: prompt_id and index


def work(job: Job) -> Metrics:
    """Compare the policy's responses to the test instructions with the baseline's."""
    config, inputs = job.config, job.inputs
    tokens: dict[Key, int] = {}
    if "references" in inputs:  # of a benchmark, whose tokens nobody counted
        baseline = list(inputs["references"].rows(Response, "references.jsonl"))
    else:
        baseline = list(visible(inputs["baseline_completions"].rows(Completion)))
        rows = inputs["baseline_completions"].rows(Completion)
        tokens = {(row.prompt_id, row.sample_index): row.num_response_tokens for row in rows}
    start = starts([inputs["completions"]])[-1]  # of the baseline's samples, where they were judged with the policy's
    if "verdicts" in inputs:
        judged = judged_by_verdicts(inputs["verdicts"].rows(Verdict), baseline_start=start)
    else:
        scores, baseline_scores = (inputs[role].rows(Score) for role in ("scores", "baseline_scores"))
        judged = judged_by_scores(scores, baseline_scores, baseline_start=start if config["are_together"] else 0)
    prompts = [prompt for prompt in inputs["prompts"].rows(Prompt) if prompt.split == "test"]
    policy = inputs["completions"].rows(Completion)
    found = compare(prompts, policy, baseline, judged, no_response=config["no_response"], baseline_tokens=tokens)
    write_records(job.path / "rows.jsonl", found)
    return summarize(found, confidence=config["confidence"], seed=job.seed)


class Outcome(NamedTuple):
    """How one of the policy's samples fared against one of the baseline's; `win` or `reason` is None."""

    win: float | None
    reason: str | None


@dataclass(frozen=True)
class Judged:
    """What a judge made of the samples of both sides.

    Attributes:
        pairs: Which samples meet, of so many of the policy and so many of the baseline.
        policy_scores: Where it scored responses.
        baseline_scores: Likewise.
        outcomes: Where it compared them: by prompt_id, index of the policy's sample and of the baseline's.
    """

    pairs: Callable[[int, int], list[tuple[int, int]]]
    policy_scores: Mapping[Key, Score] = field(default_factory=dict)
    baseline_scores: Mapping[Key, Score] = field(default_factory=dict)
    outcomes: Mapping[tuple[str, int, int], Outcome] = field(default_factory=dict)

    def outcome(self, prompt_id: str, ours: int, theirs: int) -> Outcome:
        """Return how two responses that differ fared; equal scores are a tie.

        Raises:
            KeyError: If the judge was not asked about them.
        """
        if not self.policy_scores:
            return self.outcomes[prompt_id, ours, theirs]
        score, other = self.policy_scores[prompt_id, ours], self.baseline_scores[prompt_id, theirs]
        if score.score is None:
            return Outcome(None, f"policy: {score.unscored_reason}")
        if other.score is None:
            return Outcome(None, f"baseline: {other.unscored_reason}")
        return Outcome(outcome(score.score, other.score), None)


def judged_by_scores(policy: Iterable[Score], baseline: Iterable[Score], *, baseline_start: int = 0) -> Judged:
    """Return what scores of both sides say; each of the policy's samples meets each of the baseline's.

    Args:
        policy: Scores that hold the policy's samples.
        baseline: Scores that hold the baseline's, from sample index `baseline_start` on.
        baseline_start: The number of the policy's samples where both sides were judged together, and `policy` holds
            both; 0 where each was judged by itself.
    """
    ours = {
        (row.prompt_id, row.sample_index): row
        for row in policy
        if baseline_start == 0 or row.sample_index < baseline_start
    }
    theirs = {
        (row.prompt_id, row.sample_index - baseline_start): row
        for row in baseline
        if row.sample_index >= baseline_start
    }
    return Judged(all_pairs, policy_scores=ours, baseline_scores=theirs)


def judged_by_verdicts(verdicts: Iterable[Verdict], *, baseline_start: int) -> Judged:
    """Return what verdicts on matched pairs say: the mean outcome for the policy over the orders that were scored.

    Args:
        verdicts: The baseline's samples have indices from `baseline_start` on; verdicts on two samples of one side
            are an error.
        baseline_start: The number of the policy's samples.

    Raises:
        ValueError: If a verdict is on two samples of one side.
    """
    games: dict[tuple[str, int, int], list[float | str]] = defaultdict(list)
    for row in verdicts:
        low, high = sorted((row.first_index, row.second_index))
        if not low < baseline_start <= high:
            raise ValueError(f"prompt {row.prompt_id}: a verdict on samples {low} and {high} of one side")
        key = (row.prompt_id, low, high - baseline_start)
        if row.outcome is None:
            games[key].append(row.unscored_reason or "unscored")
        else:
            games[key].append(row.outcome if row.first_index == low else 1 - row.outcome)
    found = {}
    for key, results in games.items():
        wins = [result for result in results if not isinstance(result, str)]
        reasons = [result for result in results if isinstance(result, str)]
        found[key] = Outcome(mean(wins), None) if wins else Outcome(None, reasons[0])
    return Judged(matched_pairs, outcomes=found)


def compare(
    prompts: Sequence[Prompt],
    policy: Iterable[Completion],
    baseline: Iterable[Response],
    judged: Judged,
    *,
    no_response: str,
    baseline_tokens: Mapping[Key, int],
) -> list[Comparison]:
    """Return one comparison per prompt: the mean over pairs of a policy's sample and a baseline's.

    Equal responses are a tie. A pair without a judgement is left out; where that leaves none, the comparison is
    unscored, with the first pair's reason.

    Args:
        prompts: The instructions.
        policy: One or more samples of each, in the order of the instructions; one instruction's are in memory at a
            time.
        baseline: One or more of each.
        judged: What the judge made of them.
        no_response: What becomes of a side whose completion holds no response: "loss", since its user got
            nothing (a tie where both hold none), or "unscored". Where there was no thought to intervene on, nobody
            was asked, and the sample is unscored in any case.
        baseline_tokens: The tokens of the baseline's responses, where they are known.

    Raises:
        ValueError: If the policy's samples are not of the instructions, in their order.
    """
    theirs: dict[str, list[Response]] = defaultdict(list)
    for row in baseline:
        theirs[row.prompt_id].append(row)
    rows = []
    for prompt, (prompt_id, samples) in zip(prompts, by_prompt(policy), strict=True):
        if prompt_id != prompt.prompt_id:
            raise ValueError(f"samples of prompt {prompt_id} stand where those of {prompt.prompt_id} should")
        others = theirs[prompt_id]
        decided = [
            (samples[first], _decide(samples[first], others[second], judged, no_response=no_response))
            for first, second in judged.pairs(len(samples), len(others))
        ]
        wins = [found.win for _, found in decided if found.win is not None]
        answered = [found.win for row, found in decided if found.win is not None and row.response is not None]
        asked = [row for row in samples if row.split_error != NO_THOUGHT]
        rows.append(
            Comparison(
                prompt_id=prompt.prompt_id,
                base_id=prompt.base_id,
                category=prompt.category,
                win=mean(wins) if wins else None,
                unscored_reason=None if wins else decided[0][1].reason,
                num_pairs=len(wins),
                win_answered=_mean(answered),
                num_answered_pairs=len(answered),
                num_samples=len(asked),
                num_no_response=sum(row.response is None for row in asked),
                policy_score=_mean(_score(judged.policy_scores, row) for row in samples),
                baseline_score=_mean(_score(judged.baseline_scores, row) for row in others),
                policy_tokens=_mean(row.num_response_tokens for row in samples if row.response is not None),
                baseline_tokens=_mean(
                    baseline_tokens.get((prompt_id, row.sample_index)) for row in others if row.text is not None
                ),
                policy_characters=_mean(len(row.response) for row in samples if row.response is not None),
                baseline_characters=_mean(len(row.text) for row in others if row.text is not None),
            )
        )
    return rows


def _decide(ours: Completion, theirs: Response, judged: Judged, *, no_response: str) -> Outcome:
    if ours.split_error == NO_THOUGHT:
        return Outcome(None, f"policy: {NO_THOUGHT}")
    has_ours, has_theirs = ours.response is not None, theirs.text is not None
    if has_ours and has_theirs:
        if ours.response == theirs.text:
            return Outcome(0.5, None)
        return judged.outcome(ours.prompt_id, ours.sample_index, theirs.sample_index)
    if no_response == "loss":
        return Outcome(outcome(has_ours, has_theirs), None)
    return Outcome(None, f"baseline: {theirs.error}" if has_ours else f"policy: {ours.split_error}")


def _score(scores: Mapping[Key, Score], sample: Completion | Response) -> float | None:
    found = scores.get((sample.prompt_id, sample.sample_index))
    return None if found is None else found.score


def _mean(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def summarize(comparisons: Sequence[Comparison], *, confidence: float, seed: int) -> dict[str, Any]:
    """Return win rates over all prompts, controlled for length, and per category, and the policy's mean score.

    `num_answers` are the policy's samples, `num_no_response` those of them that hold no response.
    """
    return {
        "mean_score": _mean(row.policy_score for row in comparisons),
        "win_rate": win_rate(comparisons, confidence=confidence).to_dict(),
        "win_rate_answered": win_rate_answered(comparisons, confidence=confidence).to_dict(),
        "num_answers": sum(row.num_samples for row in comparisons),
        "num_no_response": sum(row.num_no_response for row in comparisons),
        "win_rate_length_controlled": length_controlled_win_rate(
            comparisons, seed=seed, confidence=confidence
        ).to_dict(),
        "categories": {
            name: rate.to_dict() for name, rate in win_rate_by_category(comparisons, confidence=confidence).items()
        },
    }
