"""Evaluations on a public benchmark: what each of them reads, and how a program checks answers."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, ClassVar

from tpo.config.fields import setting
from tpo.evaluate.benchmarks import Benchmark
from tpo.evaluate.measure import EvaluationConfig, ids, lengths, minus
from tpo.results.rate import Rate
from tpo.store.artifacts import Artifact
from tpo.store.records import CheckResult, Prompt, Response

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation


@dataclass
class BenchmarkEval(EvaluationConfig):
    """An evaluation on a benchmark, which its stage reads by the evaluation's kind."""

    @classmethod
    def read(cls, config: Mapping[str, Any], paths: Mapping[str, Path], *, seed: int) -> Benchmark:
        """Return the benchmark.

        Args:
            config: Of the stage, without paths.
            paths: Local files, by the key that names them; without one, the Hub's.
            seed: Of a choice of instructions.
        """
        raise NotImplementedError


@dataclass
class VerifiableEval(BenchmarkEval):
    """A benchmark whose answers a program checks, without a judge."""

    asks_judge: ClassVar[bool] = False

    path: str | None = setting(None, is_file=True)
    num_prompts: int | None = setting(None, minimum=1)

    @classmethod
    def checks(cls, response: Response, key: dict[str, Any]) -> list[CheckResult]:
        """Return what was checked of a response; `key` is the benchmark's, of its instruction."""
        raise NotImplementedError

    @classmethod
    def summarize(cls, rows: Sequence[CheckResult], *, confidence: float) -> dict[str, Rate]:
        """Return the accuracies by name."""
        raise NotImplementedError

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return how many answers a program finds right, and the difference to a baseline where one is named."""
        benchmark = steps.benchmark({"name": self.kind, "path": self.path, "num_prompts": self.num_prompts})
        answers = steps.answers(steps.policy, benchmark)
        found = steps.check(benchmark, answers)
        result = {
            "num_prompts": benchmark.metrics["num_prompts"],
            **found.metrics,
            **lengths(answers),
            **ids(answers, found),
        }
        if steps.config.baseline is None:
            return result
        baseline = steps.baseline()
        other = steps.check(benchmark, steps.reference(benchmark))
        ours, theirs = passed(found), passed(other)
        return {
            **result,
            "baseline": baseline.name,
            "baseline_accuracy": other.metrics["accuracy"],
            "baseline_num_no_response": other.metrics["num_no_response"],
            "minus_baseline": {rule: minus(ours[rule], theirs[rule], benchmark, steps).to_dict() for rule in ours},
        }


def passed(checks: Artifact) -> dict[str, dict[str, float | None]]:
    """Return rule -> prompt_id -> the fraction of its checks that passed."""
    passed: dict[str, dict[str, list[bool]]] = {}
    for row in checks.rows(CheckResult):
        passed.setdefault(row.rule, {}).setdefault(row.prompt_id, []).append(row.is_passed)
    return {rule: {key: mean(values) for key, values in found.items()} for rule, found in passed.items()}


def read_keys(benchmark: Artifact) -> dict[str, dict[str, Any]]:
    """Return a benchmark's keys by prompt id."""
    keys: dict[str, dict[str, Any]] = json.loads(benchmark.verified("keys.json").read_text())
    return keys


def open_benchmark(benchmark: Artifact) -> Benchmark:
    """Return the benchmark that an artifact of the stage "benchmark" holds."""
    return Benchmark(
        prompts=list(benchmark.rows(Prompt)),
        baseline=list(benchmark.rows(Response, "references.jsonl")),
        keys=read_keys(benchmark),
    )
