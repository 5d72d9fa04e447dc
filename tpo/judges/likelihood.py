"""The frozen seed model's log-likelihood of a response, in nats: what a language model knows without being asked.

This file gives the sum over the response's tokens, log p(y | x), or without the instruction log p(y);
`tpo.judge.normalize_likelihoods` makes of them the mean per token and, with the second subtracted from the first, the
pointwise mutual information of instruction and response. Weak judges (experiments/judges.md), here to be compared with.
"""

from collections.abc import Sequence
from typing import Any

import torch

from tpo.chat import chat_ids, load_tokenizer, strip_special_tokens
from tpo.engines import Policy
from tpo.judges import Candidates, Judgement, batch_by_tokens
from tpo.models import load_model


class Likelihood:
    """Scores a response by its summed log-likelihood after the instruction, or after an empty one."""

    def __init__(self, config: dict[str, Any], policy: Policy) -> None:
        """Load the seed model."""
        self.with_instruction, self.batch_tokens = config["with_instruction"], config["batch_tokens"]
        self.tokenizer = load_tokenizer(policy.tokenizer_path)
        weights = policy.unquantized_path or policy.model_path
        self.model = load_model(weights, revision=policy.revision, dtype=policy.dtype)
        self.max_tokens = self.model.config.max_position_embeddings

    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return the log-likelihoods in nats; `num_tokens` is the number of tokens they sum over.

        The token that ends the turn is one of them. A chat longer than the model's context is unscored.
        """
        chats = []
        for item in candidates:
            context = chat_ids(self.tokenizer, item.instruction if self.with_instruction else "")
            chats += [(context, self._response_ids(response)) for response in item.responses]
        fitting = [index for index, chat in enumerate(chats) if len(chat[0]) + len(chat[1]) <= self.max_tokens]
        judgements = [Judgement(None, "too_long")] * len(chats)
        for index, logp in zip(fitting, self._logps([chats[index] for index in fitting]), strict=True):
            judgements[index] = Judgement(logp, None, num_tokens=len(chats[index][1]))
        remaining = iter(judgements)
        return [[next(remaining) for _ in item.responses] for item in candidates]

    @torch.inference_mode()
    def _logps(self, chats: Sequence[tuple[list[int], list[int]]]) -> list[float]:
        lengths = [len(context) + len(response) for context, response in chats]
        logps = [0.0] * len(chats)
        for batch in batch_by_tokens(lengths, batch_tokens=self.batch_tokens):
            # No mask: padding on the right is never seen by a real token under causal attention.
            rows = [[*chats[index][0], *chats[index][1]] for index in batch]
            longest = lengths[batch[0]]
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.model.device)
            hidden = self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            for row, index in enumerate(batch):  # one row's logits at a time: a whole batch's would fill the memory
                start, stop = len(chats[index][0]), lengths[index]
                logits = self.model.get_output_embeddings()(hidden[row, start - 1 : stop - 1]).float()
                chosen = logits.gather(1, ids[row, start:stop, None]).squeeze(1)
                logps[index] = float((chosen - logits.logsumexp(dim=1)).sum())
        return logps

    def _response_ids(self, response: str) -> list[int]:
        text = strip_special_tokens(response, self.tokenizer)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return [*ids, self.tokenizer.eos_token_id]
