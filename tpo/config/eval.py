"""Schema of the conf group `eval`; `tpo.config.schema` has the others and explains them."""

from dataclasses import dataclass, field

from omegaconf import MISSING

from tpo.config.judge import ClassifierConfig


@dataclass
class EvalConfig:
    """How policies are compared: the part that all kinds share."""

    kind: str = MISSING
    temperature: float = 0.8
    top_p: float = 0.95
    num_samples: int = 1
    no_response: str = "loss"
    confidence: float = 0.95


@dataclass
class HeldOutEval(EvalConfig):
    """On the held-out instructions of the group `prompts`."""

    kind: str = "held_out"


@dataclass
class CategoriesEval(EvalConfig):
    """Gains by category, as the paper's fine-grained evaluation."""

    kind: str = "categories"
    classify: bool = MISSING
    categories: list[str] = field(default_factory=list)
    per_category: int = MISSING
    classifier: ClassifierConfig = field(default_factory=ClassifierConfig)


@dataclass
class AlpacaEvalEval(EvalConfig):
    """AlpacaEval 2."""

    kind: str = "alpaca_eval"
    path: str | None = None
    length_control: str = MISSING


@dataclass
class ArenaHardEval(EvalConfig):
    """Arena-Hard."""

    kind: str = "arena_hard"
    version: str = MISSING
    path: str | None = None
    answers_path: str | None = None
    reference: str = MISSING


@dataclass
class Gsm8kEval(EvalConfig):
    """Grade-school mathematics."""

    kind: str = "gsm8k"
    path: str | None = None
    num_prompts: int | None = None


@dataclass
class IfevalEval(EvalConfig):
    """Verifiable instructions."""

    kind: str = "ifeval"
    path: str | None = None
    num_prompts: int | None = None


@dataclass
class ThoughtValueEval(EvalConfig):
    """What a thought is worth: interventions on it."""

    kind: str = "thought_value"
    cuts: list[float] = field(default_factory=list)


@dataclass
class ThoughtBudgetEval(EvalConfig):
    """Win rate against the thought's token budget."""

    kind: str = "thought_budget"
    budgets: list[int] = field(default_factory=list)
