"""One forward pass over several prompts, each behind what it has in common with the trunk."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from tpo.sample.engines.torch.prompts import Trunk


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
        self._masks: dict[tuple[int, int], Tensor] = {}

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
        is_grouped = query.device.type == "cpu"  # on a GPU no fused kernel has both a mask and fewer key-value heads
        groups = query.shape[1] // key.shape[1]
        for (begin, stop), common in zip(pairwise(self.edges), self.num_common, strict=True):
            keys, values = (part[:, :, begin:stop] for part in (key, value))
            if common:
                assert self.trunk is not None
                before = self.trunk.layers[layer]
                keys = torch.cat([before.keys[:, :, :common], keys], dim=2)
                values = torch.cat([before.values[:, :, :common], values], dim=2)
            if not is_grouped:
                keys, values = (part.repeat_interleave(groups, dim=1) for part in (keys, values))
            out = scaled_dot_product_attention(
                query[:, :, begin:stop],
                keys,
                values,
                attn_mask=self._mask(common, stop - begin) if common else None,
                is_causal=not common,
                scale=scaling,
                enable_gqa=is_grouped,
            )
            outs.append(out)
        return torch.cat(outs, dim=2).transpose(1, 2)

    def _mask(self, common: int, own: int) -> Tensor:
        """Return (own, common + own), True where a token attends to another; the same in all layers."""
        if (common, own) not in self._masks:
            visible = torch.ones(own, common + own, dtype=torch.bool, device=self.inputs["input_ids"].device)
            self._masks[common, own] = visible.tril(common)
        return self._masks[common, own]
