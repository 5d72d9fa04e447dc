"""Token ids to text, and the length of the text of any prefix without decoding the prefix.

Whoever looks for the token at a character (`tpo.sample.thought`) asks for the lengths of tens of prefixes, and decoding
them takes milliseconds. In the decoders of language models a token adds the same text wherever it stands, unless it
holds a part of a character, or stands first, where some decoders drop a space. So the lengths of the tokens' texts are
remembered, and only tokens of these two kinds are decoded, together with their neighbours of the same kind.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, groupby
from typing import Any

REPLACEMENT = "\ufffd"  # in place of bytes that are not a whole character
BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class Decoder:
    """Decodes ids exactly: special tokens are kept, spaces are not cleaned up."""

    def __init__(self, tokenizer: Any) -> None:
        """Keep the tokenizer; tokens are looked at when they are met."""
        self._tokenizer = tokenizer
        self._anchor: list[int] = tokenizer.encode("a", add_special_tokens=False)
        self._anchor_text = self(self._anchor)
        has_anchor = bool(self._anchor) and not self._is_partial(self._anchor[-1], self._anchor_text)
        self._is_additive = has_anchor and _is_additive(tokenizer)
        self._lengths = _Lengths(self._length)

    def __call__(self, token_ids: Sequence[int]) -> str:
        """Return the text of token ids."""
        return str(self._tokenizer.decode(token_ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def prefix_lengths(self, token_ids: Sequence[int]) -> Callable[[int], int]:
        r"""Return the function m -> `len(decode(token_ids[:m]).rstrip("\ufffd"))`: no unfinished character is counted.

        Where the tokenizer's decoder is not known to work as the module says, every prefix is decoded.
        """

        def decoded(stop: int) -> int:
            return len(self(token_ids[:stop]).rstrip(REPLACEMENT))

        if not self._is_additive:
            return decoded
        own = list(map(self._lengths.__getitem__, token_ids))
        head = min(1, len(own))
        while head < len(own) and (own[head] == 0 or not self(token_ids[:head])):
            head += 1
        added = [0] * head + own[head:]
        if head:
            added[head - 1] = len(self(token_ids[:head]))
        if 0 in added[head:]:
            for start, stop in _zero_runs(own, head):
                added[stop - 1] = len(self._continued(token_ids[start:stop]))
        ends = list(accumulate(added, initial=0))

        def length(stop: int) -> int:
            if stop <= head:
                return decoded(stop)
            start = stop
            while start > head and own[start - 1] == 0:
                start -= 1
            return ends[start] + len(self._continued(token_ids[start:stop]).rstrip(REPLACEMENT))

        return length

    def _continued(self, token_ids: Sequence[int]) -> str:
        """Return what tokens add to a text before them."""
        return self([*self._anchor, *token_ids])[len(self._anchor_text) :] if token_ids else ""

    def _length(self, token_id: int) -> int:
        """Return the length of the text that a token always adds; 0 where that depends on its neighbours."""
        text = self._continued([token_id])
        return 0 if self._is_partial(token_id, text) else len(text)

    def _is_partial(self, token_id: int, text: str) -> bool:
        return (
            text == "" or REPLACEMENT in text or bool(BYTE.fullmatch(self._tokenizer.convert_ids_to_tokens(token_id)))
        )


class _Lengths(dict[int, int]):
    """By token id, computed when one is first asked for."""

    def __init__(self, compute: Callable[[int], int]) -> None:
        self._compute = compute

    def __missing__(self, token_id: int) -> int:
        self[token_id] = self._compute(token_id)
        return self[token_id]


def _zero_runs(values: list[int], start: int) -> Iterator[tuple[int, int]]:
    """Yield [start, stop) of every longest run of zeros from `start` on."""
    for is_zero, group in groupby(range(start, len(values)), key=lambda position: values[position] == 0):
        if is_zero:
            run = list(group)
            yield run[0], run[-1] + 1


def _is_additive(tokenizer: Any) -> bool:
    """Return whether the tokenizer's decoder is of the byte-level or the SentencePiece family: see the module."""
    decoder = getattr(getattr(tokenizer, "backend_tokenizer", None), "decoder", None)
    if decoder is None:
        return False
    state = json.loads(decoder.__getstate__())
    parts = state["decoders"] if state["type"] == "Sequence" else [state]
    names = [part["type"] for part in parts]
    if names[-1] == "Strip" and parts[-1]["stop"] == 0 and names[:-1].count("Fuse") == 1:  # of the whole text's start
        names.pop()
    return names in (["ByteLevel"], ["Metaspace"]) or (
        names[-1] == "Fuse" and set(names[:-1]) <= {"Replace", "ByteFallback", "Metaspace"}
    )
