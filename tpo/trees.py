"""Token trees: sequences that begin alike, computed as one trunk and a branch for each, without padding.

The completions of a pair share their prompt, the chats of a judge share the instruction. A token's hidden state
depends on what stands before it only, so one forward pass over trunk, branch, branch, ... gives the states of every
sequence: positions count on from the trunk in each branch, and a branch attends to the trunk and to itself. Trees lie
one after the other in one row, and `tree_attention` tells them apart. Any causal decoder that transformers runs
through its attention interface computes them; `computes_trees` finds out whether a model does.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from os.path import commonprefix
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

ATTENTION = "tpo_trees"


class Tree(NamedTuple):
    """The token ids that several sequences share, and those that follow in each; either may be none."""

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
    """Where a tree lies in its row: [start, fork) is the trunk, and each branch ends at one of `stops`."""

    start: int
    fork: int
    stops: tuple[int, ...]

    def place(self, branch: int, position: int) -> int:
        """Return where the row holds a position of the sequence that ends with a branch."""
        trunk = self.fork - self.start
        if position < trunk:
            return self.start + position
        return (self.fork, *self.stops)[branch] + position - trunk


class Row:
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

    def mask(self, trunk: int, branch: int, window: int | None) -> Tensor:
        """Return (branch, trunk + branch), True where a branch's token attends; the same for all layers."""
        key = (trunk, branch, window)
        if key not in self._masks:
            mask = torch.ones(branch, trunk + branch, dtype=torch.bool, device=self.device).tril(trunk)
            self._masks[key] = mask if window is None else mask.triu(trunk - window + 1)
        return self._masks[key]


def tree_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row: Row,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention within each tree, a softmax over scaled scores.

    Args:
        module: The attention layer; unused.
        query: (1, heads, tokens, head_dim).
        key: (1, kv_heads, tokens, head_dim).
        value: Like `key`.
        attention_mask: Unused: the row says who attends to whom.
        row: What the tokens are.
        scaling: Of the scores.
        sliding_window: A token attends to so many positions, itself included; None to all before it.
        kwargs: What else the model hands to its attention.

    Returns:
        (1, tokens, heads, head_dim) and, for the interface, no weights.

    Raises:
        TypeError: If the model's attention is more than that.
    """
    for name in ("softcap", "s_aux"):  # Gemma 2's capped scores, GPT-OSS's attention sinks
        if kwargs.get(name) is not None:
            raise TypeError(f"attention with {name}")
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
            outs.append(
                scaled_dot_product_attention(
                    query[:, :, begin:stop],
                    keys,
                    values,
                    attn_mask=None if is_plain else row.mask(trunk, stop - begin, window),
                    is_causal=is_plain,
                    scale=scaling,
                    enable_gqa=True,
                )
            )
    return torch.cat(outs, dim=2).transpose(1, 2), None


AttentionInterface.register(ATTENTION, tree_attention)


@torch.no_grad()
def computes_trees(model: Any) -> bool:
    """Make a decoder without heads compute rows of trees; return False, and leave it as it was, if it cannot.

    Tried on two short trees against the model's own forward pass: a model whose attention looks ahead, is more than a
    softmax over scores, or does not go through the interface gives other states, or none at all.
    """
    own = model.config._attn_implementation
    trees = [Tree([*range(1, 13)], ([14, 15, 16], [17, 18, 19, 20])), Tree([21, 22, 23], ([24], [25, 26]))]
    expected = [
        model(input_ids=torch.tensor([trunk + branch], device=model.device), use_cache=False).last_hidden_state[0, -1]
        for trunk, branches in trees
        for branch in branches
    ]
    row = Row(trees, device=model.device)
    try:
        model.set_attn_implementation(ATTENTION)
        states = model(**row.inputs).last_hidden_state[0]
    except (TypeError, ValueError, RuntimeError):
        model.set_attn_implementation(own)
        return False
    found = states[[stop - 1 for span in row.spans for stop in span.stops]].float()
    straight = torch.stack(expected).float()
    # Kernels differ in rounding: 16-bit states by a hundredth of their size.
    if float((found - straight).norm() / straight.norm()) < 0.05:
        return True
    model.set_attn_implementation(own)
    return False
