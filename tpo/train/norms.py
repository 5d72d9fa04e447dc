"""RMSNorm with frozen weights, in fewer passes over memory, which on a CPU are what takes its time.

`experiments/kernels.py` compares it with transformers' own.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn


def fuse_norms(model: nn.Module) -> None:
    """Make the frozen RMSNorm layers of a model compute the same with fewer temporaries.

    A layer that is more than x / rms(x) * weight, such as Gemma's, is left as it is: one step on random numbers tells.
    """
    for layer in model.modules():
        weight, eps = getattr(layer, "weight", None), getattr(layer, "variance_epsilon", None)
        if not isinstance(weight, nn.Parameter) or eps is None or weight.requires_grad:
            continue
        sample = torch.randn(2, len(weight), dtype=weight.dtype, device=weight.device)
        with torch.no_grad():
            fused: Tensor = _RmsNorm.apply(sample, weight, eps)  # type: ignore[no-untyped-call]
            is_plain = torch.allclose(layer(sample), fused, atol=1e-2, rtol=1e-2)
        if is_plain:
            layer.forward = MethodType(_forward, layer)


def _forward(self: Any, x: Tensor) -> Tensor:
    normed: Tensor = _RmsNorm.apply(x, self.weight, self.variance_epsilon)  # type: ignore[no-untyped-call]
    return normed


class _RmsNorm(torch.autograd.Function):
    """Zhang and Sennrich 2019 (arXiv 1910.07467), equation 4, rounded where transformers' Llama rounds."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        size = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
        inverse = size.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, inverse)
        normed: Tensor = (x * inverse).to(x.dtype).mul_(weight)
        return normed

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:  # type: ignore[override]
        x, weight, inverse = ctx.saved_tensors
        scaled, straight = grad * weight.float(), x.float()
        along = torch.linalg.vecdot(scaled, straight)[..., None] * inverse**3
        return scaled.mul_(inverse).addcmul_(straight, along, value=-1 / x.shape[-1]).to(x.dtype), None, None
