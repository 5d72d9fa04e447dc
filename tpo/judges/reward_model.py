"""A Hugging Face sequence-classification reward model as judge, with its own chat template."""

from collections.abc import Sequence
from typing import Any

import torch

from tpo.chat import load_tokenizer, strip_special_tokens
from tpo.errors import TpoError
from tpo.judges import Candidates, Judgement, batch_by_tokens
from tpo.models import default_device


class RewardModel:
    """Scores a response by the model's single logit for the chat (instruction, response)."""

    def __init__(self, config: dict[str, Any]) -> None:
        """Load the reward model.

        Raises:
            TpoError: If the model has more than one output.
        """
        from transformers import AutoModelForSequenceClassification

        self.tokenizer = load_tokenizer(config["name"], revision=config["revision"])
        self.model = AutoModelForSequenceClassification.from_pretrained(
            config["name"],
            revision=config["revision"],
            dtype=getattr(torch, config["dtype"]),
            device_map={"": default_device()},
        ).eval()
        if self.model.config.num_labels != 1:
            raise TpoError(
                f"judge.name={config['name']}: {self.model.config.num_labels} outputs; a reward model has one"
            )
        self.batch_tokens, self.max_tokens = config["batch_tokens"], config["max_tokens"]

    @torch.inference_mode()
    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return the reward of every response; one whose chat exceeds `judge.max_tokens` is unscored.

        Nothing is truncated: a reward for half a response is not a reward for the response.
        """
        sequences = [self._chat(item.instruction, response) for item in candidates for response in item.responses]
        judgements = [Judgement(None, "too_long")] * len(sequences)
        fitting = [position for position, ids in enumerate(sequences) if len(ids) <= self.max_tokens]
        lengths = [len(sequences[position]) for position in fitting]
        for batch in batch_by_tokens(lengths, batch_tokens=self.batch_tokens):
            positions = [fitting[index] for index in batch]
            rewards = self._rewards([sequences[position] for position in positions])
            for position, reward in zip(positions, rewards, strict=True):
                judgements[position] = Judgement(reward, None)
        remaining = iter(judgements)
        return [[next(remaining) for _ in item.responses] for item in candidates]

    def _chat(self, instruction: str, response: str) -> list[int]:
        messages = [
            {"role": "user", "content": strip_special_tokens(instruction, self.tokenizer)},
            {"role": "assistant", "content": strip_special_tokens(response, self.tokenizer)},
        ]
        ids: list[int] = self.tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False)
        return ids

    def _rewards(self, sequences: list[list[int]]) -> list[float]:
        # transformers finds a row's last token by comparing ids with the pad id, so a pad id that occurs in
        # a sequence (often EOS) would read the reward at the wrong token: one that occurs in none is used.
        used = {token for ids in sequences for token in ids}
        pad = next(token for token in range(self.model.config.vocab_size) if token not in used)
        self.model.config.get_text_config().pad_token_id = pad
        longest = max(map(len, sequences))
        ids = torch.tensor([row + [pad] * (longest - len(row)) for row in sequences], device=self.model.device)
        logits = self.model(input_ids=ids, attention_mask=(ids != pad).long()).logits
        rewards: list[float] = logits[:, 0].float().tolist()
        return rewards
