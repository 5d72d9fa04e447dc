"""What a thought is worth: one policy after its own thought, none, another instruction's, its own cut short."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.config.fields import setting
from tpo.evaluate.measure import EvaluationConfig, EvaluationError, ids, lengths, minus, sides
from tpo.store.records import Comparison

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation


@dataclass
class ThoughtValueEval(EvaluationConfig):
    """How much of a thought is kept where it is cut short."""

    kind: str = setting("thought_value")
    cuts: list[float] = setting([], minimum=0, maximum=1)

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return win rates of one policy after different thoughts, and each one's difference to its own thought's."""
        from tpo.results.stats import holm

        policy, prompts = steps.policy, steps.prompts()
        if not policy.form.has_thought:
            raise EvaluationError(
                f"eval=thought_value: {policy.name} does not think; name a run with thoughts, or set thought=generic"
            )
        baseline = steps.baseline()
        reference = steps.reference(prompts)
        own = steps.answers(policy, prompts)
        answers = {
            "own": steps.intervene(policy, prompts, own, {"kind": "given"}),
            "sampled": own,
            "none": steps.intervene(policy, prompts, own, {"kind": "none"}),
            "other": steps.intervene(policy, prompts, own, {"kind": "other"}),
        }
        for fraction in self.cuts:
            answers[f"cut-{fraction:g}"] = steps.intervene(policy, prompts, own, {"kind": "cut", "fraction": fraction})
        if policy.adapter is not None:
            seeds = steps.answers(policy.seed_model(), prompts)
            answers["seed"] = steps.intervene(policy, prompts, seeds, {"kind": "given"})
        direct = replace(policy, form=policy.settings.direct_form)
        answers["direct"] = steps.answers(direct, prompts)

        comparisons = {name: steps.compare(prompts, artifact, reference) for name, artifact in answers.items()}
        wins = {
            name: {row.prompt_id: row.win for row in comparison.rows(Comparison)}
            for name, comparison in comparisons.items()
        }
        differences = {name: minus(wins[name], wins["own"], prompts, steps) for name in answers if name != "own"}
        p_values = dict(zip(differences, holm([item.p_value for item in differences.values()]), strict=True))
        minus_own = {name: replace(item, adjusted_p_value=p_values[name]) for name, item in differences.items()}
        return {
            **sides(prompts, baseline.name),
            "conditions": [
                {
                    "name": name,
                    "win_rate": comparisons[name].metrics["win_rate"],
                    "minus_own": minus_own[name].to_dict() if name != "own" else None,
                    **lengths(answers[name]),
                    **ids(answers[name], comparisons[name]),
                }
                for name in answers
            ],
        }
