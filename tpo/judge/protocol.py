"""Judges: pointwise ones give each response a score, pairwise ones give two responses a verdict.

`Candidates` and `Match` are the only inputs of a judge and have no place for a thought: what the paper asks for,
that the judge sees responses only (section 2.2), holds by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from tpo.sample.decoding import Policy
from tpo.store.errors import TpoError


@dataclass(frozen=True)
class Candidates:
    """Responses to one instruction."""

    instruction: str
    responses: tuple[str, ...]


@dataclass(frozen=True)
class Match:
    """Two responses to one instruction, in the order in which the judge sees them."""

    instruction: str
    first: str
    second: str


class Judgement(NamedTuple):
    """A score, or the reason why there is none; exactly one of the two is None."""

    score: float | None
    unscored_reason: str | None
    raw: str | None = None  # what a language model wrote
    num_tokens: int = 0  # read and written


class Decision(NamedTuple):
    """The outcome of a match for its first response, or the reason why there is none; exactly one is None."""

    outcome: float | None  # 1 better, 0.5 tie, 0 worse; or between, how surely it is better
    unscored_reason: str | None
    raw: str | None = None  # what the judge wrote
    weight: float = 1.0  # how many games the verdict counts for
    num_tokens: int = 0  # read and written


class PairwiseJudge(Protocol):
    """Compares responses two at a time."""

    def compare(self, matches: Sequence[Match]) -> list[Decision]:
        """Return one decision per match, in the order given."""
        ...


class Judge(Protocol):
    """Scores responses pointwise; higher is better."""

    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return one judgement per response, in the order given."""
        ...


def load_judge(config: dict[str, Any], *, policy: Policy | None, answers_path: Path) -> Judge:
    """Return the pointwise judge that `config` (the `judge` group, as a dictionary) asks for.

    Args:
        config: Settings of the judge; `kind` selects it.
        policy: The model of judges that have none of their own: the frozen seed model, or the embedded one.
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
        case "self_taught":
            from tpo.judge.judges.self_taught import SelfTaught

            return SelfTaught(config, _required(policy))
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


PAIRWISE_KINDS = frozenset({"llm_pairwise", "alpaca_eval"})
#: Judges whose scores mean something only beside those of the responses that were judged with them.
COMPARATIVE_KINDS = PAIRWISE_KINDS | {"ensemble"}


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


def answer_ids(tokenizer: Any, config: dict[str, Any]) -> list[int]:
    """Return the token ids of the self-rating judge's positive and negative answer.

    Raises:
        TpoError: If an answer is not a single token of the model.
    """
    answers = [config["positive"], config["negative"]]
    ids = [tokenizer.encode(answer, add_special_tokens=False) for answer in answers]
    for answer, tokens in zip(answers, ids, strict=True):
        if len(tokens) != 1:
            raise TpoError(
                f"judge.positive and judge.negative must be one token each; {answer!r} is {len(tokens)} of this model's"
            )
    return [int(tokens[0]) for tokens in ids]
