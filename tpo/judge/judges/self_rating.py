"""The frozen seed model as judge: is this response helpful, correct and complete, yes or no?

score = log p(Yes | question) - log p(No | question), in nats: one forward pass, nothing sampled, nothing
downloaded. A weak judge (experiments/LOG.md), here because it runs everywhere.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tpo.config.fields import setting
from tpo.judge.protocol import Candidates, Judge, Judgement, PointwiseJudgeConfig, blocks
from tpo.judge.verdicts import require_places
from tpo.model.asked import ask_directly
from tpo.model.chat import answer_ids, load_tokenizer
from tpo.model.control_tokens import break_control_tokens
from tpo.model.load import load_model
from tpo.model.policy import Policy
from tpo.model.rendering import is_rendered_whole

if TYPE_CHECKING:
    import torch

    from tpo.model.states import Reading


@dataclass
class SelfRatingJudge(PointwiseJudgeConfig):
    """The question, and the two answers to it."""

    computes_blocks: ClassVar[bool] = True

    kind: str = setting("self_rating")
    question: str = setting()
    positive: str = setting("Yes")
    negative: str = setting("No")
    batch_tokens: int = setting(minimum=1)

    @property
    def uses_seed_model(self) -> bool:
        """It is the seed model that is asked."""
        return True

    def check(self, at: str) -> None:
        """Check that the question holds what it is about."""
        require_places(f"{at}.question", self.question, ("{instruction}", "{response}"))

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return the judge, the seed model loaded."""
        assert policy is not None
        return SelfRating(self, policy)


class SelfRating:
    """Scores a response by the log-odds of yes."""

    def __init__(self, settings: SelfRatingJudge, policy: Policy) -> None:
        """Load the seed model.

        Raises:
            TpoError: If an answer is not a single token of this model, or a thought would stand before it.
        """
        from tpo.model.logits import LogitReader

        self.question, self.asked = settings.question, ask_directly(policy.conventions, what="judge=self_rating")
        self.tokenizer = load_tokenizer(policy.tokenizer_path)
        self.answer_ids = answer_ids(self.tokenizer, positive=settings.positive, negative=settings.negative)
        weights = policy.unquantized_path or policy.model_path
        load = partial(load_model, weights, revision=policy.revision, dtype=policy.dtype)
        self.reader = LogitReader(load, batch_tokens=settings.batch_tokens, tokens=self.answer_ids)

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield the log-odds of yes for every instruction's responses, in nats.

        One whose question the template changes is unscored ("not_rendered").
        """
        for block in blocks(candidates):
            yield from self._score(block)

    def _score(self, block: Sequence[Candidates]) -> list[list[Judgement]]:
        groups = [[self._reading(item.instruction, response) for response in item.responses] for item in block]
        fitting = [[reading for reading in group if reading is not None] for group in groups]
        found = iter([judgement for group in self.reader.read(fitting, self._judge) for judgement in group])
        return [
            [Judgement(None, "not_rendered") if reading is None else next(found) for reading in group]
            for group in groups
        ]

    @staticmethod
    def _judge(reading: "Reading", logits: "torch.Tensor") -> Judgement:
        yes, no = logits[0].tolist()  # the softmax's denominator cancels
        return Judgement(yes - no, None, num_tokens=len(reading.ids))

    def _reading(self, instruction: str, response: str) -> "Reading | None":
        from tpo.model.states import Reading

        question = self._ask(instruction, response)
        if not is_rendered_whole(self.tokenizer, question, conventions=self.asked.conventions):
            return None
        ids = self.asked.context(self.tokenizer, question)
        return Reading(ids, (len(ids) - 1,))

    def _ask(self, instruction: str, response: str) -> str:
        # One pass over the template: a response that spells {instruction} stays as it is.
        fields = {
            "{instruction}": break_control_tokens(instruction, self.tokenizer),
            "{response}": break_control_tokens(response, self.tokenizer),
        }
        return re.sub(r"\{instruction\}|\{response\}", lambda match: fields[match.group()], self.question)
