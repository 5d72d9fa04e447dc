"""Chats that a judge reads, rendered through a chat template, with a look at what the template made of the texts.

Templates rewrite what they are given: Qwen3's drops what an answer says before `</think>`. A judge's score of half a
response is no score of the response.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tpo.model.chat import ChatError, Tokenizer
from tpo.model.control_tokens import break_control_tokens


class Turn(NamedTuple):
    """What is said in a role: "system", "user" or "assistant"."""

    role: str
    text: str


class Rendering(NamedTuple):
    """A chat as its template renders it.

    Attributes:
        text: All of it.
        lost: The role of the first turn whose text does not stand in it as it was given; None where all do.
        tail: What the template writes behind the last turn's text.
    """

    text: str
    lost: str | None
    tail: str

    def ids(self, tokenizer: Tokenizer) -> list[int]:
        """Return the token ids, with the BOS that the template writes and no other."""
        ids: list[int] = tokenizer(self.text, add_special_tokens=False).input_ids
        return ids


def render_turns(
    tokenizer: Tokenizer, turns: Sequence[Turn], *, arguments: Mapping[str, Any], opens_answer: bool = False
) -> Rendering:
    """Return a chat as the tokenizer's template renders it; control tokens in the turns' texts are broken up.

    Args:
        tokenizer: With a chat template.
        turns: In order.
        arguments: The template's, such as `enable_thinking`.
        opens_answer: Whether the assistant's turn is opened at the end.

    Raises:
        ChatError: If the template cannot render the turns.
    """
    from jinja2 import TemplateError

    contents = [break_control_tokens(turn.text, tokenizer) for turn in turns]
    messages = [{"role": turn.role, "content": content} for turn, content in zip(turns, contents, strict=True)]
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=opens_answer, **arguments
        )
    except (TemplateError, TypeError, ValueError, LookupError, AttributeError) as error:  # whatever a template raises
        roles = " and ".join(turn.role for turn in turns)
        raise ChatError(f"{tokenizer.name_or_path}: the chat template refuses the {roles} turn: {error}") from error
    stop = 0
    for turn, content in zip(turns, contents, strict=True):
        kept = content.strip()  # white space around a text is a template's to take
        start = text.find(kept, stop)
        if start < 0:
            return Rendering(text, turn.role, "")
        stop = start + len(kept)
    return Rendering(text, None, text[stop:])


def is_rendered_whole(tokenizer: Tokenizer, user: str) -> bool:
    """Return whether the chat template renders a user's turn as it is, but for control tokens, which are broken up."""
    return render_turns(tokenizer, [Turn("user", user)], arguments={}).lost is None


def require_read(tokenizer: Tokenizer, arguments: Mapping[str, Any], *, at: str) -> None:
    """Raise unless the chat template reads each of the arguments: it would pass over a misspelled one.

    Raises:
        ChatError: Naming the argument and its key.
    """
    template = tokenizer.chat_template
    text = "\n".join(template.values()) if isinstance(template, dict) else template
    for name in arguments:
        if not re.search(rf"\b{re.escape(name)}\b", text):
            raise ChatError(f"{at}.{name}: the chat template of {tokenizer.name_or_path} reads nothing of that name")
