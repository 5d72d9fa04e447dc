"""The judge that a config asks for."""

from pathlib import Path
from typing import Any

from tpo.judge.protocol import Judge, PairwiseJudge
from tpo.model.policy import Policy


def load_judge(config: dict[str, Any], *, policy: Policy | None, answers_path: Path) -> Judge:
    """Return the pointwise judge that `config` (the `judge` group, as a dictionary) asks for.

    Args:
        config: Settings of the judge; `kind` selects it.
        policy: The model of judges that have none of their own: the frozen seed model.
        answers_path: Where answers of language models are kept, so that nothing is asked twice.
    """
    match config["kind"]:
        case "length":
            from tpo.judge.judges.controls import LengthJudge

            return LengthJudge()
        case "random":
            from tpo.judge.judges.controls import RandomJudge

            return RandomJudge()
        case "likelihood":
            from tpo.judge.judges.likelihood import Likelihood

            return Likelihood(config, _required(policy))
        case "self_rating":
            from tpo.judge.judges.self_rating import SelfRating

            return SelfRating(config, _required(policy))
        case "reward_model":
            from tpo.judge.judges.reward_model import RewardModel

            return RewardModel(config)
        case "armorm":
            from tpo.judge.judges.armorm import ArmoRM

            return ArmoRM(config)
        case "llm_pointwise":
            from tpo.judge.judges.llm_pointwise import PointwiseLLM

            return PointwiseLLM(config, policy=policy, cache_path=answers_path)
        case kind:
            raise ValueError(f"judge.kind={kind} is not a pointwise judge")


def load_pairwise_judge(config: dict[str, Any], *, policy: Policy | None, answers_path: Path) -> PairwiseJudge:
    """Return the pairwise judge that `config` asks for; arguments as for `load_judge`."""
    match config["kind"]:
        case "llm_pairwise":
            from tpo.judge.judges.llm_pairwise import PairwiseLLM

            return PairwiseLLM(config, policy=policy, cache_path=answers_path)
        case "alpaca_eval":
            from tpo.judge.judges.alpaca_eval import AlpacaEvalAnnotator

            return AlpacaEvalAnnotator(config, policy=policy, cache_path=answers_path)
        case kind:
            raise ValueError(f"judge.kind={kind} is not a pairwise judge")


def _required(policy: Policy | None) -> Policy:
    if policy is None:
        raise ValueError("this judge needs a model")
    return policy
