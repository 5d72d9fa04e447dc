"""The frozen seed model's log-likelihood of a response, in nats: what a language model knows without being asked.

This file gives the sum over the response's tokens, log p(y | x), or without the instruction log p(y);
`tpo.judge.score.normalize_likelihoods` makes of them the mean per token and, with the second subtracted from the first, the
pointwise mutual information of instruction and response. Weak judges (experiments/judges.md), here to be compared with.
"""

from collections.abc import Sequence
from typing import Any

import torch

from tpo.judge.protocol import Candidates, Judgement
from tpo.model.chat import chat_ids, load_tokenizer, strip_special_tokens
from tpo.model.load import load_model
from tpo.model.policy import Policy
from tpo.model.states import Reading, StateReader


class Likelihood:
    """Scores a response by its summed log-likelihood after the instruction, or after an empty one."""

    def __init__(self, config: dict[str, Any], policy: Policy) -> None:
        """Load the seed model."""
        self.with_instruction = config["with_instruction"]
        self.tokenizer = load_tokenizer(policy.tokenizer_path)
        weights = policy.unquantized_path or policy.model_path
        model = load_model(weights, revision=policy.revision, dtype=policy.dtype)
        self.max_tokens = model.config.max_position_embeddings
        self.head = model.get_output_embeddings()
        self.reader = StateReader(model.get_decoder(), batch_tokens=config["batch_tokens"])

    @torch.inference_mode()
    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return the log-likelihoods in nats; `num_tokens` is the number of tokens they sum over.

        The token that ends the turn is one of them. A chat longer than the model's context is unscored.
        """
        groups = []
        for item in candidates:
            context = chat_ids(self.tokenizer, item.instruction if self.with_instruction else "")
            responses = [self._response_ids(response) for response in item.responses]
            # The state before a token predicts it.
            groups.append(
                [Reading(context + ids, range(len(context) - 1, len(context + ids) - 1)) for ids in responses]
            )
        fitting = [[reading for reading in group if len(reading.ids) <= self.max_tokens] for group in groups]
        states = iter([state for group in self.reader.read(fitting) for state in group])
        return [
            [
                self._judge(reading, next(states))
                if len(reading.ids) <= self.max_tokens
                else Judgement(None, "too_long")
                for reading in group
            ]
            for group in groups
        ]

    def _judge(self, reading: Reading, states: torch.Tensor) -> Judgement:
        tokens = torch.tensor(reading.ids[reading.positions[0] + 1 :], device=states.device)
        logits = self.head(states).float()
        logps = logits.gather(1, tokens[:, None]).squeeze(1) - logits.logsumexp(dim=1)
        return Judgement(float(logps.sum()), None, num_tokens=len(tokens))

    def _response_ids(self, response: str) -> list[int]:
        text = strip_special_tokens(response, self.tokenizer)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return [*ids, self.tokenizer.eos_token_id]
