"""Stage "compare": the policy's responses against the baseline's on the same instructions.

The winner is the response with the higher score, whether a judge scored responses one by one or against each other, or
the one that a pairwise judge's verdicts prefer. Judges get responses only, never thoughts.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean
from typing import Any, NamedTuple

from tpo.evaluate.interventions import NO_THOUGHT
from tpo.evaluate.length_control import length_controlled_win_rate
from tpo.results.winrate import outcome, win_rate, win_rate_by_category
from tpo.store.job import Job, Metrics
from tpo.store.records import Comparison, Completion, Prompt, Response, Score, Verdict, by_prompt, write_records


def work(job: Job) -> Metrics:
    """Compare the policy's responses to the test instructions with the baseline's."""
    config, inputs = job.config, job.inputs
    baseline: list[Response] = []
    tokens: dict[str, int] = {}
    if "references" in inputs:  # of a benchmark, whose tokens nobody counted
        baseline += inputs["references"].rows(Response, "references.jsonl")
    else:
        for row in inputs["baseline_completions"].rows(Completion):
            if row.sample_index == 0:
                baseline.append(Response(row.prompt_id, 0, row.response, row.split_error))
                tokens[row.prompt_id] = row.num_response_tokens
    if "verdicts" in inputs:
        judged = samples_by_verdicts(inputs["verdicts"].rows(Verdict), baseline_index=config["baseline_index"])
    else:
        scores, baseline_scores = (inputs[role].rows(Score) for role in ("scores", "baseline_scores"))
        judged = samples_by_scores(scores, baseline_scores, baseline_index=config["baseline_index"])
    prompts = [prompt for prompt in inputs["prompts"].rows(Prompt) if prompt.split == "test"]
    policy = inputs["completions"].rows(Completion)
    rows = compare(prompts, policy, baseline, judged, no_response=config["no_response"], baseline_tokens=tokens)
    write_records(job.path / "rows.jsonl", rows)
    return summarize(rows, confidence=config["confidence"], seed=job.seed)


class SampleComparison(NamedTuple):
    """One of the policy's samples against the baseline's response; `win` or `reason` is None."""

    win: float | None
    reason: str | None
    policy_score: float | None = None
    baseline_score: float | None = None


def samples_by_scores(
    policy: Iterable[Score], baseline: Iterable[Score], *, baseline_index: int = 0
) -> dict[tuple[str, int], SampleComparison]:
    """Return by (prompt_id, sample_index) whether the policy's score is the higher one; equal scores are a tie.

    Args:
        policy: Scores of the policy's samples.
        baseline: Scores that hold the baseline's response.
        baseline_index: Its sample index there: the number of the policy's samples where both were judged together.
    """
    theirs = {row.prompt_id: row for row in baseline if row.sample_index == baseline_index}
    found = {}
    for ours in policy:
        other = theirs[ours.prompt_id]
        if ours.score is None:
            judged = SampleComparison(None, f"policy: {ours.unscored_reason}", None, other.score)
        elif other.score is None:
            judged = SampleComparison(None, f"baseline: {other.unscored_reason}", ours.score, None)
        else:
            judged = SampleComparison(outcome(ours.score, other.score), None, ours.score, other.score)
        found[ours.prompt_id, ours.sample_index] = judged
    return found


def samples_by_verdicts(verdicts: Iterable[Verdict], *, baseline_index: int) -> dict[tuple[str, int], SampleComparison]:
    """Return by (prompt_id, sample_index) the mean outcome for the policy over the orders that were scored."""
    games: dict[tuple[str, int], list[float | str]] = defaultdict(list)
    for row in verdicts:
        if baseline_index not in (row.first_index, row.second_index):
            continue
        is_first = row.second_index == baseline_index
        key = (row.prompt_id, row.first_index if is_first else row.second_index)
        if row.outcome is None:
            games[key].append(row.unscored_reason or "unscored")
        else:
            games[key].append(row.outcome if is_first else 1 - row.outcome)
    found = {}
    for key, results in games.items():
        wins = [result for result in results if not isinstance(result, str)]
        reasons = [result for result in results if isinstance(result, str)]
        found[key] = SampleComparison(mean(wins), None) if wins else SampleComparison(None, reasons[0])
    return found


def compare(
    prompts: Sequence[Prompt],
    policy: Iterable[Completion],
    baseline: Iterable[Response],
    judged: Mapping[tuple[str, int], SampleComparison],
    *,
    no_response: str,
    baseline_tokens: Mapping[str, int],
) -> list[Comparison]:
    """Return one comparison per prompt: the mean over the policy's samples against the baseline's first sample.

    Equal responses are a tie. A sample without a judgement is left out; where that leaves none, the comparison is
    unscored, with the first sample's reason.

    Args:
        prompts: The instructions.
        policy: One or more samples of each, in the order of the instructions; one instruction's are in memory at a
            time.
        baseline: Its sample 0 counts.
        judged: What the judge made of each of the policy's samples.
        no_response: What becomes of a side whose completion holds no response: "loss", since its user got
            nothing (a tie where both hold none), or "unscored". Where there was no thought to intervene on, nobody
            was asked, and the sample is unscored in any case.
        baseline_tokens: Prompt id to the tokens of the baseline's response, where they are known.

    Raises:
        ValueError: If the policy's samples are not of the instructions, in their order.
    """
    theirs = {row.prompt_id: row for row in baseline if row.sample_index == 0}
    rows = []
    for prompt, (prompt_id, samples) in zip(prompts, by_prompt(policy), strict=True):
        if prompt_id != prompt.prompt_id:
            raise ValueError(f"samples of prompt {prompt_id} stand where those of {prompt.prompt_id} should")
        other = theirs[prompt_id]
        decided = [_decide(sample, other, judged, no_response=no_response) for sample in samples]
        wins = [item.win for item in decided if item.win is not None]
        rows.append(
            Comparison(
                prompt_id=prompt.prompt_id,
                category=prompt.category,
                win=mean(wins) if wins else None,
                unscored_reason=None if wins else decided[0].reason,
                num_samples=len(wins),
                policy_score=_mean(item.policy_score for item in decided),
                baseline_score=decided[0].baseline_score,
                policy_tokens=mean(sample.num_response_tokens for sample in samples),
                baseline_tokens=baseline_tokens.get(prompt.prompt_id),
                policy_characters=_mean(None if row.response is None else len(row.response) for row in samples),
                baseline_characters=None if other.text is None else len(other.text),
            )
        )
    return rows


def _decide(
    ours: Completion, theirs: Response, judged: Mapping[tuple[str, int], SampleComparison], *, no_response: str
) -> SampleComparison:
    if ours.split_error == NO_THOUGHT:
        return SampleComparison(None, f"policy: {NO_THOUGHT}")
    has_ours, has_theirs = ours.response is not None, theirs.text is not None
    if not (has_ours and has_theirs):
        missing = f"baseline: {theirs.error}" if has_ours else f"policy: {ours.split_error}"
        found = judged.get(
            (ours.prompt_id, ours.sample_index), SampleComparison(None, missing)
        )  # a pairwise judge was not asked
        is_loss = no_response == "loss"
        return (
            found._replace(win=outcome(has_ours, has_theirs), reason=None)
            if is_loss
            else SampleComparison(None, missing)
        )
    if ours.response == theirs.text:
        found = judged.get((ours.prompt_id, ours.sample_index), SampleComparison(0.5, None))
        return found._replace(win=0.5, reason=None)
    return judged[ours.prompt_id, ours.sample_index]


def _mean(values: Any) -> float | None:
    known = [value for value in values if value is not None]
    return mean(known) if known else None


def summarize(comparisons: Sequence[Comparison], *, confidence: float, seed: int) -> dict[str, Any]:
    """Return win rates over all prompts, controlled for length, and per category, and the policy's mean score."""
    return {
        "mean_score": _mean(row.policy_score for row in comparisons),
        "win_rate": win_rate(comparisons, confidence=confidence).to_dict(),
        "win_rate_length_controlled": length_controlled_win_rate(
            comparisons, seed=seed, confidence=confidence
        ).to_dict(),
        "categories": {
            name: rate.to_dict() for name, rate in win_rate_by_category(comparisons, confidence=confidence).items()
        },
    }
