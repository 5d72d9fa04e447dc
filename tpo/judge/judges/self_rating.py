"""The frozen seed model as judge: is this response helpful, correct and complete, yes or no?

score = log p(Yes | question) - log p(No | question), in nats: one forward pass, nothing sampled, nothing
downloaded. A weak judge (experiments/LOG.md), here because it runs everywhere.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

from tpo.judge.protocol import Candidates, Judgement
from tpo.model.chat import answer_ids, chat_ids, load_tokenizer, strip_special_tokens
from tpo.model.load import load_model
from tpo.model.policy import Policy
from tpo.model.states import Reading, StateReader


class SelfRating:
    """Scores a response by the log-odds of yes."""

    def __init__(self, config: dict[str, Any], policy: Policy) -> None:
        """Load the seed model.

        Raises:
            TpoError: If an answer is not a single token of this model.
        """
        self.question = config["question"]
        self.tokenizer = load_tokenizer(policy.tokenizer_path)
        self.answer_ids = answer_ids(self.tokenizer, config)
        weights = policy.unquantized_path or policy.model_path
        model = load_model(weights, revision=policy.revision, dtype=policy.dtype)
        self.reader = StateReader(model.get_decoder(), batch_tokens=config["batch_tokens"])
        # In float32, where the model's 16 bits would leave few different scores; the softmax's denominator cancels.
        yes, no = model.get_output_embeddings().weight[self.answer_ids].float()
        self.direction = yes - no

    @torch.inference_mode()
    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return the log-odds of yes for every response, in nats."""
        groups = [[self._reading(item.instruction, response) for response in item.responses] for item in candidates]
        return [
            [
                Judgement(float(state[0].float() @ self.direction), None, num_tokens=len(reading.ids))
                for reading, state in zip(readings, states, strict=True)
            ]
            for readings, states in zip(groups, self.reader.read(groups), strict=True)
        ]

    def _reading(self, instruction: str, response: str) -> Reading:
        ids = chat_ids(self.tokenizer, self._ask(instruction, response))
        return Reading(ids, (len(ids) - 1,))

    def _ask(self, instruction: str, response: str) -> str:
        # One pass over the template: a response that spells {instruction} stays as it is.
        fields = {
            "{instruction}": strip_special_tokens(instruction, self.tokenizer),
            "{response}": strip_special_tokens(response, self.tokenizer),
        }
        return re.sub(r"\{instruction\}|\{response\}", lambda match: fields[match.group()], self.question)
