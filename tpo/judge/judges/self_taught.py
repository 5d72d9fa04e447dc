"""A small reward model: a LoRA adapter and a score head on the lower layers of the embedded model.

The head reads the mean of the response's hidden states: in a small model the last token alone, where a sequence
classifier reads, learns how a response ends, and little of it carries over to other models' responses. And it reads a
layer in the middle, since the last ones are about the next token (experiments/LOG.md for both). `python -m tpo.judge.reward`
makes one.
"""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForSequenceClassification
from transformers.modeling_outputs import SequenceClassifierOutput

from tpo.judge.judges.reward_model import ChatScorer, chat_with_response
from tpo.model.chat import load_tokenizer
from tpo.model.load import default_device
from tpo.model.policy import Policy
from tpo.model.states import Reading

DESCRIPTION = "reward_model.json"  # beside the adapter: what else the model is made of


class PooledClassifier(LlamaForSequenceClassification):  # type: ignore[misc]  # transformers is untyped
    """A sequence classifier whose head reads the mean over the response's tokens."""

    def forward(self, input_ids: Any, attention_mask: Any, **_: Any) -> SequenceClassifierOutput:
        """Return float32 logits [batch, 1] of right-padded chats."""
        # Without a mask: padding stands on the right, where no real token sees it.
        hidden = self.model(input_ids=input_ids, use_cache=False).last_hidden_state
        return SequenceClassifierOutput(logits=self.score(self.pool(hidden, input_ids, attention_mask)))

    def pool(self, hidden: torch.Tensor, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Return the mean hidden state [batch, hidden] of each last turn, in float32."""
        positions = torch.arange(input_ids.shape[1], device=input_ids.device)
        # The template opens every turn with BOS, which no text can spell: special tokens are stripped from it.
        is_real = attention_mask.bool()
        start = (positions * (is_real & (input_ids == self.config.bos_token_id))).amax(dim=1, keepdim=True)
        weights = (is_real & (positions > start)).float()[..., None]
        pooled: torch.Tensor = (hidden.float() * weights).sum(dim=1) / weights.sum(dim=1)
        return pooled


class SelfTaught(ChatScorer):
    """Scores a response by the reward model's logit for the chat (instruction, response)."""

    def __init__(self, config: dict[str, Any], policy: Policy) -> None:
        """Load the embedded model and the adapter with its score head."""
        from peft import PeftModel

        num_layers = json.loads((Path(config["path"]) / DESCRIPTION).read_text())["num_layers"]
        base = load_classifier(policy, dtype="float32", num_layers=num_layers)
        model = PeftModel.from_pretrained(base, config["path"])
        # Merged in float32: the adapter's deltas are small against the rounding of 16-bit weights.
        self.model = model.merge_and_unload().eval()
        self.model.model.to(getattr(torch, config["dtype"]))
        super().__init__(
            self.model.model,
            load_tokenizer(policy.tokenizer_path),
            batch_tokens=config["batch_tokens"],
            max_tokens=config["max_tokens"],
        )

    def chat(self, instruction: str, response: str) -> Reading:
        """Return the chat, read at the tokens that `PooledClassifier.pool` takes the mean of."""
        ids = chat_with_response(self.tokenizer, instruction, response)
        start = len(ids) - 1 - ids[::-1].index(self.model.config.bos_token_id)
        return Reading(ids, range(start + 1, len(ids)))

    def reward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logit."""
        logits: torch.Tensor = self.model.score(states.mean(dim=0))
        return logits[0]


def load_classifier(policy: Policy, *, dtype: str, num_layers: int) -> PooledClassifier:
    """Return the first layers of the model with a new score head, in float32; an adapter brings a trained one."""
    model: PooledClassifier = PooledClassifier.from_pretrained(
        policy.unquantized_path or policy.model_path,
        revision=policy.revision,
        dtype=getattr(torch, dtype),
        num_labels=1,
        num_hidden_layers=num_layers,
        device_map={"": default_device()},
    )
    model.score.float()
    return model
