"""Attention of samples that decode together, one row each, over the row's own keys and its prompt's.

A short prompt's keys and values stand in front of each of its samples' rows. A long one's are stored once for all its
samples (`tpo.sample.engines.torch.cache`): then a sample attends to keys in two places, and one softmax is computed
over both.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface

from tpo.model.trees import TreeRow, tree_attention
from tpo.sample.engines.torch.cache import Layer, RowCache
from tpo.store.errors import TpoError

ATTENTION = "tpo_rows"


def row_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row: TreeRow | None = None,
    step: "DecodingStep | None" = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention for prefill (a row of prompts) and for decoding (one query token a row of the cache).

    In decoding, the query heads that share a key-value head are query *positions* of that head, and so are, over a
    shared prompt, the queries of its samples: its keys and values are read once for all of them.

    Args:
        module: The attention layer.
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, positions, head_dim), of the prompts in prefill and else of the new tokens.
        value: Like `key`.
        attention_mask: Unused: the row or the step defines which tokens attend to which.
        row: The prompts; None for decoding.
        step: What the rows attend to; None for prefill.
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
    assert step is not None
    batch, heads, _queries, dim = query.shape
    kv_heads = key.shape[1]
    scaled = query.reshape(batch, kv_heads, heads // kv_heads, dim) * (dim**-0.5 if scaling is None else scaling)
    return step.attend(scaled, module.layer_idx).view(batch, 1, heads, dim), None


AttentionInterface.register(ATTENTION, row_attention)


class DecodingStep:
    """What one step of decoding attends to: which positions of which blocks, and which shared prompts."""

    def __init__(self, cache: RowCache, *, dtype: torch.dtype) -> None:
        """Lay out the rows of the cache, of which each stores one token and attends to itself."""
        drafts, device = cache.active, cache.device
        lengths = torch.tensor([draft.length for draft in drafts], device=device)
        shared = torch.tensor([draft.prompt.num_shared for draft in drafts], device=device)
        self.positions = lengths + shared
        self.blocks = list(cache.blocks)
        self.sizes = [len(block.drafts) for block in self.blocks]
        self.masks = [
            _additive(torch.arange(block.window, device=device) <= own[:, None], dtype)
            for block, own in zip(self.blocks, torch.split(lengths, self.sizes), strict=True)
        ]
        self.sharing = None
        if cache.prompts.used:
            slots = [draft.prompt.slot for draft in drafts]
            lengths_of = torch.tensor([prompt.length for prompt in cache.prompts.used], device=device)
            mask = _additive(torch.arange(cache.prompts.window, device=device) < lengths_of[:, None], dtype)
            self.sharing = Sharing(cache.prompts.layers, slots, mask)
            outside = _additive(shared > 0, dtype)[:, None, None, None]  # of rows without a shared prompt
            self.outside = None if bool((shared > 0).all()) else outside

    def attend(self, query: Tensor, layer: int) -> Tensor:
        """Return attention of scaled queries, (rows, kv_heads, groups, head_dim) and so the result."""
        if self.sharing is None:
            parts = [
                _own_values(torch.softmax(_own_scores(part, block.layers[layer], mask), dim=-1), block.layers[layer])
                for part, block, mask in zip(torch.split(query, self.sizes), self.blocks, self.masks, strict=True)
            ]
            return parts[0] if len(parts) == 1 else torch.cat(parts)
        before = self.sharing.scores(query, layer)
        if self.outside is not None:
            before = before + self.outside
        num_before = before.shape[-1]
        out, before_weights = torch.empty_like(query), torch.empty_like(before)
        start = 0
        for size, block, mask in zip(self.sizes, self.blocks, self.masks, strict=True):
            rows = slice(start, start + size)
            scores = torch.cat([before[rows], _own_scores(query[rows], block.layers[layer], mask)], dim=-1)
            weights = torch.softmax(scores, dim=-1)
            before_weights[rows] = weights[..., :num_before]
            out[rows] = _own_values(weights[..., num_before:], block.layers[layer])
            start += size
        return out.add_(self.sharing.values(before_weights, layer))


def _additive(visible: Tensor, dtype: torch.dtype) -> Tensor:
    """Return 0 where something is attended to and else -inf."""
    return torch.zeros(visible.shape, dtype=dtype, device=visible.device).masked_fill_(~visible, -torch.inf)


def _own_scores(query: Tensor, layer: Layer, mask: Tensor) -> Tensor:
    """Return (entries, kv_heads, queries, window) of a layer's first entries; the mask is (entries, window)."""
    entries, kv_heads, queries, _ = query.shape
    keys = layer.keys[:entries].flatten(0, 1)
    of_heads = mask[:, None].expand(-1, kv_heads, -1).flatten(0, 1)[:, None]
    return torch.baddbmm(of_heads, query.flatten(0, 1), keys.transpose(1, 2)).view(entries, kv_heads, queries, -1)


def _own_values(weights: Tensor, layer: Layer) -> Tensor:
    """Return (entries, kv_heads, queries, head_dim) of weights over the window."""
    entries, kv_heads, queries, _ = weights.shape
    values = layer.values[:entries].flatten(0, 1)
    return torch.bmm(weights.flatten(0, 1), values).view(entries, kv_heads, queries, -1)


class Sharing:
    """Which rows share which prompt, in one step of decoding."""

    def __init__(self, layers: Sequence[Layer], slots: Sequence[int], mask: Tensor) -> None:
        """Lay out the rows by prompt.

        Args:
            layers: Keys and values of prompts, in slots.
            slots: Of each row, the slot of its prompt; -1 if it shares none, which adds nothing to its result.
            mask: (slots, window), additive.
        """
        self.layers, self.mask = layers, mask
        self.num_slots = len(mask)
        num_rows_of = [0] * self.num_slots
        ranks = []
        for slot in slots:
            ranks.append(num_rows_of[slot] if slot >= 0 else 0)
            if slot >= 0:
                num_rows_of[slot] += 1
        self.num_shares = max(1, *num_rows_of)
        # A row without a shared prompt reads another's place, and its weights there are zero.
        places = [max(slot, 0) * self.num_shares + rank for slot, rank in zip(slots, ranks, strict=True)]
        row_at = [0] * (self.num_slots * self.num_shares)  # a place without a row computes the first row again
        for row, (slot, place) in enumerate(zip(slots, places, strict=True)):
            if slot >= 0:
                row_at[place] = row
        self.places = torch.tensor(places, device=mask.device)
        self.row_at = torch.tensor(row_at, device=mask.device)
        self.has_own_place = torch.tensor([slot >= 0 for slot in slots], device=mask.device)[:, None, None, None]

    def scores(self, query: Tensor, layer: int) -> Tensor:
        """Return (rows, kv_heads, groups, window) of (rows, kv_heads, groups, head_dim)."""
        return self.to_rows(_own_scores(self.to_slots(query), self.layers[layer], self.mask))

    def values(self, weights: Tensor, layer: int) -> Tensor:
        """Return (rows, kv_heads, groups, head_dim) of weights over the window; zero for a row that shares none."""
        found = self.to_rows(_own_values(self.to_slots(weights), self.layers[layer]))
        return found.masked_fill_(~self.has_own_place, 0)

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
