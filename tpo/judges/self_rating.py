"""The frozen seed model as judge: is this response helpful, correct and complete, yes or no?

score = log p(Yes | question) - log p(No | question), in nats: one forward pass, nothing sampled, nothing
downloaded. A weak judge (experiments/LOG.md), here because it runs everywhere.
"""

import re
from collections.abc import Sequence
from typing import Any

import torch

from tpo.chat import chat_ids, load_tokenizer, strip_special_tokens
from tpo.engines import Policy
from tpo.judges import Candidates, Judgement, answer_ids, batch_by_tokens
from tpo.models import load_model


class SelfRating:
    """Scores a response by the log-odds of yes."""

    def __init__(self, config: dict[str, Any], policy: Policy) -> None:
        """Load the seed model.

        Raises:
            TpoError: If an answer is not a single token of this model.
        """
        self.question, self.batch_tokens = config["question"], config["batch_tokens"]
        self.tokenizer = load_tokenizer(policy.tokenizer_path)
        self.answer_ids = answer_ids(self.tokenizer, config)
        weights = policy.unquantized_path or policy.model_path
        self.model = load_model(weights, revision=policy.revision, dtype=policy.dtype)

    @torch.inference_mode()
    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return the log-odds of yes for every response, in nats."""
        sequences = [
            chat_ids(self.tokenizer, self._ask(item.instruction, response))
            for item in candidates
            for response in item.responses
        ]
        odds = [0.0] * len(sequences)
        for batch in batch_by_tokens([len(ids) for ids in sequences], batch_tokens=self.batch_tokens):
            for position, value in zip(batch, self._log_odds([sequences[index] for index in batch]), strict=True):
                odds[position] = value
        judgements = iter(
            Judgement(value, None, num_tokens=len(ids)) for value, ids in zip(odds, sequences, strict=True)
        )
        return [[next(judgements) for _ in item.responses] for item in candidates]

    def _ask(self, instruction: str, response: str) -> str:
        # One pass over the template: a response that spells {instruction} stays as it is.
        fields = {
            "{instruction}": strip_special_tokens(instruction, self.tokenizer),
            "{response}": strip_special_tokens(response, self.tokenizer),
        }
        return re.sub(r"\{instruction\}|\{response\}", lambda match: fields[match.group()], self.question)

    def _log_odds(self, sequences: list[list[int]]) -> list[float]:
        # Padding on the right needs no mask under causal attention: no real token sees it, and without
        # a mask the fast attention kernel is used. The last real position of each row is picked out.
        longest = max(map(len, sequences))
        device = self.model.device
        padded = torch.tensor([ids + [0] * (longest - len(ids)) for ids in sequences], device=device)
        hidden = self.model.get_decoder()(input_ids=padded, use_cache=False).last_hidden_state
        last = hidden[torch.arange(len(sequences)), [len(ids) - 1 for ids in sequences]]
        # In float32, where the model's 16 bits would leave few different scores; the softmax's denominator cancels.
        yes, no = self.model.get_output_embeddings().weight[self.answer_ids].float()
        odds: list[float] = (last.float() @ (yes - no)).tolist()
        return odds
