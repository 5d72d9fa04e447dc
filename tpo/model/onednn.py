"""Linear layers in bfloat16 on a CPU by oneDNN, which reorders a weight at every call unless that was done before."""

from typing import Any

import torch
from torch import Tensor


def is_supported(model: Any) -> bool:
    """Return whether a model computes in bfloat16 on a CPU with kernels for it."""
    return model.device.type == "cpu" and model.dtype == torch.bfloat16 and has_kernels()


def has_kernels() -> bool:
    """Return whether this CPU and build of torch have what the other functions call."""
    operations = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    has_names = torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(operations, name) for name in names
    )
    return has_names and bool(operations._is_mkldnn_bf16_supported())


def reorder(weight: Tensor, *, num_rows: int) -> Tensor:
    """Return a weight, (out, in), in the order of the kernels, a copy that only `product` can read.

    Args:
        weight: The weight.
        num_rows: Of the usual input, for which oneDNN chooses the order; any other number gives the same results.
    """
    reordered: Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), num_rows)
    return reordered


def product(x: Tensor, reordered: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return x W^T + b, (..., out) of (..., in), without gradient."""
    result: Tensor = torch.ops.mkldnn._linear_pointwise(x, reordered, bias, "none", [], "")
    return result
