"""Instructions of a Hugging Face data set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tpo.config.fields import setting
from tpo.config.groups import Instructions, PromptsConfig
from tpo.sample.prompts import PromptError, make_prompt
from tpo.store.records import Prompt


@dataclass
class HubPrompts(PromptsConfig):
    """A data set at a fixed revision, and the longest instruction that is taken."""

    kind: str = setting("hub")
    dataset: str = setting()
    revision: str = setting()
    split: str = setting()
    text_field: str = setting()
    max_characters: int = setting()

    def load(self, candidates: Sequence[Prompt] = ()) -> Instructions:
        """Return those that are not too long, and count the others."""
        loaded = load_hub(self.dataset, revision=self.revision, split=self.split, text_field=self.text_field)
        found = [prompt for prompt in loaded if len(prompt.text) <= self.max_characters]
        return Instructions(found, {"too_long": len(loaded) - len(found)})


def load_hub(name: str, *, revision: str, split: str, text_field: str) -> list[Prompt]:
    """Return the instructions of a Hugging Face data set at a fixed revision; empty ones are skipped.

    A field that holds a chat (a list of messages, as in UltraFeedback's binarized form) gives its first
    user message.

    Raises:
        PromptError: If the field is not among the columns.
    """
    from datasets import load_dataset

    data = load_dataset(name, revision=revision, split=split)
    if text_field not in data.column_names:
        raise PromptError(f"{name}: no column {text_field!r} (prompts.text_field); it has {data.column_names}")
    texts = [_first_user_message(value) for value in data[text_field]]
    return [
        make_prompt(text, category=None, source=name, split="", where=f"{name}, row {number}")
        for number, text in enumerate(texts)
        if text.strip()
    ]


def _first_user_message(value: Any) -> str:
    if isinstance(value, str) or value is None:
        return value or ""
    return next((message["content"] for message in value if message["role"] == "user"), "")
