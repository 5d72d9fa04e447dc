"""Linear layers whose weights lie as the CPU's kernels want them, for sampling, where a step has few rows.

oneDNN otherwise brings each 16-bit weight into its own order at every call, which for the rows of a decoding step takes
as long as a third of the product. What comes out is the same up to rounding, for many shapes to the last bit.
"""

from typing import Any

import torch
from torch import Tensor, nn


class PackedLinear(nn.Module):
    """x W^T + b of a frozen layer in bfloat16 on a CPU."""

    def __init__(self, linear: nn.Linear, *, num_rows: int) -> None:
        """Take over a layer.

        Args:
            linear: The layer.
            num_rows: That a product has, mostly; any number is right.
        """
        super().__init__()
        self.packed = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), num_rows)
        self.bias = linear.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of (..., in); for inference only."""
        result: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, "none", [], "")
        return result


def pack(model: Any, *, num_rows: int) -> None:
    """Pack the linear layers of a model, where that is of use: bfloat16 on a CPU whose kernels know it."""
    if model.device.type != "cpu" or model.dtype != torch.bfloat16 or not _is_supported():
        return
    for parent in list(model.modules()):
        for name, layer in list(parent.named_children()):
            if type(layer) is nn.Linear:
                setattr(parent, name, PackedLinear(layer, num_rows=num_rows))


def _is_supported() -> bool:
    operations = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    has_names = torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(operations, name) for name in names
    )
    return has_names and bool(operations._is_mkldnn_bf16_supported())
