"""Judges: an instruction and responses in, one score a response out.

`Candidates` is the only input of a judge and has no place for a thought: what the paper asks for, that the
judge sees responses only (section 2.2), holds by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from tpo.engines import Policy
from tpo.errors import TpoError


@dataclass(frozen=True)
class Candidates:
    """Responses to one instruction."""

    instruction: str
    responses: tuple[str, ...]


class Judgement(NamedTuple):
    """A score, or the reason why there is none; exactly one of the two is None."""

    score: float | None
    unscored_reason: str | None


class Judge(Protocol):
    """Scores responses pointwise; higher is better."""

    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return one judgement per response, in the order given."""
        ...


def load_judge(config: dict[str, Any], *, policy: Policy) -> Judge:
    """Return the judge that `config` (the `judge` group, as a dictionary) asks for.

    Args:
        config: Settings of the judge; `kind` selects it.
        policy: The frozen seed model, for judges that use it.
    """
    match config["kind"]:
        case "self_rating":
            from tpo.judges.self_rating import SelfRating

            return SelfRating(config, policy)
        case "reward_model":
            from tpo.judges.reward_model import RewardModel

            return RewardModel(config)
        case kind:
            raise ValueError(f"judge.kind={kind}: expected self_rating or reward_model")


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


def batch_by_tokens(lengths: Sequence[int], *, batch_tokens: int) -> list[list[int]]:
    """Return batches of positions, longest sequences first, of at most `batch_tokens` padded tokens each.

    Sorting by length keeps padding small; starting with the longest makes a batch that does not fit in
    memory fail at once. A sequence longer than the budget is a batch of its own.
    """
    batches: list[list[int]] = []
    for position in sorted(range(len(lengths)), key=lambda position: (-lengths[position], position)):
        if batches and lengths[batches[-1][0]] * (len(batches[-1]) + 1) <= batch_tokens:
            batches[-1].append(position)
        else:
            batches.append([position])
    return batches
