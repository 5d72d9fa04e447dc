"""Token trees: sequences with a common prefix, computed as one trunk and a branch for each, without padding.

The completions of a pair share their prompt, the chats of a judge share the instruction. A token's hidden state
depends only on the tokens before it, so one forward pass over trunk, branch, branch, ... gives the states of every
sequence: in each branch, positions continue from the trunk's, and tokens attend to the trunk and to their branch. Trees
are concatenated in one row, and `tree_attention` keeps them apart. This works for any causal decoder that transformers
runs through its attention interface; `computes_trees` tests whether a model does.
"""

from collections.abc import Sequence
from copy import copy
from itertools import accumulate, pairwise
from os.path import commonprefix
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "tpo_trees"


class Tree(NamedTuple):
    """The common prefix of several sequences and the rest of each, as token ids; either may be empty."""

    trunk: list[int]
    branches: tuple[list[int], ...]

    @property
    def num_tokens(self) -> int:
        """How many tokens are computed."""
        return len(self.trunk) + sum(map(len, self.branches))


def join(sequences: Sequence[list[int]]) -> Tree:
    """Return the tree of sequences: their longest common prefix is the trunk."""
    trunk = list(commonprefix(list(sequences)))
    return Tree(trunk, tuple(ids[len(trunk) :] for ids in sequences))


class Span(NamedTuple):
    """A tree's indices in its row: [start, fork) is the trunk, and each branch ends at one of `stops`."""

    start: int
    fork: int
    stops: tuple[int, ...]

    @property
    def stop(self) -> int:
        """Where the tree ends."""
        return self.stops[-1] if self.stops else self.fork

    def place(self, branch: int, position: int) -> int:
        """Return the index in the row of a position of a branch's sequence, which begins with the trunk."""
        trunk = self.fork - self.start
        if position < trunk:
            return self.start + position
        return (self.fork, *self.stops)[branch] + position - trunk


class TreeRow:
    """Trees laid out one after the other.

    Attributes:
        spans: Of each tree.
        inputs: What the model is called with: `input_ids` and `position_ids`, both (1, tokens), and the row itself.
    """

    def __init__(self, trees: Sequence[Tree], *, device: torch.device | str = "cpu") -> None:
        """Lay out `trees`."""
        self.device = device
        self.spans: list[Span] = []
        ids: list[int] = []
        positions: list[int] = []
        for trunk, branches in trees:
            start, fork = len(ids), len(ids) + len(trunk)
            stops = tuple(accumulate(map(len, branches), initial=fork))[1:]
            self.spans.append(Span(start, fork, stops))
            for part, first in ((trunk, 0), *((branch, len(trunk)) for branch in branches)):
                ids += part
                positions += range(first, first + len(part))
        self.inputs: dict[str, Any] = {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
            "row": self,
            "use_cache": False,
        }
        self._masks: dict[tuple[int, int, int | None], Tensor] = {}
        self._dense_masks: dict[tuple[Span, int, int | None, torch.dtype], Tensor] = {}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TreeRow":
        """Return the same row on a device."""
        moved = copy(self)
        moved.device, moved._masks, moved._dense_masks = device, {}, {}
        moved.inputs = {
            name: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        } | {"row": moved}
        return moved

    def mask(self, trunk: int, branch: int, window: int | None) -> Tensor:
        """Return (branch, trunk + branch), True where a branch's token attends; cached, as all layers share it."""
        key = (trunk, branch, window)
        if key not in self._masks:
            mask = torch.ones(branch, trunk + branch, dtype=torch.bool, device=self.device).tril(trunk)
            self._masks[key] = mask if window is None else mask.triu(trunk - window + 1)
        return self._masks[key]

    def dense_mask(self, span: Span, groups: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return (groups x tokens of the tree, tokens of the tree), 0 where a token attends to another and else -inf.

        Cached, as all layers share it, and repeated for each of the query heads that share a key-value head.
        """
        key = (span, groups, window, dtype)
        if key not in self._dense_masks:
            size = span.stop - span.start
            places = torch.full((size,), -1, device=self.device)  # of which branch a token is
            for branch, (begin, stop) in enumerate(pairwise((span.fork, *span.stops))):
                places[begin - span.start : stop - span.start] = branch
            sees = (places[:, None] == places) | (places == -1)
            positions = self.inputs["position_ids"][0, span.start : span.stop]
            behind = positions[:, None] - positions
            sees &= (behind >= 0) & (behind < (size if window is None else window))
            mask = torch.zeros(size, size, dtype=dtype, device=self.device).masked_fill_(~sees, -torch.inf)
            self._dense_masks[key] = mask.repeat(groups, 1)
        return self._dense_masks[key]


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row: TreeRow,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention within each tree, a softmax over scaled scores.

    Args:
        module: The attention layer; in train mode on a CPU, scores are whole matrices.
        query: (1, heads, tokens, head_dim).
        key: (1, kv_heads, tokens, head_dim).
        value: Like `key`.
        attention_mask: Unused: the row defines which tokens attend to which.
        row: The trees.
        scaling: Of the scores.
        sliding_window: A token attends to so many positions, itself included; None to all before it.
        kwargs: Other arguments that the model passes to its attention.

    Returns:
        (1, tokens, heads, head_dim) and, for the interface, no weights.

    Raises:
        TypeError: If the model's attention is more than a softmax over scaled scores.
    """
    for name in ("softcap", "s_aux"):  # Gemma 2's capped scores, GPT-OSS's attention sinks
        if kwargs.get(name) is not None:
            raise TypeError(f"attention with {name}")
    # Also where no gradient is needed, so that the reference is rounded like the policy.
    if query.device.type == "cpu" and module.training:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        out: Tensor = _DenseTrees.apply(query, key, value, row, scale, sliding_window)  # type: ignore[no-untyped-call]
        return out, None
    outs = []
    for start, fork, stops in row.spans:
        # The trunk and the first branch are one ordinary sequence.
        for begin, stop in pairwise([start, *stops] if stops else [start, fork]):
            if begin == stop:
                continue
            if begin == start:
                trunk, keys, values = 0, key[:, :, begin:stop], value[:, :, begin:stop]
            else:
                trunk = fork - start
                keys, values = (torch.cat([of[:, :, start:fork], of[:, :, begin:stop]], dim=2) for of in (key, value))
            window = sliding_window if sliding_window is not None and sliding_window < keys.shape[2] else None
            is_plain = trunk == 0 and window is None  # a mask takes longer
            # On a GPU no fused kernel supports both a mask and fewer key-value heads.
            is_grouped = is_plain or query.device.type == "cpu"
            if not is_grouped:
                keys, values = (of.repeat_interleave(query.shape[1] // of.shape[1], dim=1) for of in (keys, values))
            outs.append(
                scaled_dot_product_attention(
                    query[:, :, begin:stop],
                    keys,
                    values,
                    attn_mask=None if is_plain else row.mask(trunk, stop - begin, window),
                    is_causal=is_plain,
                    scale=scaling,
                    enable_gqa=is_grouped,
                )
            )
    return torch.cat(outs, dim=2).transpose(1, 2), None


class _DenseTrees(torch.autograd.Function):
    """Each tree's scores as one matrix, for training on a CPU, where this is faster (`experiments/kernels.py`).

    The fused kernels' backward pass is slow there, and so is autograd's backward pass of slices, each of which
    allocates a whole row of zeros. The scores between different branches are computed and masked.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, row: TreeRow, scaling: float, window: int | None
    ) -> Tensor:
        _, heads, tokens, dim = query.shape
        kv_heads = key.shape[1]
        out = query.new_empty(1, tokens, heads, dim)
        weights = []
        for span in row.spans:
            asked, keys, values = (_of_tree(part, span, kv_heads) for part in (query, key, value))
            mask = row.dense_mask(span, heads // kv_heads, window, query.dtype)
            scores = torch.baddbmm(mask, asked, keys.transpose(1, 2), alpha=scaling)
            weights.append(torch.softmax(scores, dim=-1))
            _put_tree(out, span, torch.bmm(weights[-1], values))
        ctx.save_for_backward(query, key, value, *weights)
        ctx.row, ctx.scaling = row, scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, key, value, *weights = ctx.saved_tensors
        kv_heads = key.shape[1]
        # In the memory layout of the model's projections.
        grads = [
            torch.empty_like(part.transpose(1, 2), memory_format=torch.contiguous_format)
            for part in (query, key, value)
        ]
        for span, weight in zip(ctx.row.spans, weights, strict=True):
            asked, keys, values = (_of_tree(part, span, kv_heads) for part in (query, key, value))
            given = _of_tree(grad.transpose(1, 2), span, kv_heads)
            grad_weight = torch.bmm(given, values.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype)
            _put_tree(grads[0], span, torch.bmm(grad_scores, keys).mul_(ctx.scaling))
            _put_tree(grads[1], span, torch.bmm(grad_scores.transpose(1, 2), asked).mul_(ctx.scaling))
            _put_tree(grads[2], span, torch.bmm(weight.transpose(1, 2), given))
        return *(part.transpose(1, 2) for part in grads), None, None, None


def _of_tree(part: Tensor, span: Span, kv_heads: int) -> Tensor:
    """Return (kv_heads, its query heads x tokens, head_dim) of (1, heads, tokens of the row, head_dim)."""
    return part[0, :, span.start : span.stop].reshape(kv_heads, -1, part.shape[-1])


def _put_tree(row: Tensor, span: Span, values: Tensor) -> None:
    """Write what `_of_tree` laid out to (1, tokens of the row, heads, head_dim)."""
    _, _, heads, dim = row.shape
    row[0, span.start : span.stop] = values.view(heads, -1, dim).transpose(0, 1)


AttentionInterface.register(ATTENTION, tree_attention)


@torch.no_grad()
def computes_trees(model: Any) -> bool:
    """Switch a decoder without heads to tree attention and return True; return False where that is impossible.

    Tested on two short trees against the model's own forward pass: a model whose attention looks ahead, is more than a
    softmax over scores, or bypasses transformers' interface gives other states, or an error.
    """
    own = model.config._attn_implementation
    # Spread over the vocabulary, whose first ids are special tokens that never follow one another in training.
    size = model.get_input_embeddings().num_embeddings
    ids = [size * number // 32 for number in range(1, 32)]
    trees = [Tree(ids[:12], (ids[12:15], ids[15:19], ids[19:21])), Tree(ids[21:24], (ids[24:25], ids[25:31]))]
    expected = [
        model(input_ids=torch.tensor([trunk + branch], device=model.device), use_cache=False).last_hidden_state[0, -1]
        for trunk, branches in trees
        for branch in branches
    ]
    row = TreeRow(trees, device=model.device)
    try:
        model.set_attn_implementation(ATTENTION)
        states = model(**row.inputs).last_hidden_state[0]
    except (TypeError, ValueError, RuntimeError):
        model.set_attn_implementation(own)
        return False
    found = states[[stop - 1 for span in row.spans for stop in span.stops]].float()
    straight = torch.stack(expected).float()
    # Kernels differ in rounding: 16-bit states by a hundredth of their norm, and an occasional one by much more, where
    # a layer amplifies a small difference.
    if float(((found - straight).norm(dim=1) / straight.norm(dim=1)).median()) < 0.05:
        return True
    model.set_attn_implementation(own)
    return False
