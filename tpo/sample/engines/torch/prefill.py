"""One forward pass over several prompts, each behind what it has in common with the trunk."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tpo.sample.engines.torch.prompts import Trunk

DENSE_TOKENS = 512  # so many queries at most have their scores as one matrix, which is faster on a CPU


class Prefill:
    """Prompts side by side in one row, without padding.

    Attributes:
        edges: Each prompt's own tokens are [begin, stop) of the row, between two of these.
        inputs: What the model is called with.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], trunk: Trunk | None, *, device: torch.device) -> None:
        """Lay out prompts of at least one token; what they begin with in common with the trunk is not computed."""
        self.trunk = trunk
        self.num_common = [0 if trunk is None else trunk.common(ids) for ids in prompts]
        own = [list(ids[common:]) for ids, common in zip(prompts, self.num_common, strict=True)]
        self.edges = list(accumulate(map(len, own), initial=0))
        positions = [
            position
            for ids, common in zip(prompts, self.num_common, strict=True)
            for position in range(common, len(ids))
        ]
        self.inputs: dict[str, Any] = {
            "input_ids": torch.tensor([[token for ids in own for token in ids]], device=device),
            "position_ids": torch.tensor([positions], device=device),
            "logits_to_keep": torch.tensor([stop - 1 for stop in self.edges[1:]], device=device),  # of last tokens
            "step": self,
        }
        self._masks: dict[tuple[int, int, int], Tensor] = {}

    def attend(self, query: Tensor, key: Tensor, value: Tensor, layer: int, scaling: float) -> Tensor:
        """Return attention within each prompt.

        Args:
            query: (1, heads, tokens, head_dim).
            key: (1, kv_heads, tokens, head_dim).
            value: Like `key`.
            layer: Of the model.
            scaling: Of the scores.

        Returns:
            (1, tokens, heads, head_dim).
        """
        outs = []
        for (begin, stop), common in zip(pairwise(self.edges), self.num_common, strict=True):
            keys, values = (part[:, :, begin:stop] for part in (key, value))
            if common:
                assert self.trunk is not None
                before = self.trunk.layers[layer]
                keys = torch.cat([before.keys[:, :, :common], keys], dim=2)
                values = torch.cat([before.values[:, :, :common], values], dim=2)
            asking = query[:, :, begin:stop]
            is_dense = query.device.type == "cpu" and stop - begin <= DENSE_TOKENS
            outs.append((self._dense if is_dense else self._fused)(asking, keys, values, common, scaling))
        return torch.cat(outs, dim=2).transpose(1, 2)

    def _dense(self, query: Tensor, keys: Tensor, values: Tensor, common: int, scaling: float) -> Tensor:
        """Return attention of one prompt, with the query heads that share a key-value head in one product."""
        _, heads, own, _ = query.shape
        groups = heads // keys.shape[1]
        if (common, own, groups) not in self._masks:  # the same in all layers
            visible = self._visible(query, keys, common)
            mask = torch.zeros(visible.shape, dtype=query.dtype).masked_fill_(~visible, -torch.inf)
            self._masks[common, own, groups] = mask.repeat(groups, 1)
        by_head = query[0].reshape(-1, groups * own, query.shape[3])
        mask = self._masks[common, own, groups]
        weights = torch.softmax(torch.baddbmm(mask, by_head, keys[0].transpose(1, 2), alpha=scaling), dim=-1)
        return torch.bmm(weights, values[0]).view(query.shape)

    def _fused(self, query: Tensor, keys: Tensor, values: Tensor, common: int, scaling: float) -> Tensor:
        """Return the same from a kernel that does not store the scores."""
        is_grouped = query.device.type == "cpu"  # on a GPU no fused kernel has both a mask and fewer key-value heads
        if not is_grouped:
            groups = query.shape[1] // keys.shape[1]
            keys, values = (part.repeat_interleave(groups, dim=1) for part in (keys, values))
        return scaled_dot_product_attention(
            query,
            keys,
            values,
            attn_mask=self._visible(query, keys, common) if common else None,
            is_causal=not common,
            scale=scaling,
            enable_gqa=is_grouped,
        )

    @staticmethod
    def _visible(query: Tensor, keys: Tensor, common: int) -> Tensor:
        """Return (own, common + own), True where a token attends to another."""
        shape = (query.shape[2], keys.shape[2])
        return torch.ones(shape, dtype=torch.bool, device=query.device).tril(common)
