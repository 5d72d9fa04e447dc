"""Win rate on the held-out instructions of the group `prompts`."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.config.fields import setting
from tpo.evaluate.measure import EvaluationConfig, ids, lengths, sides, versus

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation


@dataclass
class HeldOutEval(EvaluationConfig):
    """Overall and by category; it has no settings of its own."""

    kind: str = setting("held_out")

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return the policy's win rate against the baseline on held-out instructions, overall and by category."""
        prompts = steps.prompts()
        answers, baseline, comparison = versus(steps, prompts)
        return {**sides(prompts, baseline), **comparison.metrics, **lengths(answers), **ids(answers, comparison)}
