"""The frozen seed model's log-likelihood of a response, in nats: what a language model knows without being asked.

sum      log p(y | x)
mean     log p(y | x) / |y|
With the prior subtracted, log p(y | x) - log p(y | no instruction), it is the pointwise mutual information of
instruction and response. |y| counts the token that ends the turn. Weak judges (experiments/judges.md), here to be
compared with.
"""

from collections.abc import Sequence
from typing import Any

import torch

from tpo.chat import chat_ids, load_tokenizer, strip_special_tokens
from tpo.engines import Policy
from tpo.judges import Candidates, Judgement, batch_by_tokens
from tpo.models import load_model


class Likelihood:
    """Scores a response by its log-likelihood, summed or per token, with or without its prior subtracted."""

    def __init__(self, config: dict[str, Any], policy: Policy) -> None:
        """Load the seed model."""
        self.is_mean, self.subtract_prior = config["normalization"] == "mean", config["subtract_prior"]
        self.batch_tokens = config["batch_tokens"]
        self.tokenizer = load_tokenizer(policy.tokenizer_path)
        weights = policy.unquantized_path or policy.model_path
        self.model = load_model(weights, revision=policy.revision, dtype=policy.dtype)
        self.max_tokens = self.model.config.max_position_embeddings

    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return the log-likelihoods; a chat longer than the model's context is unscored, nothing is cut off."""
        contexts, responses = [], []
        for item in candidates:
            context = chat_ids(self.tokenizer, item.instruction)
            for response in item.responses:
                contexts.append(context)
                responses.append(self._response_ids(response))
        counts = [len(context) + len(ids) for context, ids in zip(contexts, responses, strict=True)]
        fitting = [position for position, count in enumerate(counts) if count <= self.max_tokens]
        kept = [responses[position] for position in fitting]
        logps = self.response_logps([contexts[position] for position in fitting], kept)
        if self.subtract_prior:
            nothing = chat_ids(self.tokenizer, "")
            priors = self.response_logps([nothing] * len(kept), kept)
            logps = [logp - prior for logp, prior in zip(logps, priors, strict=True)]
        judgements = [Judgement(None, "too_long", num_tokens=0)] * len(counts)
        for position, logp in zip(fitting, logps, strict=True):
            value = logp / len(responses[position]) if self.is_mean else logp
            judgements[position] = Judgement(value, None, num_tokens=counts[position])
        remaining = iter(judgements)
        return [[next(remaining) for _ in item.responses] for item in candidates]

    @torch.inference_mode()
    def response_logps(self, contexts: Sequence[list[int]], responses: Sequence[list[int]]) -> list[float]:
        """Return the summed log-probability of each response after its context, in nats."""
        lengths = [len(context) + len(ids) for context, ids in zip(contexts, responses, strict=True)]
        logps = [0.0] * len(lengths)
        for batch in batch_by_tokens(lengths, batch_tokens=self.batch_tokens):
            # No mask: padding on the right is never seen by a real token under causal attention.
            longest = lengths[batch[0]]
            rows = [contexts[index] + responses[index] for index in batch]
            ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows], device=self.model.device)
            hidden = self.model.get_decoder()(input_ids=ids, use_cache=False).last_hidden_state
            for row, index in enumerate(batch):  # one row's logits at a time: a whole batch's would fill the memory
                start, stop = len(contexts[index]), lengths[index]
                logits = self.model.get_output_embeddings()(hidden[row, start - 1 : stop - 1]).float()
                chosen = logits.gather(1, ids[row, start:stop, None]).squeeze(1)
                logps[index] = float((chosen - logits.logsumexp(dim=1)).sum())
        return logps

    def _response_ids(self, response: str) -> list[int]:
        text = strip_special_tokens(response, self.tokenizer)
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        return [*ids, self.tokenizer.eos_token_id]
