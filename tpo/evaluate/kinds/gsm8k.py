"""Grade-school mathematics, with a number as the answer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo.config.fields import setting
from tpo.evaluate.benchmarks import Benchmark
from tpo.evaluate.benchmarks.kind import VerifiableEval
from tpo.results.rate import Rate
from tpo.store.records import CheckResult, Response


@dataclass
class Gsm8kEval(VerifiableEval):
    """A file in place of the Hub's, and how many of its instructions are taken (`tpo.evaluate.benchmarks.gsm8k`)."""

    kind: str = setting("gsm8k")

    @classmethod
    def read(cls, config: Mapping[str, Any], paths: Mapping[str, Path], *, seed: int) -> Benchmark:
        """Return the benchmark, of a file or the Hub."""
        from tpo.evaluate.benchmarks import gsm8k

        return gsm8k.load(paths.get("path"), num_prompts=config["num_prompts"], seed=seed)

    @classmethod
    def checks(cls, response: Response, key: dict[str, Any]) -> list[CheckResult]:
        """Return what was checked of a response."""
        from tpo.evaluate.benchmarks import gsm8k

        return gsm8k.checks(response, key)

    @classmethod
    def summarize(cls, rows: Sequence[CheckResult], *, confidence: float) -> dict[str, Rate]:
        """Return the accuracies by name."""
        from tpo.evaluate.benchmarks import gsm8k

        return gsm8k.summarize(rows, confidence=confidence)
