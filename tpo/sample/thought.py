"""Thought prompts and their inverse: instruction -> user turn, completion -> thought and response.

The formats are the paper's (section 2, figures 2 and 3 of arXiv 2410.10630): a prompt that asks for a thought first,
and a delimiter after which the response starts. A completion that cannot be split has no response, and a reason; in
particular a thought that the token limit cut off is never mistaken for a response.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

from tpo.config.groups import ThoughtConfig
from tpo.config.thought import ThoughtFormat
from tpo.model.chat import Tokenizer, chat_ids


class Split(NamedTuple):
    """A completion taken apart; either `error` or `response` is None.

    `thought_span` and `response_span` are character offsets into the completion.
    """

    thought: str | None
    response: str | None
    error: str | None
    thought_span: tuple[int, int] = (0, 0)
    response_span: tuple[int, int] = (0, 0)


def split(completion: str, form: ThoughtFormat, *, is_prefilled: bool, finish_reason: str) -> Split:
    """Return thought and response of a completion, or the reason why there is no response.

    Args:
        completion: Text after the context, without EOS.
        form: The format that was asked for.
        is_prefilled: Whether the context ended with the thought delimiter.
        finish_reason: "stop" or "length"; tells a cut thought from a missing delimiter.

    Returns:
        A `Split`; `error` is one of "no_thought_delimiter", "no_response_delimiter", "thought_truncated",
        "repeated_delimiter" (where the response starts would be a guess, and a wrong one would show the judge part of
        the thought), "empty_thought", "empty_response".
    """
    if form.response_delimiter is None:
        return _checked(completion, thought_span=None, response_span=(0, len(completion)))
    start = 0
    if form.thought_delimiter is not None and not is_prefilled:
        found = completion.find(form.thought_delimiter)
        if found < 0:
            return Split(None, None, "no_thought_delimiter")
        start = found + len(form.thought_delimiter)
    stop = completion.find(form.response_delimiter, start)
    if stop < 0:
        return Split(None, None, "thought_truncated" if finish_reason == "length" else "no_response_delimiter")
    response_start = stop + len(form.response_delimiter)
    delimiters = [form.response_delimiter] + ([form.thought_delimiter] if form.thought_delimiter else [])
    head = completion[: max(0, start - len(form.thought_delimiter or ""))]
    rest = "\0".join([head, completion[start:stop], completion[response_start:]])
    if any(delimiter in rest for delimiter in delimiters):
        return Split(None, None, "repeated_delimiter")
    return _checked(completion, thought_span=(start, stop), response_span=(response_start, len(completion)))


def _checked(completion: str, *, thought_span: tuple[int, int] | None, response_span: tuple[int, int]) -> Split:
    start, stop = _stripped(completion, response_span)
    if start == stop:
        return Split(None, None, "empty_response")
    if thought_span is None:
        return Split(None, completion[start:stop], None, (0, 0), (start, stop))
    thought_start, thought_stop = _stripped(completion, thought_span)
    if thought_start == thought_stop:
        return Split(None, None, "empty_thought")
    thought = completion[thought_start:thought_stop]
    return Split(thought, completion[start:stop], None, (thought_start, thought_stop), (start, stop))


def _stripped(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Return the span without the white space at its ends."""
    part = text[slice(*span)]
    start = span[0] + len(part) - len(part.lstrip())
    return start, max(start, span[0] + len(part.rstrip()))


def num_tokens_within(
    token_ids: Sequence[int], span: tuple[int, int], *, decode: Callable[[Sequence[int]], str]
) -> int:
    """Return how many tokens lie in a span of characters of the decoded text.

    A token that straddles the edge belongs to the side where it starts.
    """
    return _tokens_before(token_ids, span[1], decode=decode) - _tokens_before(token_ids, span[0], decode=decode)


def _tokens_before(token_ids: Sequence[int], position: int, *, decode: Callable[[Sequence[int]], str]) -> int:
    low, high = 0, len(token_ids)
    while low < high:
        middle = (low + high) // 2
        if len(decode(token_ids[:middle]).rstrip("\ufffd")) < position:
            low = middle + 1
        else:
            high = middle
    return low


def make_format(thought: ThoughtConfig) -> ThoughtFormat:
    """Return the thought format that the group `thought` describes."""
    return ThoughtFormat(
        prompt=thought.prompt,
        thought_delimiter=thought.thought_delimiter,
        response_delimiter=thought.response_delimiter,
        enforce=thought.enforce,  # type: ignore[arg-type]  # checked by tpo.config.check
    )


def render(tokenizer: Tokenizer, instruction: str, form: ThoughtFormat) -> list[int]:
    """Return the context from which a completion to `instruction` is sampled."""
    return chat_ids(tokenizer, form.user_turn(instruction), assistant=form.prefill)
