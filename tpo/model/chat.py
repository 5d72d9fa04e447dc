"""Chats as token ids: rendered once through the chat template, with one BOS and the template's EOS, and decoded."""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from tpo.model.conventions import Conventions
from tpo.model.decoder import Decoder
from tpo.model.policy import Policy
from tpo.store.errors import TpoError, why

Tokenizer = Any  # transformers' PreTrainedTokenizerBase; not imported here, it takes seconds


class ChatError(TpoError):
    """A tokenizer that cannot render a chat."""


@dataclass(frozen=True)
class Chat:
    """A policy's tokenizer, the tokens that end its completions, and what its chat template does.

    Attributes:
        tokenizer: The policy's.
        end_ids: Token ids that end a completion.
        conventions: Of the chat template.
    """

    tokenizer: Tokenizer
    end_ids: frozenset[int]
    conventions: Conventions = Conventions()

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
    tokenizer = load_tokenizer(policy.tokenizer_path)
    configured = load_generation_config(policy.model_path, revision=policy.revision)
    ends = end_ids(tokenizer, configured, template_end=policy.conventions.end_of_turn_id)
    return Chat(tokenizer, ends, policy.conventions)


def load_generation_config(path: str | Path, *, revision: str | None = None) -> Any:
    """Return a model's generation config; of one that comes without, what its config says.

    Raises:
        ChatError: If the file cannot be read, or names something else than token ids as the end.
    """
    from transformers import AutoConfig, GenerationConfig
    from transformers.utils import CONFIG_NAME, GENERATION_CONFIG_NAME, cached_file

    where = {"revision": revision}
    name = GENERATION_CONFIG_NAME
    try:
        if cached_file(path, name, _raise_exceptions_for_missing_entries=False, **where) is None:
            name = CONFIG_NAME
            found = AutoConfig.from_pretrained(path, trust_remote_code=False, **where).get_text_config()
        else:
            found = GenerationConfig.from_pretrained(path, **where)
    except Exception as error:  # whatever transformers says to a file's contents
        raise ChatError(f"{path} (model.name): {name} cannot be read ({why(error)}): get the file again") from error
    ends = found.eos_token_id if isinstance(found.eos_token_id, list) else [found.eos_token_id]
    if any(not isinstance(token, int) for token in ends if token is not None):
        raise ChatError(
            f"{path} (model.name): {name} has eos_token_id={found.eos_token_id!r}: write the token's number there, or "
            "a list of numbers"
        )
    return found


def read_template(path: Path, *, at: str) -> str:
    """Return a chat template's text.

    Args:
        path: A file.
        at: Who names it, for messages.

    Raises:
        ChatError: If it cannot be read, or is not in UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeError) as error:
        raise ChatError(f"{at}: the chat template {path} is not a text in UTF-8 ({error}): save it as one") from error


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
    tokenizer = _load(source, revision=revision)
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    _checked(tokenizer, source).save_pretrained(directory)


def load_tokenizer(path: str | Path, *, revision: str | None = None) -> Tokenizer:
    """Return a tokenizer with a chat template, an end-of-sequence token and a padding token.

    Raises:
        ChatError: If it cannot be loaded, or either is missing.
    """
    return _checked(_load(path, revision=revision), path)


def _load(path: str | Path, *, revision: str | None) -> Tokenizer:
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(str(path), revision=revision, trust_remote_code=False)
    except Exception as error:  # whatever transformers and tokenizers say to the files' contents
        raise ChatError(
            f"{path} (model.name): no tokenizer could be loaded from its files ({why(error)}): get or name a model "
            "with a tokenizer"
        ) from error


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


def chat_ids(
    tokenizer: Tokenizer,
    user: str,
    *,
    before: Sequence[tuple[str, str]] = (),
    assistant: str | None = None,
    conventions: Conventions = Conventions(),  # noqa: B008 (frozen)
    arguments: Mapping[str, Any] | None = None,
) -> list[int]:
    """Return the ids of a user turn and the opening of the assistant's turn, as the template renders them.

    Args:
        tokenizer: With a chat template.
        user: The user's turn; what must not be read as control tokens is broken up before (`break_control_tokens`).
        before: Role and text of the turns before it, likewise.
        assistant: Text that the assistant's turn starts with, if any.
        conventions: What the template is always given, and the date that it shows.
        arguments: What else it is given.
    """
    turns = [*before, ("user", user)]
    text = render_chat(tokenizer, turns, conventions=conventions, arguments=arguments, is_asking=True)
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if assistant:
        ids = ids + tokenizer.encode(assistant, add_special_tokens=False)
    return ids


def render_chat(
    tokenizer: Tokenizer,
    turns: Sequence[tuple[str, str]],
    *,
    conventions: Conventions,
    arguments: Mapping[str, Any] | None = None,
    fields: Mapping[str, str] | None = None,
    is_asking: bool,
) -> str:
    """Return a chat as the template's text.

    The clock of a template is the configured date, at midnight: a step that is resumed on another day would else ask
    half of its instructions in another way.

    Args:
        tokenizer: With a chat template.
        turns: Role and text.
        conventions: What the template is always given, the date, and how it takes a text.
        arguments: What else it is given.
        fields: What the last turn has beside role and text, such as a thought.
        is_asking: Whether the assistant's turn is opened at the end.
    """
    date = datetime.datetime.fromisoformat(conventions.date)
    messages: list[dict[str, Any]] = [
        {"role": role, "content": [{"type": "text", "text": text}] if conventions.takes_parts else text}
        for role, text in turns
    ]
    messages[-1] |= fields or {}
    given = {**conventions.arguments, **(arguments or {}), "strftime_now": date.strftime}
    return str(tokenizer.apply_chat_template(messages, add_generation_prompt=is_asking, tokenize=False, **given))


def end_ids(tokenizer: Tokenizer, generation_config: Any, *, template_end: int | None = None) -> frozenset[int]:
    """Return every token id that ends a turn.

    Args:
        tokenizer: Its EOS is one.
        generation_config: Its EOS are others.
        template_end: The token that the template writes after an assistant's text, if it writes one.
    """
    configured = generation_config.eos_token_id
    listed = configured if isinstance(configured, list) else [configured]
    return frozenset(token for token in (tokenizer.eos_token_id, *listed, template_end) if token is not None)


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
