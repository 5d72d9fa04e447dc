"""Token trees: sequences with a common prefix, computed as one trunk and a branch for each, without padding.

The completions of a pair share their prompt, the chats of a judge share the instruction. A token's hidden state
depends only on the tokens before it, so one forward pass over trunk, branch, branch, ... gives the states of every
sequence: in each branch, positions continue from the trunk's, and tokens attend to the trunk and to their branch. Trees
are concatenated in one row, and `tree_attention` keeps them apart; what all of them begin with, such as a thought
prompt, can be computed once for the row. This works for any causal decoder that transformers runs through its attention
interface; `computes_trees` tests whether a model does.
"""

from collections.abc import Iterator, Sequence
from contextlib import suppress
from copy import copy
from itertools import accumulate, pairwise
from os.path import commonprefix
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tpo.model.probe import agrees, has_convolutions, probe_ids
from tpo.model.reach import reach

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
    """A tree's indices in its row: [start, fork) is the trunk, and each branch ends at one of `stops`.

    `root` of its first tokens are elsewhere: they are the row's [0, root), which its trees share.
    """

    start: int
    fork: int
    stops: tuple[int, ...]
    root: int = 0

    def place(self, branch: int, position: int) -> int:
        """Return the index in the row of a position of a branch's sequence, which begins with the trunk."""
        if position < self.root:
            return position
        own, trunk = position - self.root, self.fork - self.start
        if own < trunk:
            return self.start + own
        return (self.fork, *self.stops)[branch] + own - trunk

    def segments(self) -> Iterator["Segment"]:
        """Yield what attention computes: the trunk and the first branch as one sequence, then each other branch."""
        root, trunk = (0, self.root), (self.start, self.fork)
        edges = [self.start, *self.stops] if self.stops else trunk
        for begin, stop in pairwise(edges):
            seen = [root] if begin == self.start else [root, trunk]
            yield Segment(begin, stop, tuple(part for part in seen if part[0] < part[1]))


class Segment(NamedTuple):
    """Tokens [begin, stop) of a row; each attends to all tokens of the ranges `seen`, and to those before it here."""

    begin: int
    stop: int
    seen: tuple[tuple[int, int], ...]

    @property
    def ranges(self) -> tuple[tuple[int, int], ...]:
        """All that its last token attends to."""
        return (*self.seen, (self.begin, self.stop))

    @property
    def num_seen(self) -> int:
        """How many tokens come before."""
        return sum(stop - begin for begin, stop in self.seen)

    def visible(self, part: Tensor) -> Tensor:
        """Return (heads, num_seen + own tokens, head_dim) of (1, heads, tokens of the row, head_dim)."""
        if not self.seen:
            return part[0, :, self.begin : self.stop]
        return torch.cat([part[0, :, begin:stop] for begin, stop in self.ranges], dim=1)


class TreeRow:
    """Trees laid out one after the other.

    Attributes:
        spans: Of each tree.
        segments: Of all trees together, none of them empty.
        inputs: What the model is called with: `input_ids` and `position_ids`, both (1, tokens), and the row itself.
        windows: What layers gave as their sliding window, None where they have none.
    """

    def __init__(self, trees: Sequence[Tree], *, is_dense: bool = False, device: torch.device | str = "cpu") -> None:
        """Lay out the trees.

        Args:
            trees: The trees.
            is_dense: For a CPU: what all trunks begin with is computed once, before the trees, and a segment's scores
                are one matrix. On a GPU the fastest kernels are those for ordinary sequences, with which trees without
                that common root begin.
            device: Of the tensors.
        """
        self.device, self.is_dense = device, is_dense
        root = commonprefix([tree.trunk for tree in trees]) if is_dense and len(trees) > 1 else []
        ids, positions = list(root), list(range(len(root)))
        self.spans: list[Span] = []
        for tree in trees:
            trunk, branches = tree.trunk[len(root) :], tree.branches
            start, fork = len(ids), len(ids) + len(trunk)
            stops = tuple(accumulate(map(len, branches), initial=fork))[1:]
            self.spans.append(Span(start, fork, stops, len(root)))
            for part, first in ((trunk, len(root)), *((branch, len(tree.trunk)) for branch in branches)):
                ids += part
                positions += range(first, first + len(part))
        segments = [Segment(0, len(root), ()), *(segment for span in self.spans for segment in span.segments())]
        self.segments = [segment for segment in segments if segment.begin < segment.stop]
        self.inputs: dict[str, Any] = {
            "input_ids": torch.tensor([ids], device=device),
            "position_ids": torch.tensor([positions], device=device),
            "row": self,
            "use_cache": False,
        }
        self.windows: set[int | None] = set()
        self._masks: dict[tuple[Any, ...], Tensor] = {}

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "TreeRow":
        """Return the same row on a device."""
        moved = copy(self)
        moved.device, moved._masks = device, {}
        moved.inputs = {
            name: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
            for name, value in self.inputs.items()
        } | {"row": moved}
        return moved

    def mask(self, segment: Segment, window: int | None) -> Tensor:
        """Return (tokens of the segment, visible tokens), True where one attends to another; cached for all layers."""
        seen, own = segment.num_seen, segment.stop - segment.begin
        key = (seen, own, window)
        if key not in self._masks:
            mask = torch.ones(own, seen + own, dtype=torch.bool, device=self.device).tril(seen)
            self._masks[key] = mask if window is None else mask.triu(seen - window + 1)
        return self._masks[key]

    def dense_mask(self, segment: Segment, groups: int, window: int | None, dtype: torch.dtype) -> Tensor:
        """Return `mask` as 0 and -inf, repeated for each of the query heads that share a key-value head; cached too."""
        key = (segment.num_seen, segment.stop - segment.begin, window, groups, dtype)
        if key not in self._masks:
            mask = self.mask(segment, window)
            self._masks[key] = torch.zeros_like(mask, dtype=dtype).masked_fill_(~mask, -torch.inf).repeat(groups, 1)
        return self._masks[key]


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
        module: The attention layer.
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
    row.windows.add(sliding_window)
    if row.is_dense and key.shape == value.shape:
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        out: Tensor = _DenseTrees.apply(query, key, value, row, scale, sliding_window)  # type: ignore[no-untyped-call]
        return out, None
    outs = []
    for segment in row.segments:
        keys, values = segment.visible(key)[None], segment.visible(value)[None]
        window = sliding_window if sliding_window is not None and sliding_window < keys.shape[2] else None
        is_plain = not segment.seen and window is None  # a mask takes longer
        # On a GPU no fused kernel supports both a mask and fewer key-value heads.
        is_grouped = is_plain or query.device.type == "cpu"
        if not is_grouped:
            keys, values = (of.repeat_interleave(query.shape[1] // of.shape[1], dim=1) for of in (keys, values))
        outs.append(
            scaled_dot_product_attention(
                query[:, :, segment.begin : segment.stop],
                keys,
                values,
                attn_mask=None if is_plain else row.mask(segment, window),
                is_causal=is_plain,
                scale=scaling,
                enable_gqa=is_grouped,
            )
        )
    return torch.cat(outs, dim=2).transpose(1, 2), None


class _DenseTrees(torch.autograd.Function):
    """Each segment's scores as one matrix, which is faster on a CPU (`experiments/kernels.py`).

    The fused kernels are slow there, above all their backward pass, and so is autograd's backward pass of slices, each
    of which allocates a whole row of zeros.
    """

    @staticmethod
    def forward(
        ctx: Any, query: Tensor, key: Tensor, value: Tensor, row: TreeRow, scaling: float, window: int | None
    ) -> Tensor:
        _, heads, tokens, dim = query.shape
        kv_heads = key.shape[1]
        both = torch.cat([key, value], dim=1)
        out = query.new_empty(1, tokens, heads, dim)
        weights = []
        for segment in row.segments:
            keys, values = segment.visible(both).chunk(2)
            mask = row.dense_mask(segment, heads // kv_heads, window, query.dtype)
            scores = torch.baddbmm(mask, _of_segment(query, segment, kv_heads), keys.transpose(1, 2), alpha=scaling)
            weights.append(torch.softmax(scores, dim=-1))
            _put(out, segment, torch.bmm(weights[-1], values))
        ctx.save_for_backward(query, both, *weights)
        ctx.row, ctx.scaling = row, scaling
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        query, both, *weights = ctx.saved_tensors
        kv_heads = both.shape[1] // 2
        # In the memory layout of the model's projections.
        grad_query = torch.empty_like(query.transpose(1, 2), memory_format=torch.contiguous_format)
        grad_both = torch.zeros_like(both[0], dtype=torch.float32)  # a sum over segments
        for segment, weight in zip(ctx.row.segments, weights, strict=True):
            keys, values = segment.visible(both).chunk(2)
            asked, given = (_of_segment(part, segment, kv_heads) for part in (query, grad.transpose(1, 2)))
            grad_weight = torch.bmm(given, values.transpose(1, 2))
            grad_scores = torch._softmax_backward_data(grad_weight, weight, -1, weight.dtype).mul_(ctx.scaling)
            _put(grad_query, segment, torch.bmm(grad_scores, keys))
            found = torch.cat([torch.bmm(grad_scores.transpose(1, 2), asked), torch.bmm(weight.transpose(1, 2), given)])
            first = 0
            for begin, stop in segment.ranges:
                grad_both[:, begin:stop] += found[:, first : first + stop - begin]
                first += stop - begin
        grad_key, grad_value = grad_both.to(both.dtype)[None].chunk(2, dim=1)
        return grad_query.transpose(1, 2), grad_key, grad_value, None, None, None


def _of_segment(part: Tensor, segment: Segment, kv_heads: int) -> Tensor:
    """Return (kv_heads, its query heads x tokens, head_dim) of (1, heads, tokens of the row, head_dim)."""
    return part[0, :, segment.begin : segment.stop].reshape(kv_heads, -1, part.shape[-1])


def _put(row: Tensor, segment: Segment, values: Tensor) -> None:
    """Write what `_of_segment` laid out to (1, tokens of the row, heads, head_dim)."""
    _, _, heads, dim = row.shape
    row[0, segment.begin : segment.stop] = values.view(heads, -1, dim).transpose(0, 1)


AttentionInterface.register(ATTENTION, tree_attention)


@torch.no_grad()
def computes_trees(model: Any) -> bool:
    """Switch a decoder without heads to tree attention and return True; return False where that is impossible.

    Tested on two short trees against the model's own forward pass: a model whose attention looks ahead, is more than a
    softmax over scores, or bypasses transformers' interface, or which has layers of another kind, gives other states or
    an error. Attention must have been asked through the interface, and given a window that is longer than these trees,
    or a mask alone has it: what comes of that can be as small as rounding.
    """
    if has_convolutions(model):
        return False
    own = model.config._attn_implementation
    ids = probe_ids(model, 31)
    trees = [Tree(ids[:12], (ids[12:15], ids[15:19], ids[19:21])), Tree(ids[:4] + ids[21:24], (ids[24:25], ids[25:31]))]
    row = TreeRow(trees, is_dense=model.device.type == "cpu", device=model.device)
    expected, places = [], []
    for tree, span in zip(trees, row.spans, strict=True):
        for number, branch in enumerate(tree.branches):
            sequence = tree.trunk + branch
            straight = model(input_ids=torch.tensor([sequence], device=model.device), use_cache=False)
            # What comes first in a branch sees most of what does not belong to it, if anything does.
            for position in (len(tree.trunk), len(sequence) - 1):
                expected.append(straight.last_hidden_state[0, position])
                places.append(span.place(number, position))
    with suppress(Exception):  # whatever a family's own code says to inputs of another kind
        model.set_attn_implementation(ATTENTION)
        states = model(**row.inputs).last_hidden_state[0]
        limit = reach(model.config)
        is_seen = limit is None or limit.name == "rope_type" or limit.tokens in row.windows
        # Without layers there is no attention to ask for (`experiments/kernels.py` has such a model).
        num_layers = getattr(model.config.get_text_config(), "num_hidden_layers", None)
        is_asked = bool(row.windows) or num_layers == 0
        if is_asked and is_seen and agrees(states[places], torch.stack(expected), dtype=model.dtype):
            return True
    model.set_attn_implementation(own)
    return False
