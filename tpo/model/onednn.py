"""Linear layers in bfloat16 on a CPU by oneDNN, which reorders a weight at every call unless that was done before."""

from functools import cache
from typing import Any

import torch
from torch import Tensor


def is_supported(model: Any) -> bool:
    """Return whether a model computes in bfloat16 on a CPU with kernels for it."""
    return model.device.type == "cpu" and model.dtype == torch.bfloat16 and has_kernels()


@cache
def has_kernels() -> bool:
    """Return whether this CPU and build of torch have what the other functions call, and it computes a product."""
    operations = torch.ops.mkldnn
    names = ("_reorder_linear_weight", "_linear_pointwise", "_is_mkldnn_bf16_supported")
    has_names = torch.backends.mkldnn.is_available() and all(  # type: ignore[no-untyped-call]
        hasattr(operations, name) for name in names
    )
    return has_names and bool(operations._is_mkldnn_bf16_supported()) and _computes()


def _computes() -> bool:
    """Return whether a small product is right: builds for other processors may have a kernel's name alone."""
    x, weight = torch.eye(32, dtype=torch.bfloat16)[:5], torch.arange(64 * 32).remainder(13).view(64, 32).bfloat16()
    try:
        with torch.inference_mode():
            return torch.equal(product(x, reorder(weight, num_rows=5)), weight.T[:5])
    except RuntimeError:  # "could not create a primitive"
        return False


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
