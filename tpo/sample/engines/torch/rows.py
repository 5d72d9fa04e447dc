"""Attention of samples that decode together, one row each, over the row's own keys and those that rows share.

A long prompt with several samples is stored once for them. What all prompts begin with, the trunk, is stored once for
all rows of other prompts, whose rest stands in front of each sample's row (`tpo.sample.engines.torch.cache`). A sample
attends to keys in two places, and one softmax is computed over them.
"""

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface

from tpo.sample.engines.torch.cache import RowCache
from tpo.sample.engines.torch.prompts import Layer, Trunk

ATTENTION = "tpo_rows"


class Step(Protocol):
    """A forward pass."""

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, scaling: float) -> Tensor:
        """Return attention as `row_attention` does."""
        ...


def row_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    step: Step,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention for prefill (a row of prompts) and for decoding (one query token a row of the cache).

    Args:
        module: The attention layer.
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, positions, head_dim), of the prompts in prefill and else of the new tokens.
        value: Like `key`.
        attention_mask: Unused: the step defines which tokens attend to which.
        step: What attends to what.
        scaling: Of the scores.
        kwargs: Other arguments that the model passes to its attention.

    Returns:
        (batch, queries, heads, head_dim) and, for the interface, no weights.

    Raises:
        TypeError: If the model's attention is more than a softmax over scores.
    """
    for name in ("softcap", "s_aux"):  # Gemma 2's capped scores, GPT-OSS's attention sinks
        if kwargs.get(name) is not None:
            raise TypeError(f"attention with {name}")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    return step.attend(query, key, value, module.layer_idx, scale), None


AttentionInterface.register(ATTENTION, row_attention)


class DecodingStep:
    """What one step of decoding attends to: which positions of which blocks, and what rows share.

    The query heads that share a key-value head are query *positions* of that head, and so are, over keys that rows
    share, the queries of these rows: keys and values are read once for all of them.
    """

    def __init__(self, cache: RowCache, *, dtype: torch.dtype) -> None:
        """Lay out the rows of the cache, of which each stores one token and attends to itself."""
        drafts, device = cache.active, cache.device
        prompts = [draft.prompt for draft in drafts]
        lengths = torch.tensor([draft.length for draft in drafts], device=device)
        trunks = torch.tensor([prompt.num_trunk for prompt in prompts], device=device)
        self.positions = lengths + torch.tensor([prompt.num_shared for prompt in prompts], device=device)
        self.blocks = list(cache.blocks)
        self.sizes = [len(block.drafts) for block in self.blocks]
        self.masks = [
            _additive(torch.arange(block.window, device=device) <= own[:, None], dtype)
            for block, own in zip(self.blocks, torch.split(lengths, self.sizes), strict=True)
        ]
        self.shared: list[SharedTrunk | SharedSlots] = []
        if cache.trunk is not None and any(prompt.num_trunk for prompt in prompts):
            mask = _additive(torch.arange(len(cache.trunk.token_ids), device=device) < trunks[:, None], dtype)
            self.shared.append(SharedTrunk(cache.trunk, mask))
        if cache.prompts.used:
            used = torch.tensor([prompt.length for prompt in cache.prompts.used], device=device)
            mask = _additive(torch.arange(cache.prompts.window, device=device) < used[:, None], dtype)
            self.shared.append(SharedSlots(cache.prompts.layers, [prompt.slot for prompt in prompts], mask))

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, scaling: float) -> Tensor:
        """Return attention of queries, (rows, heads, 1, head_dim), as (rows, 1, heads, head_dim).

        Keys and values are in the cache.
        """
        num_rows, heads, _, dim = query.shape
        kv_heads = key.shape[1]
        scaled = query.reshape(num_rows, kv_heads, heads // kv_heads, dim) * scaling
        before = [shared.scores(scaled, layer) for shared in self.shared]
        windows = [scores.shape[-1] for scores in before]
        weights = [torch.empty_like(scores) for scores in before]
        out = torch.empty_like(scaled)
        start = 0
        for size, block, mask in zip(self.sizes, self.blocks, self.masks, strict=True):
            rows = slice(start, start + size)
            own = _own_scores(scaled[rows], block.layers[layer], mask)
            scores = torch.cat([*(scores[rows] for scores in before), own], dim=-1) if before else own
            *parts, own = torch.split(torch.softmax(scores, dim=-1), [*windows, block.window], dim=-1)
            for whole, part in zip(weights, parts, strict=True):
                whole[rows] = part
            out[rows] = _own_values(own, block.layers[layer])
            start += size
        for shared, part in zip(self.shared, weights, strict=True):
            out += shared.values(part, layer)
        return out.view(num_rows, 1, heads, dim)


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


class SharedTrunk:
    """The keys and values that all prompts begin with, in one step of decoding."""

    def __init__(self, trunk: Trunk, mask: Tensor) -> None:
        """Take the trunk and an additive mask, (rows, tokens): a row may attend to its first tokens only, or to none.

        Such a row adds nothing to its result: its weights are zero.
        """
        self.layers = trunk.layers
        self.mask = mask[:, None]

    def scores(self, query: Tensor, layer: int) -> Tensor:
        """Return (rows, kv_heads, groups, tokens) of (rows, kv_heads, groups, head_dim)."""
        rows, kv_heads, groups, _ = query.shape
        found = torch.bmm(_by_head(query), self.layers[layer].keys[0].transpose(1, 2))
        return found.view(kv_heads, rows, groups, -1).transpose(0, 1) + self.mask[:, None]

    def values(self, weights: Tensor, layer: int) -> Tensor:
        """Return (rows, kv_heads, groups, head_dim) of weights over the tokens."""
        rows, kv_heads, groups, _ = weights.shape
        found = torch.bmm(_by_head(weights), self.layers[layer].values[0])
        return found.view(kv_heads, rows, groups, -1).transpose(0, 1)


def _by_head(of_rows: Tensor) -> Tensor:
    """Return (kv_heads, rows x groups, size) of (rows, kv_heads, groups, size)."""
    return of_rows.transpose(0, 1).flatten(1, 2)


class SharedSlots:
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
        found = self.to_rows(_own_scores(self.to_slots(query), self.layers[layer], self.mask))
        return found.masked_fill_(~self.has_own_place, -torch.inf)

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
