"""The paper's fine-grained evaluation: the win rate of every category."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.config.fields import ConfigError, setting
from tpo.evaluate.categories import ClassifierConfig
from tpo.evaluate.measure import EvaluationConfig, ids, lengths, sides, versus
from tpo.evaluate.stages import classify
from tpo.store.records import Comparison

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation


@dataclass
class CategoriesEval(EvaluationConfig):
    """What instructions are sorted into, by which model, and how many of each category are taken."""

    kind: str = setting("categories")
    classify: bool = setting()
    categories: list[str] = setting([])
    per_category: int = setting(minimum=0)
    classifier: ClassifierConfig = setting(ClassifierConfig)

    def check(self, at: str) -> None:
        """Check that there is something to sort into, and a model that can be asked, where one is."""
        if not self.classify:
            return
        for place in ("{instruction}", "{categories}"):
            if place not in self.classifier.prompt:
                raise ConfigError(f"{at}.classifier.prompt has no {place}")
        if self.classifier.name is None:
            raise ConfigError(f"{at}.classifier.name is null: name the model that sorts the instructions")
        if not self.categories:
            raise ConfigError(f"{at}.categories is empty: there is nothing to sort into")

    def measure(self, steps: "Evaluation", path: Path) -> dict[str, Any]:
        """Return the win rate of every category; tests and intervals allow for looking at all of them at once."""
        from tpo.results.winrate import corrected_by_category

        prompts = classify(
            steps.store,
            steps.prompts(),
            categories=self.categories,
            per_category=self.per_category,
            classifier=self.classifier if self.classify else None,
            seed=steps.seed("classify"),
        )
        answers, baseline, comparison = versus(steps, prompts)
        rates = corrected_by_category(
            list(comparison.rows(Comparison)), seed=steps.seed("gains"), confidence=steps.config.eval.confidence
        )
        return {
            **sides(prompts, baseline),
            "overall": comparison.metrics["win_rate"],
            "win_rate_length_controlled": comparison.metrics["win_rate_length_controlled"],
            "categories": {name: rate.to_dict() for name, rate in rates.items()},
            "drops": prompts.metrics["drops"],
            **lengths(answers),
            **ids(answers, comparison),
        }
