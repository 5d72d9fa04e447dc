"""The frozen seed model's log-likelihood of a response, in nats.

This module computes the sum over the response's tokens, log p(y | x), or without the instruction log p(y).
`tpo.judge.score.normalize_likelihoods` divides by the number of tokens and subtracts the second from the first, which
gives the pointwise mutual information of instruction and response. Weak judges (experiments/judges.md), for comparison.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tpo.config.fields import setting
from tpo.judge.protocol import Candidates, Judge, Judgement, PointwiseJudgeConfig, blocks
from tpo.model.asked import ask_directly
from tpo.model.chat import load_tokenizer
from tpo.model.control_tokens import break_control_tokens
from tpo.model.load import load_model
from tpo.model.policy import Policy
from tpo.model.rendering import is_rendered_whole

if TYPE_CHECKING:
    import torch

    from tpo.model.states import Reading


@dataclass
class LikelihoodJudge(PointwiseJudgeConfig):
    """Which sums are asked for (`sides`), and what is made of them; so variants share the passes over the model."""

    kind: str = setting("likelihood")
    normalization: str = setting(choices=("mean", "sum"))
    subtract_prior: bool = setting()
    batch_tokens: int = setting(minimum=1)

    @property
    def uses_seed_model(self) -> bool:
        """It is the seed model's likelihood."""
        return True

    def sides(self) -> dict[str, "SummedLikelihood"]:
        """Return the sums that its scores are made of: `likelihoods` and, where they are subtracted, `priors`."""
        return {
            role: SummedLikelihood(with_instruction=with_instruction, batch_tokens=self.batch_tokens)
            for role, with_instruction in (("likelihoods", True), ("priors", False))
            if with_instruction or self.subtract_prior
        }


@dataclass
class SummedLikelihood(PointwiseJudgeConfig):
    """One sum, as the stage "judge" is told of it."""

    computes_blocks: ClassVar[bool] = True

    kind: str = setting("likelihood")
    with_instruction: bool = setting()
    batch_tokens: int = setting(minimum=1)

    @property
    def uses_seed_model(self) -> bool:
        """It is the seed model's likelihood."""
        return True

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return the judge, the seed model loaded."""
        assert policy is not None
        return Likelihood(self, policy)


class Likelihood:
    """Scores a response by its summed log-likelihood after the instruction, or after an empty one."""

    def __init__(self, settings: SummedLikelihood, policy: Policy) -> None:
        """Load the seed model.

        Raises:
            TpoError: If a thought would stand before a response.
        """
        from tpo.model.logits import LogitReader

        self.with_instruction = settings.with_instruction
        self.asked = ask_directly(policy.conventions, what="judge=likelihood")
        self.tokenizer = load_tokenizer(policy.tokenizer_path)
        template_end = policy.conventions.end_of_turn_id  # Gemma's <end_of_turn>, Phi-3's <|end|>
        self.end_of_turn = self.tokenizer.eos_token_id if template_end is None else template_end
        weights = policy.unquantized_path or policy.model_path
        load = partial(load_model, weights, revision=policy.revision, dtype=policy.dtype)
        self.reader = LogitReader(load, batch_tokens=settings.batch_tokens)
        # A model with a state space has no last position.
        self.max_tokens = getattr(self.reader.model.config.get_text_config(), "max_position_embeddings", math.inf)

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield the log-likelihoods in nats; `num_tokens` is the number of tokens they sum over.

        The token that ends the turn is one of them. Unscored are: "too_long", a chat longer than the model's context;
        "not_rendered", one whose instruction the template changes.
        """
        for block in blocks(candidates):
            yield from self._score(block)

    def _score(self, block: Sequence[Candidates]) -> list[list[Judgement]]:
        from tpo.model.states import Reading

        groups, refusals = [], []
        for item in block:
            instruction = item.instruction if self.with_instruction else ""
            context = self.asked.context(self.tokenizer, instruction)
            responses = [self._response_ids(response) for response in item.responses]
            # The state before a token predicts it.
            group = [Reading(context + ids, range(len(context) - 1, len(context + ids) - 1)) for ids in responses]
            is_whole = is_rendered_whole(self.tokenizer, instruction, conventions=self.asked.conventions)
            groups.append(group)
            refusals.append([self._refusal(reading) if is_whole else "not_rendered" for reading in group])
        fitting = [
            [reading for reading, refusal in zip(group, refused, strict=True) if refusal is None]
            for group, refused in zip(groups, refusals, strict=True)
        ]
        found = iter([judgement for group in self.reader.read(fitting, self._judge) for judgement in group])
        return [
            [next(found) if refusal is None else Judgement(None, refusal) for refusal in refused]
            for refused in refusals
        ]

    def _refusal(self, reading: "Reading") -> str | None:
        return "too_long" if len(reading.ids) > self.max_tokens else None

    @staticmethod
    def _judge(reading: "Reading", logits: "torch.Tensor") -> Judgement:
        import torch

        tokens = torch.tensor(reading.ids[reading.positions[0] + 1 :], device=logits.device)
        logps = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(dim=1)
        return Judgement(float(logps.sum()), None, num_tokens=len(tokens))

    def _response_ids(self, response: str) -> list[int]:
        text = break_control_tokens(response, self.tokenizer)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return [*ids, self.end_of_turn]
