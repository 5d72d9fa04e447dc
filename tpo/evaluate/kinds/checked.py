"""The share of held-out instructions whose own checks the policy passes: no judge is asked."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from tpo.config.fields import setting
from tpo.evaluate.measure import EvaluationConfig, EvaluationError, lengths, sides
from tpo.store.records import CheckResult, Prompt

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation


@dataclass
class CheckedEval(EvaluationConfig):
    """Strict and loose, of types that were trained on and others, by type; it has no settings of its own."""

    asks_judge: ClassVar[bool] = False

    kind: str = setting("checked")

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return the policy's rates, the baseline's, and the differences over the same instructions.

        Raises:
            EvaluationError: If the instructions have no checks.
        """
        source = steps.config.prompts
        if not source.has_checks:
            raise EvaluationError(
                f"eval=checked needs instructions with checks, which prompts={source.kind} has not: use prompts=checked"
            )
        from tpo.results.checked import checked_change

        prompts, baseline = steps.prompts(), steps.baseline()
        answers = steps.answers(steps.policy, prompts)
        ours = steps.checked(prompts, answers)
        theirs = steps.checked(prompts, steps.reference(prompts))
        return {
            **sides(prompts, baseline.name),
            **ours.metrics,
            **lengths(answers),
            "baseline_checked": theirs.metrics,
            "minus_baseline": checked_change(
                list(theirs.rows(CheckResult)),
                list(ours.rows(CheckResult)),
                bases={prompt.prompt_id: prompt.base_id for prompt in prompts.rows(Prompt)},
                unseen=ours.metrics["unseen_types"],
                confidence=self.confidence,
                seed=steps.seed("difference"),
            ),
            "artifacts": {"answers": answers.artifact_id, "checked": ours.artifact_id},
        }
