"""Chats that a judge reads, rendered through a chat template, with a look at what the template made of the texts.

Templates rewrite what they are given: Qwen3's drops what an answer says before `</think>`. A judge's score of half a
response is no score of the response.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tpo.model.chat import ChatError, Tokenizer, render_chat
from tpo.model.control_tokens import break_control_tokens
from tpo.model.conventions import Conventions


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
    tokenizer: Tokenizer,
    turns: Sequence[Turn],
    *,
    conventions: Conventions,
    arguments: Mapping[str, Any] | None = None,
    opens_answer: bool = False,
) -> Rendering:
    """Return a chat as the tokenizer's template renders it; control tokens in the turns' texts are broken up.

    Args:
        tokenizer: With a chat template.
        turns: In order.
        conventions: What the template is always given, its date, and how it takes a text.
        arguments: What else it is given, such as `enable_thinking`.
        opens_answer: Whether the assistant's turn is opened at the end.

    Raises:
        ChatError: If the template cannot render the turns.
    """
    from jinja2 import TemplateError

    contents = [break_control_tokens(turn.text, tokenizer) for turn in turns]
    said = [(turn.role, content) for turn, content in zip(turns, contents, strict=True)]
    try:
        text = render_chat(tokenizer, said, conventions=conventions, arguments=arguments, is_asking=opens_answer)
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


def is_rendered_whole(tokenizer: Tokenizer, user: str, *, conventions: Conventions) -> bool:
    """Return whether the chat template renders a user's turn as it is, but for control tokens, which are broken up."""
    return render_turns(tokenizer, [Turn("user", user)], conventions=conventions).lost is None
