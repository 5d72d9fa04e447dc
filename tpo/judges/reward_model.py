"""Reward models as judges: what all of them share, and the Hugging Face sequence classifier."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch

from tpo.chat import Tokenizer, load_tokenizer, strip_special_tokens
from tpo.errors import TpoError
from tpo.judges import Candidates, Judgement, batch_by_tokens
from tpo.models import default_device


class Chat(NamedTuple):
    """A rendered chat and the positions whose hidden states the model's heads read."""

    ids: list[int]
    positions: tuple[int, ...]


class ChatScorer(ABC):
    """Scores a response by heads on a decoder's hidden states of the chat (instruction, response).

    Positions are known from the chat's length, never searched for among the ids, so neither the choice of a
    padding token nor anything that a response spells can move them.
    """

    def __init__(self, decoder: Any, tokenizer: Tokenizer, *, batch_tokens: int, max_tokens: int) -> None:
        """Score with `decoder`, a model without heads.

        Args:
            decoder: In eval mode.
            tokenizer: With the chat template that the heads were trained with.
            batch_tokens: Padded tokens per batch.
            max_tokens: Longest chat that is scored.
        """
        self.decoder, self.tokenizer = decoder, tokenizer
        self.batch_tokens, self.max_tokens = batch_tokens, max_tokens
        self.needs_mask = not is_causal(decoder)

    @abstractmethod
    def chat(self, instruction: str, response: str) -> Chat:
        """Return the chat and where the heads read it."""

    @abstractmethod
    def rewards(self, states: torch.Tensor) -> torch.Tensor:
        """Return float32 rewards [batch] of float32 hidden states [batch, positions, hidden]."""

    @torch.inference_mode()
    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return the reward of every response; one whose chat exceeds `judge.max_tokens` is unscored.

        Nothing is truncated: a reward for half a response is not a reward for the response.
        """
        chats = [self.chat(item.instruction, response) for item in candidates for response in item.responses]
        judgements = [Judgement(None, "too_long")] * len(chats)
        fitting = [position for position, chat in enumerate(chats) if len(chat.ids) <= self.max_tokens]
        lengths = [len(chats[position].ids) for position in fitting]
        for batch in batch_by_tokens(lengths, batch_tokens=self.batch_tokens):
            positions = [fitting[index] for index in batch]
            rewards = self.rewards(self._states([chats[position] for position in positions]))
            for position, reward in zip(positions, rewards.tolist(), strict=True):
                num_tokens = len(chats[position].ids)
                judgements[position] = (
                    Judgement(reward, None, num_tokens=num_tokens)
                    if math.isfinite(reward)
                    else Judgement(None, "not_finite", num_tokens=num_tokens)
                )
        remaining = iter(judgements)
        return [[next(remaining) for _ in item.responses] for item in candidates]

    def _states(self, chats: list[Chat]) -> torch.Tensor:
        # Padding stands on the right, where a causal decoder's earlier tokens cannot see it: no mask is needed,
        # which keeps the fast attention kernels, and any id will do.
        device = self.decoder.device
        longest = max(len(chat.ids) for chat in chats)
        ids = torch.tensor([chat.ids + [0] * (longest - len(chat.ids)) for chat in chats], device=device)
        lengths = torch.tensor([len(chat.ids) for chat in chats], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long() if self.needs_mask else None
        hidden = self.decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        read = torch.tensor([chat.positions for chat in chats], device=device)
        # Heads work in float32: a bfloat16 reward of 16 comes in steps of 1/8, which ties responses.
        states: torch.Tensor = hidden[torch.arange(len(chats), device=device)[:, None], read].float()
        return states


class RewardModel(ChatScorer):
    """Scores a response by a sequence classifier's single logit at the chat's last token."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Load model and tokenizer.

        Raises:
            TpoError: If weights are missing or left over, or the model is not a decoder with a single reward.
        """
        from transformers import AutoModelForSequenceClassification

        model = load_complete(AutoModelForSequenceClassification, config)
        if model.config.num_labels != 1:
            raise TpoError(f"judge.name={config['name']}: {model.config.num_labels} outputs; a reward model has one")
        if not hasattr(model, "score"):
            raise TpoError(f"judge.name={config['name']}: {type(model).__name__} has no score head on a decoder")
        super().__init__(
            model.base_model,
            load_tokenizer(config["name"], revision=config["revision"]),
            batch_tokens=config["batch_tokens"],
            max_tokens=config["max_tokens"],
        )
        self.head = model.score.float()

    def chat(self, instruction: str, response: str) -> Chat:
        """Return the chat, read at its last token."""
        ids = chat_with_response(self.tokenizer, instruction, response)
        return Chat(ids, (len(ids) - 1,))

    def rewards(self, states: torch.Tensor) -> torch.Tensor:
        """Return the logits."""
        logits: torch.Tensor = self.head(states[:, 0])
        return logits[:, 0]


def load_complete(model_class: Any, config: dict[str, Any]) -> Any:
    """Return a model in eval mode on the default device, every weight of it from the checkpoint.

    Raises:
        TpoError: If weights are missing (transformers would draw them at random: a judge that means nothing)
            or left over (a part of the model that would not be computed).
    """
    model, loading = model_class.from_pretrained(
        config["name"],
        revision=config["revision"],
        dtype=getattr(torch, config["dtype"]),
        device_map={"": default_device()},
        output_loading_info=True,
    )
    # A reward model may keep the language model's head: without effect on the reward.
    faults = {
        "missing": sorted(loading["missing_keys"]),
        "unexpected": sorted(set(loading["unexpected_keys"]) - {"lm_head.weight"}),
    }
    found = "; ".join(f"{kind} weights: {', '.join(names)}" for kind, names in faults.items() if names)
    if found:
        raise TpoError(f"judge.name={config['name']}: the checkpoint is not a {type(model).__name__}: {found}")
    return model.eval()


def chat_with_response(tokenizer: Tokenizer, instruction: str, response: str) -> list[int]:
    """Return the ids of instruction and response in the tokenizer's own template, with one BOS.

    Special-token strings are removed from both.
    """
    messages = [
        {"role": "user", "content": strip_special_tokens(instruction, tokenizer)},
        {"role": "assistant", "content": strip_special_tokens(response, tokenizer)},
    ]
    return with_one_bos(tokenizer, tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False))


def with_one_bos(tokenizer: Tokenizer, ids: list[int]) -> list[int]:
    """Return `ids` with one BOS in front, where the tokenizer has one and it or the template puts it there.

    Reward models were trained on rendered text to which the tokenizer added its BOS, whether or not the template
    writes one too. So a doubled BOS becomes one, and one that the template leaves to the tokenizer is added. A
    BOS further on is left alone: in some templates the same token opens every turn.
    """
    bos = tokenizer.bos_token_id
    start = next((position for position, token in enumerate(ids) if token != bos), len(ids))
    adds_bos = bos is not None and tokenizer("").input_ids[:1] == [bos]
    return [bos] * (start > 0 or adds_bos) + ids[start:]


@torch.inference_mode()
def is_causal(decoder: Any) -> bool:
    """Return whether a hidden state ignores the tokens after it, tried with two inputs that differ in their ends."""
    ids = torch.zeros(2, 16, dtype=torch.long, device=decoder.device)
    ids[1, 8:] = 1
    first, second = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, :8].float()
    return torch.allclose(first, second, rtol=1e-2, atol=1e-2)
