"""Kinds of evaluations: the settings of each, and their rules."""

from dataclasses import dataclass

from tpo.config.fields import ConfigError, setting
from tpo.config.groups import EvalConfig
from tpo.evaluate.categories import ClassifierConfig


def require_one_sample(settings: EvalConfig, at: str) -> None:
    """Raise unless a benchmark gets the one answer to each instruction that it scores."""
    if settings.num_samples != 1:
        raise ConfigError(
            f"{at}.num_samples={settings.num_samples}: eval={settings.kind} takes one answer to each instruction; set "
            f"{at}.num_samples=1"
        )


@dataclass
class HeldOutEval(EvalConfig):
    """On the held-out instructions of the group `prompts`."""

    kind: str = setting("held_out")


@dataclass
class CategoriesEval(EvalConfig):
    """Gains by category, as the paper's fine-grained evaluation."""

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


@dataclass
class AlpacaEvalEval(EvalConfig):
    """AlpacaEval 2."""

    kind: str = setting("alpaca_eval")
    path: str | None = setting(None, is_file=True)
    length_control: str = setting(choices=("auto", "official", "fixed_slope"))

    def check(self, at: str) -> None:
        """Check that there is one answer to each instruction."""
        require_one_sample(self, at)


@dataclass
class ArenaHardEval(EvalConfig):
    """Arena-Hard."""

    kind: str = setting("arena_hard")
    version: str = setting(choices=("v0.1", "v2.0"))
    path: str | None = setting(None, is_file=True)
    answers_path: str | None = setting(None, is_file=True)
    reference: str = setting()

    def check(self, at: str) -> None:
        """Check that there is one answer to each instruction."""
        require_one_sample(self, at)


@dataclass
class Gsm8kEval(EvalConfig):
    """Grade-school mathematics."""

    kind: str = setting("gsm8k")
    path: str | None = setting(None, is_file=True)
    num_prompts: int | None = setting(None, minimum=1)


@dataclass
class IfevalEval(EvalConfig):
    """Verifiable instructions."""

    kind: str = setting("ifeval")
    path: str | None = setting(None, is_file=True)
    num_prompts: int | None = setting(None, minimum=1)


@dataclass
class ThoughtValueEval(EvalConfig):
    """What a thought is worth: interventions on it."""

    kind: str = setting("thought_value")
    cuts: list[float] = setting([], minimum=0, maximum=1)


@dataclass
class ThoughtBudgetEval(EvalConfig):
    """Win rate against the thought's token budget."""

    kind: str = setting("thought_budget")
    budgets: list[int] = setting([], minimum=0)

    def check(self, at: str) -> None:
        """Check that there is a budget."""
        if not self.budgets:
            raise ConfigError(f"{at}.budgets is empty: give one or more token counts, 0 or above")
