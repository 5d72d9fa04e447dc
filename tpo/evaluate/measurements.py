"""What each kind of evaluation measures: the steps that it requests and its part of the summary.

Every function gets the steps (`tpo.evaluate.steps.Evaluation`) and returns its part of `summary.json`, in plain JSON
types. Rates are fractions, each with its interval, its number of instructions and how many were unscored.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import mean
from typing import Any

from tpo.config.thought import DIRECT
from tpo.evaluate.benchmarks import Benchmark
from tpo.evaluate.benchmarks.load import open_benchmark
from tpo.evaluate.kinds import AlpacaEvalEval, ArenaHardEval, Gsm8kEval, IfevalEval, ThoughtBudgetEval, ThoughtValueEval
from tpo.evaluate.length_control import ALPACA_EVAL_SLOPE, estimate_length_controlled
from tpo.evaluate.steps import Evaluation
from tpo.judge.judges.llm_pairwise import PairwiseLLMJudge
from tpo.judge.score import visible
from tpo.results.rate import Rate
from tpo.results.stats import holm, paired_difference
from tpo.results.winrate import corrected_by_category
from tpo.store.artifacts import Artifact
from tpo.store.errors import TpoError
from tpo.store.records import Check, Comparison, Completion, Response, Verdict

log = logging.getLogger(__name__)


class EvaluationError(TpoError):
    """An evaluation that makes no sense for a policy or judge; says what to change."""


def held_out(steps: Evaluation) -> dict[str, Any]:
    """The policy's win rate against the baseline on held-out instructions, overall and by category."""
    prompts = steps.prompts()
    answers, baseline, comparison = _versus(steps, prompts)
    return {**_sides(prompts, baseline), **comparison.metrics, **_lengths(answers), **_ids(answers, comparison)}


def categories(steps: Evaluation) -> dict[str, Any]:
    """The win rate of every category, with tests and intervals that allow for looking at all of them at once."""
    prompts = steps.prompts()
    answers, baseline, comparison = _versus(steps, prompts)
    rates = corrected_by_category(
        comparison.rows(Comparison), seed=steps.seed("gains"), confidence=steps.config.eval.confidence
    )
    return {
        **_sides(prompts, baseline),
        "overall": comparison.metrics["win_rate"],
        "win_rate_length_controlled": comparison.metrics["win_rate_length_controlled"],
        "categories": {name: rate.to_dict() for name, rate in rates.items()},
        "drops": prompts.metrics["drops"],
        **_lengths(answers),
        **_ids(answers, comparison),
    }


def thought_value(steps: Evaluation, settings: ThoughtValueEval) -> dict[str, Any]:
    """Win rates of one policy after different thoughts, and each one's difference to its own thought's."""
    policy, prompts = steps.policy, steps.prompts()
    if not policy.form.has_thought:
        raise EvaluationError(
            f"eval=thought_value: {policy.name} does not think; name a run with thoughts, or set thought=generic"
        )
    baseline = steps.baseline()
    reference = steps.answers(baseline, prompts, role="baseline", num_samples=1)
    own = steps.answers(policy, prompts)
    answers = {
        "own": steps.intervene(policy, prompts, own, {"kind": "given"}),
        "sampled": own,
        "none": steps.intervene(policy, prompts, own, {"kind": "none"}),
        "other": steps.intervene(policy, prompts, own, {"kind": "other"}),
    }
    for fraction in settings.cuts:
        answers[f"cut-{fraction:g}"] = steps.intervene(policy, prompts, own, {"kind": "cut", "fraction": fraction})
    if policy.adapter is not None:
        seeds = steps.answers(policy.seed_model(), prompts)
        answers["seed"] = steps.intervene(policy, prompts, seeds, {"kind": "given"})
    direct = replace(policy, form=DIRECT)
    answers["direct"] = steps.answers(direct, prompts)

    comparisons = {name: steps.compare(prompts, artifact, reference) for name, artifact in answers.items()}
    wins = {
        name: {row.prompt_id: row.win for row in comparison.rows(Comparison)}
        for name, comparison in comparisons.items()
    }
    differences = {name: _minus(wins[name], wins["own"], steps) for name in answers if name != "own"}
    p_values = dict(zip(differences, holm([item.p_value for item in differences.values()]), strict=True))
    minus_own = {name: replace(item, adjusted_p_value=p_values[name]) for name, item in differences.items()}
    return {
        **_sides(prompts, baseline.name),
        "conditions": [
            {
                "name": name,
                "win_rate": comparisons[name].metrics["win_rate"],
                "minus_own": minus_own[name].to_dict() if name != "own" else None,
                **_lengths(answers[name]),
                **_ids(answers[name], comparisons[name]),
            }
            for name in answers
        ],
    }


def thought_budget(steps: Evaluation, settings: ThoughtBudgetEval) -> dict[str, Any]:
    """Win rate against the token budget of the thought."""
    policy, prompts = steps.policy, steps.prompts()
    if policy.form.switch is None:
        raise EvaluationError(
            f"eval=thought_budget: {policy.name} ends its thoughts by itself, so no budget limits them alone; it "
            "needs a thought format with thought.enforce=switch"
        )
    baseline = steps.baseline()
    reference = steps.answers(baseline, prompts, role="baseline", num_samples=1)
    budgets = []
    for budget in sorted(settings.budgets):
        if budget > 0:
            answers = steps.answers(policy, prompts, max_thought_tokens=budget)
        else:
            answers = steps.intervene(policy, prompts, steps.answers(policy, prompts), {"kind": "none"})
        comparison = steps.compare(prompts, answers, reference)
        budgets.append(
            {
                "max_thought_tokens": budget,
                "win_rate": comparison.metrics["win_rate"],
                "win_rate_length_controlled": comparison.metrics["win_rate_length_controlled"],
                **_lengths(answers),
                **_ids(answers, comparison),
            }
        )
    return {**_sides(prompts, baseline.name), "budgets": budgets}


def alpaca_eval(steps: Evaluation, path: Path, settings: AlpacaEvalEval) -> dict[str, Any]:
    """Win rate and length-controlled win rate on AlpacaEval 2; writes `model_outputs.json` and `annotations.json`."""
    from tpo.evaluate.benchmarks import alpaca_eval as benchmark_of

    artifact = steps.benchmark({"name": "alpaca_eval", "path": settings.path})
    answers = steps.answers(steps.policy, artifact)
    name, reference = benchmark_of.BASELINE, None
    if steps.config.baseline is not None:
        baseline = steps.baseline()
        name, reference = baseline.name, steps.answers(baseline, artifact, role="baseline", num_samples=1)
    comparison = steps.compare(artifact, answers, reference)
    benchmark, responses = open_benchmark(artifact), visible([answers.rows(Completion)])
    if reference is not None:
        texts = visible([reference.rows(Completion)])
        keys = {key: {**value, "generator": name} for key, value in benchmark.keys.items()}
        benchmark = benchmark._replace(baseline=texts, keys=keys)
    wins = {row.prompt_id: row.win for row in comparison.rows(Comparison)}
    generator, judge = steps.policy.name, steps.config.judge
    annotator = benchmark_of.ANNOTATOR if judge.kind == "alpaca_eval" else judge.kind
    benchmark_of.write_outputs(path / "model_outputs.json", benchmark, responses, generator=generator)
    benchmark_of.write_annotations(
        path / "annotations.json", benchmark, responses, wins, generator=generator, annotator=annotator
    )
    return {
        "baseline": name,
        "prompts": artifact.artifact_id,
        "win_rate": comparison.metrics["win_rate"],
        "win_rate_length_controlled": _at_equal_length(steps, settings, benchmark, responses, wins).to_dict(),
        "mean_response_characters": mean(len(row.text or "") for row in responses),
        **_lengths(answers),
        **_ids(answers, comparison),
    }


def _at_equal_length(
    steps: Evaluation,
    settings: AlpacaEvalEval,
    benchmark: Benchmark,
    responses: Sequence[Response],
    wins: Mapping[str, float | None],
) -> Rate:
    """The length-controlled win rate by the estimator that is asked for or, where that is "auto", can be had.

    What the official estimator and the fixed slope know of the annotator's taste for length is GPT-4-turbo's, so any
    other judge's is fitted.
    """
    from tpo.evaluate.benchmarks.alpaca_eval import AlpacaEvalError, length_gaps, official_length_controlled

    seed, confidence = steps.seed("length"), settings.confidence
    is_official_judge = steps.config.judge.kind == "alpaca_eval"
    if settings.length_control == "official" or (settings.length_control == "auto" and is_official_judge):
        try:
            return official_length_controlled(benchmark, responses, wins, seed=seed, confidence=confidence)
        except AlpacaEvalError as error:
            if settings.length_control == "official":
                raise
            log.warning("length-controlled win rate with a fixed slope in place of the official one: %s", error)
    has_slope = settings.length_control == "fixed_slope" or is_official_judge
    ordered = [wins[prompt.prompt_id] for prompt in benchmark.prompts]
    return estimate_length_controlled(
        ordered,
        length_gaps(benchmark, responses),
        seed=seed,
        slope=ALPACA_EVAL_SLOPE if has_slope else None,
        confidence=confidence,
    )


def arena_hard(steps: Evaluation, path: Path, settings: ArenaHardEval) -> dict[str, Any]:
    """The score of Arena-Hard; writes `model_answer.jsonl` and `model_judgment.jsonl` for the official scripts."""
    from tpo.evaluate.benchmarks import arena_hard as benchmark_of
    from tpo.evaluate.benchmarks.arena_score import arena_score, arena_score_v2, complete_verdicts

    if steps.config.baseline is not None:
        raise EvaluationError("eval=arena_hard: the score is against the benchmark's own answers; set baseline=null")
    artifact = steps.benchmark(
        {
            "name": "arena_hard",
            "path": settings.path,
            "answers_path": settings.answers_path,
            "reference": settings.reference,
            "version": settings.version,
        }
    )
    answers = steps.answers(steps.policy, artifact)
    both = {"prompts": artifact, "completions_0": answers, "references": artifact}
    verdicts = steps.judging.verdicts(both, against=1)
    benchmark, responses = open_benchmark(artifact), visible([answers.rows(Completion)])
    games = complete_verdicts(verdicts.rows(Verdict), benchmark, responses, no_response=settings.no_response)
    assert isinstance(steps.config.judge, PairwiseLLMJudge)  # checked by tpo.config.check
    model, judge = steps.policy.name, str(steps.config.judge.name)
    benchmark_of.write_answers(path / "model_answer.jsonl", benchmark, responses, model=model)
    benchmark_of.write_judgements(path / "model_judgment.jsonl", benchmark, games, model=model, judge=judge)
    seed, confidence = steps.seed("arena"), settings.confidence
    if settings.version == "v2.0":
        score = arena_score_v2(games, baseline=settings.reference, seed=seed, confidence=confidence)
    else:
        score = arena_score(games, seed=seed, confidence=confidence)
    return {
        "prompts": artifact.artifact_id,
        **score.to_dict(),
        **_lengths(answers),
        **_ids(answers, verdicts),
    }


def checked(steps: Evaluation, settings: Gsm8kEval | IfevalEval) -> dict[str, Any]:
    """How many answers a program finds right, and the difference to a baseline where one is named."""
    benchmark = steps.benchmark({"name": settings.kind, "path": settings.path, "num_prompts": settings.num_prompts})
    answers = steps.answers(steps.policy, benchmark)
    found = steps.check(benchmark, answers)
    result = {
        "num_prompts": benchmark.metrics["num_prompts"],
        **found.metrics,
        **_lengths(answers),
        **_ids(answers, found),
    }
    if steps.config.baseline is None:
        return result
    baseline = steps.baseline()
    other = steps.check(benchmark, steps.answers(baseline, benchmark))
    ours, theirs = _passed(found), _passed(other)
    return {
        **result,
        "baseline": baseline.name,
        "baseline_accuracy": other.metrics["accuracy"],
        "baseline_num_no_response": other.metrics["num_no_response"],
        "minus_baseline": {rule: _minus(ours[rule], theirs[rule], steps).to_dict() for rule in ours},
    }


def _passed(checks: Artifact) -> dict[str, dict[str, float | None]]:
    """Return rule -> prompt_id -> the fraction of its checks that passed."""
    passed: dict[str, dict[str, list[bool]]] = {}
    for row in checks.rows(Check):
        passed.setdefault(row.rule, {}).setdefault(row.prompt_id, []).append(row.is_passed)
    return {rule: {key: mean(values) for key, values in found.items()} for rule, found in passed.items()}


def _versus(steps: Evaluation, prompts: Artifact) -> tuple[Artifact, str, Artifact]:
    """Return the policy's answers, the baseline's name, and the comparison."""
    answers, baseline = steps.answers(steps.policy, prompts), steps.baseline()
    reference = steps.answers(baseline, prompts, role="baseline", num_samples=1)
    return answers, baseline.name, steps.compare(prompts, answers, reference)


def _minus(wins: Mapping[str, float | None], others: Mapping[str, float | None], steps: Evaluation) -> Rate:
    """Return the mean difference over the instructions that were scored on both sides."""
    shared = [(wins[key], others[key]) for key in wins if wins[key] is not None and others[key] is not None]
    confidence = steps.config.eval.confidence
    first, second = ([float(pair[side] or 0.0) for pair in shared] for side in (0, 1))
    return paired_difference(first, second, seed=steps.seed("difference"), confidence=confidence)


def _sides(prompts: Artifact, baseline: str) -> dict[str, Any]:
    return {"baseline": baseline, "prompts": prompts.artifact_id}


def _lengths(answers: Artifact) -> dict[str, Any]:
    names = ("mean_thought_tokens", "mean_response_tokens", "format_rate", "parse_rate")
    return {name: answers.metrics[name] for name in names}


def _ids(answers: Artifact, comparison: Artifact) -> dict[str, Any]:
    return {"artifacts": {"answers": answers.artifact_id, "comparison": comparison.artifact_id}}
