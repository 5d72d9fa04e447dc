"""Schema of the conf groups `judge` and `rating`; `tpo.config.schema` has the others and explains them."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING


@dataclass
class JudgeConfig:
    """What judges responses: the part that all kinds share."""

    kind: str = MISSING


@dataclass
class LengthJudge(JudgeConfig):
    """The number of characters: what any judge must beat."""

    kind: str = "length"


@dataclass
class RandomJudge(JudgeConfig):
    """A number that depends on nothing but instruction and response: what chance gives."""

    kind: str = "random"


@dataclass
class LikelihoodJudge(JudgeConfig):
    """The frozen seed model's log-likelihood of the response."""

    kind: str = "likelihood"
    normalization: str = MISSING
    subtract_prior: bool = MISSING
    batch_tokens: int = MISSING


@dataclass
class SelfRatingJudge(JudgeConfig):
    """The frozen seed model's own yes or no."""

    kind: str = "self_rating"
    question: str = MISSING
    positive: str = "Yes"
    negative: str = "No"
    batch_tokens: int = MISSING


@dataclass
class RewardModelJudge(JudgeConfig):
    """A sequence-classification reward model."""

    kind: str = "reward_model"
    name: str = MISSING
    revision: str | None = None
    dtype: str = "bfloat16"
    max_tokens: int = MISSING
    batch_tokens: int = MISSING


@dataclass
class ArmoRMJudge(RewardModelJudge):
    """ArmoRM: reward heads for many objectives, mixed by a gate."""

    kind: str = "armorm"


@dataclass
class ServerConfig:
    """An OpenAI-compatible server."""

    base_url: str | None = None
    api_key_env: str = "OPENAI_API_KEY"
    max_concurrency: int = 16
    max_retries: int = 6
    patience_s: float = 600.0
    timeout_s: float = 300.0


@dataclass
class LocalLLMConfig:
    """vLLM in a process beside the run's, or in several."""

    dtype: str = "bfloat16"
    max_model_len: int = 8192
    max_num_seqs: int = 256
    gpu_memory_utilization: float = 0.9
    enforce_eager: bool = False
    tensor_parallel_size: int = 1
    data_parallel_size: int = 1


@dataclass
class LLMJudgeConfig(JudgeConfig):
    """A language model that judges: the part that all kinds share."""

    backend: str = MISSING
    name: str | None = None
    revision: str | None = None
    temperature: float = 0.0
    max_tokens: int = MISSING
    max_calls: int | None = None
    server: ServerConfig = field(default_factory=ServerConfig)
    vllm: LocalLLMConfig = field(default_factory=LocalLLMConfig)


@dataclass
class PromptedLLMJudge(LLMJudgeConfig):
    """One whose prompt is a setting."""

    system: str | None = None
    prompt: str = MISSING


@dataclass
class ClassifierConfig(PromptedLLMJudge):
    """Not a judge, but asked like one: sorts instructions into categories (`tpo.evaluate.categories`)."""

    kind: str = "classifier"


@dataclass
class PairwiseLLMJudge(PromptedLLMJudge):
    """Verdicts on two responses at a time."""

    kind: str = "llm_pairwise"
    verdicts: str = MISSING
    strong_weight: float = 3.0
    orders: str = "both"


@dataclass
class AlpacaEvalJudge(LLMJudgeConfig):
    """AlpacaEval 2's annotator: how surely one of two responses is better."""

    kind: str = "alpaca_eval"
    orders: str = "random"


@dataclass
class PointwiseLLMJudge(PromptedLLMJudge):
    """A score by a rubric."""

    kind: str = "llm_pointwise"
    min_score: int = 1
    max_score: int = 5
    use_logprobs: bool = True


@dataclass
class EnsembleJudge(JudgeConfig):
    """A weighted sum of other judges' scores, each normalized within an instruction."""

    kind: str = "ensemble"
    members: dict[str, Any] = field(default_factory=dict)
    weights: dict[str, float] = field(default_factory=dict)


@dataclass
class RatingConfig:
    """How verdicts on pairs become a rating of each response: the part that all kinds share."""

    kind: str = MISSING


@dataclass
class EloRating(RatingConfig):
    """Elo, averaged over orders of the games."""

    kind: str = "elo"
    k_factor: float = MISSING
    num_orders: int = MISSING


@dataclass
class BradleyTerryRating(RatingConfig):
    """The Bradley-Terry model's strengths."""

    kind: str = "bradley_terry"
    prior_precision: float = MISSING


@dataclass
class WinCountRating(RatingConfig):
    """The fraction of games won."""

    kind: str = "win_count"
