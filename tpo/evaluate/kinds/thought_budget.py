"""Win rate against the token budget of the thought."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.config.fields import ConfigError, setting
from tpo.evaluate.measure import EvaluationConfig, EvaluationError, ids, lengths, sides

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation


@dataclass
class ThoughtBudgetEval(EvaluationConfig):
    """The budgets."""

    kind: str = setting("thought_budget")
    budgets: list[int] = setting([], minimum=0)

    def check(self, at: str) -> None:
        """Check that there is a budget."""
        if not self.budgets:
            raise ConfigError(f"{at}.budgets is empty: give one or more token counts, 0 or above")

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return the win rate at every budget."""
        policy, prompts = steps.policy, steps.prompts()
        if not policy.form.forces_switch:
            raise EvaluationError(
                f"eval=thought_budget: {policy.name} ends its thoughts by itself, so no budget limits them alone; it "
                "needs a thought format with thought.enforce=switch"
            )
        baseline = steps.baseline()
        reference = steps.reference(prompts)
        budgets = []
        for budget in sorted(self.budgets):
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
                    **lengths(answers),
                    **ids(answers, comparison),
                }
            )
        return {**sides(prompts, baseline.name), "budgets": budgets}
