"""Thought formats in tokens: which tokens of a completion are of its thought, and which of its response."""

from bisect import bisect_left
from collections.abc import Sequence

from tpo.config.thought import Split
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


def response_start(token_ids: Sequence[int], text: str, parts: Split, *, decode: Decoder) -> int:
    """Return how many tokens stand before the response: the thought with its delimiters.

    White space between the delimiter and the response belongs to the response, whose first token often starts with it.

    Args:
        token_ids: Of the completion.
        text: Of the completion.
        parts: The completion taken apart.
        decode: Decodes `token_ids` to `text`.
    """
    delimiter_stop = len(text[: parts.response_span[0]].rstrip())
    return num_tokens_within(token_ids, (0, delimiter_stop), decode=decode)
