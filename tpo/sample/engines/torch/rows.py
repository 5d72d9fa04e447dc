"""Attention and key-value cache of samples that decode together, one row each, with the prompts that they share.

A prompt's keys and values are stored once for all its samples. So a sample attends to keys in two places, its prompt's
slot and its own row, which begins with its first token; one softmax is computed over both.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import AttentionInterface

from tpo.model.trees import TreeRow, tree_attention
from tpo.store.errors import TpoError

ATTENTION = "tpo_rows"
WINDOW_STEP = 64  # positions by which the cache's tensors grow


def row_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row: TreeRow | None = None,
    sharing: "Sharing | None" = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention for prefill (a row of prompts) and for decoding (one query token a row of the cache).

    In decoding, the query heads that share a key-value head are query *positions* of that head, and so are, over a
    prompt, the queries of its samples: a prompt's keys and values are read once for all of them.

    Args:
        module: The attention layer.
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, positions, head_dim).
        value: Like `key`.
        attention_mask: None for prefill; (batch, 1, 1, prompt positions + own positions) additive for decoding.
        row: The prompts; None for decoding.
        sharing: Which rows share which prompt; None for prefill.
        scaling: Of the scores.
        kwargs: Other arguments that the model passes to its attention.

    Returns:
        (batch, queries, heads, head_dim) and, for the interface, no weights.

    Raises:
        TpoError: If the model's attention is more than a softmax over scores.
    """
    for name in ("softcap", "s_aux"):  # Gemma 2's capped scores, GPT-OSS's attention sinks
        if kwargs.get(name) is not None:
            raise TpoError(f"engine=torch does not know this model's attention ({name}): use engine=vllm")
    if row is not None:
        return tree_attention(module, query, key, value, None, row=row, scaling=scaling)
    assert attention_mask is not None and sharing is not None
    batch, heads, _queries, dim = query.shape
    kv_heads, window = key.shape[1:3]
    scaled = query.reshape(batch, kv_heads, heads // kv_heads, dim) * (dim**-0.5 if scaling is None else scaling)
    prompt_keys, prompt_values = sharing.prompts[module.layer_idx]
    num_before = prompt_keys.shape[2]
    scores = query.new_empty(batch, kv_heads, heads // kv_heads, num_before + window)
    scores[..., :num_before] = sharing.to_rows(torch.matmul(sharing.to_slots(scaled), prompt_keys.transpose(2, 3)))
    # Keys times queries, since a CPU's kernel reorders the second factor, and the queries are smaller.
    scores[..., num_before:] = torch.matmul(key, scaled.transpose(2, 3)).transpose(2, 3)
    weights = torch.softmax(scores.add_(attention_mask), dim=-1)
    out = torch.matmul(weights[..., num_before:], value)
    out += sharing.to_rows(torch.matmul(sharing.to_slots(weights[..., :num_before]), prompt_values))
    return out.reshape(batch, 1, heads, dim), None


AttentionInterface.register(ATTENTION, row_attention)


class Sharing:
    """Which rows share which prompt, in one step of decoding."""

    def __init__(self, prompts: "list[tuple[Tensor, Tensor]]", slots: Sequence[int], *, device: Any) -> None:
        """Lay out the rows by prompt.

        Args:
            prompts: Keys and values per layer, (slots, kv_heads, positions, head_dim).
            slots: Of each row, the slot of its prompt.
            device: Of the rows.
        """
        self.prompts = prompts
        self.num_slots = max(slots) + 1
        num_rows_of = [0] * self.num_slots
        ranks = []
        for slot in slots:
            ranks.append(num_rows_of[slot])
            num_rows_of[slot] += 1
        self.num_shares = max(num_rows_of)
        places = [slot * self.num_shares + rank for slot, rank in zip(slots, ranks, strict=True)]
        row_at = [0] * (self.num_slots * self.num_shares)  # a place without a row computes the first row again
        for row, place in enumerate(places):
            row_at[place] = row
        self.places = torch.tensor(places, device=device)
        self.row_at = torch.tensor(row_at, device=device)

    def to_slots(self, of_rows: Tensor) -> Tensor:
        """Return (slots, kv_heads, shares x groups, size) of (rows, kv_heads, groups, size)."""
        _, kv_heads, groups, size = of_rows.shape
        spread = of_rows.index_select(0, self.row_at).view(self.num_slots, self.num_shares, kv_heads, groups, size)
        return spread.transpose(1, 2).reshape(self.num_slots, kv_heads, self.num_shares * groups, size)

    def to_rows(self, of_slots: Tensor) -> Tensor:
        """Return (rows, kv_heads, groups, size) of (slots, kv_heads, shares x groups, size): undoes `to_slots`."""
        num_slots, kv_heads, queries, size = of_slots.shape
        split = of_slots.view(num_slots, kv_heads, self.num_shares, queries // self.num_shares, size).transpose(1, 2)
        return split.reshape(num_slots * self.num_shares, kv_heads, -1, size).index_select(0, self.places)


class Prefix(NamedTuple):
    """A prompt's keys and values within a prefilled batch: [begin, stop) of its trunk and of its branch."""

    layers: list[tuple[Tensor, Tensor]]
    parts: tuple[tuple[int, int], tuple[int, int]]

    @property
    def length(self) -> int:
        """The prompt's tokens."""
        return sum(stop - begin for begin, stop in self.parts)


class RowCache:
    """Keys and values of prompts, in slots, and of sampled tokens, in rows; implements transformers' cache protocol."""

    is_compileable = False

    def __init__(self) -> None:
        """Make an empty cache; memory is allocated as prompts and tokens are stored."""
        self.prompts, self.own = _Block(), _Block()
        self.prefilled: list[tuple[Tensor, Tensor]] | None = None
        self.rows = torch.empty(0, dtype=torch.long)
        self.positions = torch.empty(0, dtype=torch.long)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions are always given explicitly."""
        return 0

    def begin_prefill(self) -> list[tuple[Tensor, Tensor]]:
        """Prepare for a row of prompts; return the list to which its keys and values are appended, per layer."""
        self.prefilled = []
        return self.prefilled

    def begin_decoding(self, lengths: Tensor, longest: int) -> None:
        """Prepare for one token of each active row, which is stored after the row's `lengths` (rows,) tokens."""
        self.prefilled = None
        self.rows = torch.arange(len(lengths), device=lengths.device)
        self.positions = lengths
        self.own.fit(len(lengths), longest + 1)

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store new keys and values; return those that the new queries attend to, without their prompts'."""
        if self.prefilled is not None:
            self.prefilled.append((key, value))
            return key, value
        if layer_idx == len(self.own.layers):
            self.own.add_layer(key, value)
        keys, values = self.own.layers[layer_idx]
        keys[self.rows, :, self.positions] = key[:, :, 0]
        values[self.rows, :, self.positions] = value[:, :, 0]
        return keys[: len(self.rows)], values[: len(self.rows)]

    def sharing(self, slots: Sequence[int]) -> Sharing:
        """Return which rows share which prompt, given each row's slot."""
        num_slots = max(slots) + 1
        prompts = [(keys[:num_slots], values[:num_slots]) for keys, values in self.prompts.layers]
        return Sharing(prompts, slots, device=self.positions.device)

    def put_prompt(self, slot: int, prefix: Prefix) -> None:
        """Copy a prefilled prompt to a slot; all slots before it are in use. Slots grow and never shrink."""
        if not self.prompts.layers:
            for layer in prefix.layers:
                self.prompts.add_layer(*layer)
        self.prompts.fit(slot + 1, max(prefix.length, self.prompts.window))
        start = 0
        for begin, stop in prefix.parts:
            for (keys, values), (key, value) in zip(self.prompts.layers, prefix.layers, strict=True):
                keys[slot, :, start : start + stop - begin] = key[0, :, begin:stop]
                values[slot, :, start : start + stop - begin] = value[0, :, begin:stop]
            start += stop - begin


class _Block:
    """Keys and values per layer, (number, kv_heads, window, head_dim).

    The tensors are as long as the longest entry, rounded up to `WINDOW_STEP`, and reallocated when that changes:
    attention reads them whole, since a CPU's matrix product would first copy a slice.
    """

    def __init__(self) -> None:
        self.number, self.window = 0, 0
        self.layers: list[tuple[Tensor, Tensor]] = []

    def add_layer(self, key: Tensor, value: Tensor) -> None:
        """Allocate a layer with the heads and dtype of `key` and `value`, (1 or more, kv_heads, tokens, head_dim)."""
        keys, values = (part.new_zeros(self.number, part.shape[1], self.window, part.shape[3]) for part in (key, value))
        self.layers.append((keys, values))

    def fit(self, number: int, length: int) -> None:
        """Reallocate for at least `number` entries of `length` positions; what is new is zero."""
        number = self.number if number <= self.number else max(number, 2 * self.number)
        window = -(-length // WINDOW_STEP) * WINDOW_STEP
        if (number, window) == (self.number, self.window):
            return
        common = min(window, self.window)
        for index, layer in enumerate(self.layers):
            keys, values = (part.new_zeros(number, part.shape[1], window, part.shape[3]) for part in layer)
            for new, old in zip((keys, values), layer, strict=True):
                new[: self.number, :, :common] = old[:, :, :common]
            self.layers[index] = keys, values
        self.number, self.window = number, window

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of an entry to another."""
        for keys, values in self.layers:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]
