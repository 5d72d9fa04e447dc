"""Chats as token ids: rendered once through the chat template, with one BOS and the template's EOS, and decoded."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tpo.model.decoder import Decoder
from tpo.model.policy import Policy
from tpo.store.errors import TpoError

Tokenizer = Any  # transformers' PreTrainedTokenizerBase; not imported here, it takes seconds


class ChatError(TpoError):
    """A tokenizer that cannot render a chat."""


@dataclass(frozen=True)
class Chat:
    """A policy's tokenizer, and the tokens that end its completions.

    Attributes:
        tokenizer: The policy's.
        end_ids: Token ids that end a completion.
    """

    tokenizer: Tokenizer
    end_ids: frozenset[int]

    def content(self, token_ids: list[int]) -> list[int]:
        """Return a completion's ids without the end token, if it has one."""
        return token_ids[:-1] if token_ids and token_ids[-1] in self.end_ids else token_ids

    @cached_property
    def decode(self) -> Decoder:
        """Returns the text of token ids exactly: `chat.decode(token_ids)`."""
        return Decoder(self.tokenizer)


def load_chat(policy: Policy) -> Chat:
    """Return the policy's tokenizer and what ends its completions.

    Raises:
        ChatError: If the tokenizer has no chat template or no EOS.
    """
    from transformers import AutoConfig, GenerationConfig
    from transformers.utils import GENERATION_CONFIG_NAME, cached_file

    tokenizer = load_tokenizer(policy.tokenizer_path)
    where = {"revision": policy.revision}
    if cached_file(policy.model_path, GENERATION_CONFIG_NAME, _raise_exceptions_for_missing_entries=False, **where):
        configured = GenerationConfig.from_pretrained(policy.model_path, **where)
    else:
        configured = AutoConfig.from_pretrained(policy.model_path, **where).get_text_config()
    return Chat(tokenizer, end_ids(tokenizer, configured))


def save_tokenizer(
    source: str | Path, directory: Path, *, revision: str | None = None, chat_template: str | None = None
) -> None:
    """Save a model's tokenizer to `directory`, with another chat template if one is given.

    Args:
        source: Local directory or Hub name.
        directory: Where to.
        revision: Of the Hub repository.
        chat_template: A Jinja template's text.

    Raises:
        ChatError: If there is no tokenizer, or it has no chat template or no EOS.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(source), revision=revision)
    except (OSError, ValueError) as error:
        raise ChatError(f"{source} (model.name): no tokenizer could be loaded: {error}") from error
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    _checked(tokenizer, source).save_pretrained(directory)


def load_tokenizer(path: str | Path, *, revision: str | None = None) -> Tokenizer:
    """Return a tokenizer with a chat template, an end-of-sequence token and a padding token.

    Raises:
        ChatError: If either is missing.
    """
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(path), revision=revision)
    return _checked(tokenizer, path)


def _checked(tokenizer: Tokenizer, name: str | Path) -> Tokenizer:
    if tokenizer.chat_template is None:
        raise ChatError(
            f"{name}: the tokenizer has no chat template. TPO needs an instruct model: use one, or set "
            "model.chat_template to a file with a Jinja template"
        )
    if tokenizer.eos_token_id is None:
        raise ChatError(f"{name}: the tokenizer has no EOS token, so no response could ever end")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def strip_special_tokens(text: str, tokenizer: Tokenizer) -> str:
    """Return `text` without the strings of special tokens.

    A user's or a model's text that spells `<|im_end|>` would otherwise end its turn and could begin another role's.
    Removal repeats until there is nothing to remove, because removing one string can form another.
    """
    added = tokenizer.added_tokens_decoder.values()
    specials = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    while True:
        cleaned = text
        for token in specials:
            cleaned = cleaned.replace(token, "")
        if cleaned == text:
            return cleaned
        text = cleaned


def chat_ids(tokenizer: Tokenizer, user: str, *, assistant: str | None = None) -> list[int]:
    """Return the ids of a user turn and the opening of the assistant's turn, as the template renders them.

    Args:
        tokenizer: With a chat template.
        user: The user's turn; special-token strings are removed.
        assistant: Text that the assistant's turn starts with, if any.
    """
    messages = [{"role": "user", "content": strip_special_tokens(user, tokenizer)}]
    ids: list[int] = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    if assistant:
        ids = ids + tokenizer.encode(assistant, add_special_tokens=False)
    return ids


def end_ids(tokenizer: Tokenizer, generation_config: Any) -> frozenset[int]:
    """Return every token id that ends a turn: the tokenizer's EOS and those of the generation config."""
    configured = generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset({tokenizer.eos_token_id, *(token for token in listed if token is not None)})


def answer_ids(tokenizer: Any, *, positive: str, negative: str) -> list[int]:
    """Return the token ids of the self-rating judge's positive and negative answer.

    Raises:
        TpoError: If an answer is not a single token of the model.
    """
    ids = [tokenizer.encode(answer, add_special_tokens=False) for answer in (positive, negative)]
    for answer, tokens in zip((positive, negative), ids, strict=True):
        if len(tokens) != 1:
            raise TpoError(
                f"judge.positive and judge.negative must be one token each; {answer!r} is {len(tokens)} of this model's"
            )
    return [int(tokens[0]) for tokens in ids]
