"""AlpacaEval 2: win rate, plain and length-controlled, against the benchmark's own answers or a policy's."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from tpo.config.fields import setting
from tpo.evaluate.benchmarks import Benchmark
from tpo.evaluate.benchmarks.kind import BenchmarkEval, open_benchmark
from tpo.evaluate.measure import ids, lengths, require_one_sample
from tpo.judge.responses import visible
from tpo.results.rate import Rate
from tpo.store.records import Comparison, Completion, Response

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation

log = logging.getLogger(__name__)


@dataclass
class AlpacaEvalEval(BenchmarkEval):
    """A file in place of the Hub's, and how win rates at equal length are estimated."""

    kind: str = setting("alpaca_eval")
    path: str | None = setting(None, is_file=True)
    length_control: str = setting(choices=("auto", "official", "fixed_slope"))

    def check(self, at: str) -> None:
        """Check that there is one answer to each instruction."""
        require_one_sample(self, at)

    @classmethod
    def read(cls, config: Mapping[str, Any], paths: Mapping[str, Path], *, seed: int) -> Benchmark:
        """Return the benchmark, of a file or the Hub."""
        from tpo.evaluate.benchmarks import alpaca_eval

        return alpaca_eval.load(paths.get("path"))

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return both win rates; writes `model_outputs.json` and `annotations.json`, as the official package does."""
        from tpo.evaluate.benchmarks import alpaca_eval as benchmark_of

        artifact = steps.benchmark({"name": "alpaca_eval", "path": self.path})
        answers = steps.answers(steps.policy, artifact)
        name, reference = benchmark_of.BASELINE, None
        if steps.config.baseline is not None:
            baseline = steps.baseline()
            name, reference = baseline.name, steps.reference(artifact)
        comparison = steps.compare(artifact, answers, reference)
        benchmark, responses = open_benchmark(artifact), list(visible(answers.rows(Completion)))
        if reference is not None:
            texts = list(visible(reference.rows(Completion)))
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
            "win_rate_length_controlled": self._at_equal_length(steps, benchmark, responses, wins).to_dict(),
            "mean_response_characters": mean(len(row.text or "") for row in responses),
            **lengths(answers),
            **ids(answers, comparison),
        }

    def _at_equal_length(
        self,
        steps: "Evaluation",
        benchmark: Benchmark,
        responses: Sequence[Response],
        wins: Mapping[str, float | None],
    ) -> Rate:
        """Return the length-controlled win rate by the estimator that is asked for, or by the best there is.

        What the official estimator and the fixed slope know of the annotator's taste for length is GPT-4-turbo's, so
        any other judge's is fitted.
        """
        from tpo.evaluate.benchmarks.alpaca_eval import AlpacaEvalError, length_gaps, official_length_controlled
        from tpo.evaluate.length_control import ALPACA_EVAL_SLOPE, estimate_length_controlled

        seed, confidence = steps.seed("length"), self.confidence
        is_official_judge = steps.config.judge.kind == "alpaca_eval"
        if self.length_control == "official" or (self.length_control == "auto" and is_official_judge):
            try:
                return official_length_controlled(benchmark, responses, wins, seed=seed, confidence=confidence)
            except AlpacaEvalError as error:
                if self.length_control == "official":
                    raise
                log.warning("length-controlled win rate with a fixed slope in place of the official one: %s", error)
        has_slope = self.length_control == "fixed_slope" or is_official_judge
        ordered = [wins[prompt.prompt_id] for prompt in benchmark.prompts]
        return estimate_length_controlled(
            ordered,
            length_gaps(benchmark, responses),
            seed=seed,
            slope=ALPACA_EVAL_SLOPE if has_slope else None,
            confidence=confidence,
        )
