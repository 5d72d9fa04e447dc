"""What kinds of evaluations have in common: their settings, and the parts of a summary.

Rates are fractions, each with its interval, its number of instructions and how many were unscored.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.config.fields import ConfigError
from tpo.config.groups import EvalConfig
from tpo.results.rate import Rate
from tpo.store.artifacts import Artifact
from tpo.store.errors import TpoError
from tpo.store.records import Prompt

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation


class EvaluationError(TpoError):
    """An evaluation that makes no sense for a policy or judge; says what to change."""


@dataclass
class EvaluationConfig(EvalConfig):
    """Settings of an evaluation; each kind has a module in `tpo/evaluate/kinds`."""

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return what this kind adds to `summary.json`, in plain JSON types.

        Args:
            steps: Requests what is needed.
            path: The evaluation's folder, for the files that a benchmark's own tool reads.

        Raises:
            EvaluationError: If it makes no sense for this policy or judge.
        """
        raise NotImplementedError


def require_one_sample(settings: EvalConfig, at: str) -> None:
    """Raise unless a benchmark gets the one answer to each instruction that it scores, of either side."""
    for name in ("num_samples", "baseline_samples"):
        count = getattr(settings, name)
        if count != 1:
            raise ConfigError(
                f"{at}.{name}={count}: eval={settings.kind} takes one answer to each instruction; set {at}.{name}=1"
            )


def versus(steps: "Evaluation", prompts: Artifact) -> tuple[Artifact, str, Artifact]:
    """Return the policy's answers, the baseline's name, and the comparison."""
    answers = steps.answers(steps.policy, prompts)
    return answers, steps.baseline().name, steps.compare(prompts, answers, steps.reference(prompts))


def minus(
    wins: Mapping[str, float | None], others: Mapping[str, float | None], prompts: Artifact, steps: "Evaluation"
) -> Rate:
    """Return the mean difference over the instructions that were scored on both sides; the others are counted."""
    from tpo.results.change import paired_change

    clusters = {prompt.prompt_id: prompt.base_id for prompt in prompts.rows(Prompt)}
    return paired_change(others, wins, clusters, seed=steps.seed("difference"), confidence=steps.config.eval.confidence)


def sides(prompts: Artifact, baseline: str) -> dict[str, Any]:
    """Return what was compared with what, and on which instructions."""
    return {"baseline": baseline, "prompts": prompts.artifact_id}


def lengths(answers: Artifact) -> dict[str, Any]:
    """Return how long answers are, how many of them could be split, and how many thoughts were cut or empty."""
    names = ("mean_thought_tokens", "mean_response_tokens", "format_rate", "parse_rate")
    return {name: answers.metrics[name] for name in (*names, "cut_thought_rate", "empty_thought_rate")}


def ids(answers: Artifact, comparison: Artifact) -> dict[str, Any]:
    """Return the artifacts that the numbers come from."""
    return {"artifacts": {"answers": answers.artifact_id, "comparison": comparison.artifact_id}}
