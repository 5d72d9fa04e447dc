"""Thought formats in tokens: the context that an instruction is rendered to, and the tokens of a completion's parts."""

from collections.abc import Callable, Sequence

from tpo.config.thought import ThoughtFormat
from tpo.model.chat import Tokenizer, chat_ids


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


def render(tokenizer: Tokenizer, instruction: str, form: ThoughtFormat) -> list[int]:
    """Return the context from which a completion to `instruction` is sampled."""
    return chat_ids(tokenizer, form.user_turn(instruction), assistant=form.prefill)
