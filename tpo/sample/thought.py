"""Thought formats in tokens: the context that an instruction is rendered to, and the tokens of a completion's parts."""

from bisect import bisect_left
from collections.abc import Sequence

from tpo.config.thought import ThoughtFormat
from tpo.model.chat import Tokenizer, chat_ids
from tpo.model.decoder import Decoder


def num_tokens_within(token_ids: Sequence[int], span: tuple[int, int], *, decode: Decoder) -> int:
    """Return how many tokens lie in a span of characters of the decoded text.

    A token that straddles the edge belongs to the side where it starts.
    """
    if span[0] == span[1]:
        return 0
    length, positions = decode.prefix_lengths(token_ids), range(len(token_ids))
    first, last = (bisect_left(positions, edge, key=length) for edge in span)
    return last - first


def render(tokenizer: Tokenizer, instruction: str, form: ThoughtFormat) -> list[int]:
    """Return the context from which a completion to `instruction` is sampled."""
    return chat_ids(tokenizer, form.user_turn(instruction), assistant=form.prefill)
