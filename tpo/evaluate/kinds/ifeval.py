"""Instructions whose fulfilment a program can check."""

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
class IfevalEval(VerifiableEval):
    """A file in place of the Hub's, and how many of its instructions are taken (`tpo.evaluate.benchmarks.ifeval`)."""

    kind: str = setting("ifeval")

    @classmethod
    def read(cls, config: Mapping[str, Any], paths: Mapping[str, Path], *, seed: int) -> Benchmark:
        """Return the benchmark, of a file or the Hub."""
        from tpo.evaluate.benchmarks import ifeval

        found = ifeval.load(paths.get("path"), num_prompts=config["num_prompts"], seed=seed)
        ifeval.require(found.keys.values())  # before anything is sampled
        return found

    @classmethod
    def checks(cls, response: Response, key: dict[str, Any]) -> list[CheckResult]:
        """Return what was checked of a response."""
        from tpo.evaluate.benchmarks import ifeval

        return ifeval.checks(response, key)

    @classmethod
    def summarize(cls, rows: Sequence[CheckResult], *, confidence: float) -> dict[str, Rate]:
        """Return the accuracies by name."""
        from tpo.evaluate.benchmarks import ifeval

        return ifeval.summarize(rows, confidence=confidence)
