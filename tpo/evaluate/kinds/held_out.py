"""Win rate on the held-out instructions of the group `prompts`: what a run compares its policies by."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.config.fields import setting
from tpo.config.groups import JudgeConfig
from tpo.evaluate.measure import EvaluationConfig, ids, lengths, sides, versus
from tpo.store.records import Comparison

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation


@dataclass
class HeldOutEval(EvaluationConfig):
    """Overall and by category, with the controls that a run may have.

    Attributes:
        null_control: Whether further draws of the baseline, in a run the untrained direct policy, are compared with it.
        judge: Another judge than the one that teaches, which compares the same answers; None for none.
    """

    kind: str = setting("held_out")
    null_control: bool = setting(False)
    judge: Any = setting(None, of=JudgeConfig)

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return the policy's win rate against the baseline on held-out instructions, overall and by category."""
        from tpo.results.change import null_control, second_judge

        prompts = steps.prompts()
        answers, baseline, comparison = versus(steps, prompts)
        found = {**sides(prompts, baseline), **comparison.metrics, **lengths(answers), **ids(answers, comparison)}
        if steps.config.prompts.has_checks:
            found["checked"] = steps.checked(prompts, answers).metrics
            found["baseline_checked"] = steps.checked(prompts, steps.reference(prompts)).metrics
        if self.judge is not None:
            second = steps.compare(prompts, answers, steps.reference(prompts), judging=steps.judging_by(self.judge))
            rows, others = list(comparison.rows(Comparison)), list(second.rows(Comparison))
            found["second_judge"] = second_judge(self.judge.title, rows, others, confidence=self.confidence)
        if self.null_control:
            direct = steps.baseline()
            # A run without thoughts has them in its untrained policy's answers.
            is_direct = steps.config.baseline is None and steps.policy.form == direct.form
            draws = steps.answers(direct, prompts, role="answer" if is_direct else "null_control")
            control = steps.compare(prompts, draws, steps.reference(prompts))
            found["null_control"] = null_control(list(control.rows(Comparison)), confidence=self.confidence)
        return found
