"""Linear layers that are not trained, in 16 or 4 bits: their product and its gradient with respect to the input.

On a CPU, weights of a small model are copied in the order of its kernels, once for each direction, so that oneDNN does
not reorder them, nor bitsandbytes dequantize them, at every call.
"""

from typing import Any

import torch
from torch import Tensor, nn

from tpo.model.onednn import is_supported, product, reorder

NUM_ROWS = 1024  # tokens of a usual micro-batch
MAX_PARAMETERS = 2**30  # of a model whose weights are copied


def can_reorder(model: Any) -> bool:
    """Return whether a model's weights are to be copied: there are kernels for that, and the model is small."""
    return is_supported(model) and sum(part.numel() for part in model.parameters()) <= MAX_PARAMETERS


class FrozenLinear:
    """x W^T + b of a layer that is not trained, and its gradient with respect to x."""

    def __init__(self, layer: Any, *, reorders: bool) -> None:
        """Take a layer in 16 or 4 bits; with `reorders`, copy its values in bfloat16, once for each direction."""
        self.layer = layer
        self.reordered: tuple[Tensor, ...] = ()
        if reorders:
            weight = _weight(layer, torch.bfloat16)
            self.reordered = tuple(reorder(part.contiguous(), num_rows=NUM_ROWS) for part in (weight, weight.T))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of (..., in), without gradient where the weight was reordered."""
        if self.reordered:
            return product(x, self.reordered[0], self.layer.bias)
        return nn.functional.linear(x, _weight(self.layer, x.dtype), self.layer.bias)

    def backward(self, grad: Tensor) -> Tensor:
        """Return (rows, in) of (rows, out)."""
        return product(grad, self.reordered[1]) if self.reordered else grad @ _weight(self.layer, grad.dtype)


def _weight(base: Any, dtype: torch.dtype) -> Tensor:
    """Return a layer's weight (out, in); one of 4 bits is dequantized, as bitsandbytes' own training does."""
    if type(base) is nn.Linear:
        weight: Tensor = base.weight
        return weight
    from bitsandbytes.functional import dequantize_4bit

    values: Tensor = dequantize_4bit(base.weight.data, base.weight.quant_state).to(dtype)
    return values
