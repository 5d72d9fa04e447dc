"""LoRA layers in three matrix products and nothing else, unmerged.

peft computes base(x) + B(A(dropout(x))) * scaling as separate operations, several of which read and write the whole
result again. Here the last product is accumulated into the base's result; `experiments/kernels.py` compares both.
"""

import logging
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from tpo.model.frozen import FrozenLinear, can_reorder
from tpo.model.probe import agrees, probe_ids
from tpo.store.errors import why

log = logging.getLogger(__name__)


class UnmergedLinear(nn.Module):
    """x W^T + scaling x A^T B^T of Hu et al. 2021 (arXiv 2106.09685), section 4.1, frozen."""

    def __init__(self, base: nn.Linear, down: Tensor, up: Tensor, *, scaling: float) -> None:
        """Take over a linear layer's weights.

        Args:
            base: The layer.
            down: A (rank, in).
            up: B (out, rank).
            scaling: alpha / rank.
        """
        super().__init__()
        self.base, self.scaling = base, scaling
        self.down, self.up = (nn.Parameter(part.detach(), requires_grad=False) for part in (down, up))

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of (..., in); for inference only: the result is changed in place."""
        result: Tensor = self.base(x)
        inner = nn.functional.linear(x, self.down)
        result.view(-1, result.shape[-1]).addmm_(inner.view(-1, inner.shape[-1]), self.up.T, alpha=self.scaling)
        return result


def fuse_adapter(model: Any, *, reorders: bool) -> None:
    """Replace the forward pass of a `PeftModel`'s plain LoRA layers by the fused one, over 16-bit and 4-bit bases.

    4-bit bases that FSDP may shard keep peft's: their weight exists only while FSDP has gathered it.

    Args:
        model: The model.
        reorders: Whether to copy what bases in bfloat16 multiply with, in the order of a CPU's kernels, where there are
            such kernels and the model is small: 4 bytes more for each of their parameters.
    """
    reorders = reorders and can_reorder(model)
    for layer in _lora_layers(model).values():
        if _is_plain(layer, model.active_adapter) and (
            type(layer.base_layer) is nn.Linear or layer.base_layer.weight.dtype == torch.uint8
        ):
            layer.forward = partial(_fused_forward, layer, FrozenLinear(layer.base_layer, reorders=reorders))


def _fused_forward(self: Any, base: FrozenLinear, x: Tensor) -> Tensor:
    if self.disable_adapters:  # the same kernels, so that the reference is rounded like the policy
        return base.forward(x)
    (name,) = self.active_adapters
    adapter = (self.lora_A[name].weight, self.lora_B[name].weight, self.scaling[name])
    # Outside of the function: some families change a layer's result in place, which a view made inside forbids.
    fused: Tensor = _AdaptedLinear.apply(x.reshape(-1, x.shape[-1]), base, *adapter)  # type: ignore[no-untyped-call]
    return fused.view(*x.shape[:-1], -1)


class _AdaptedLinear(torch.autograd.Function):
    """A frozen linear layer in 16 or 4 bits and its adapter, accumulated into one result."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, base: FrozenLinear, down: Tensor, up: Tensor, scaling: float) -> Tensor:
        inner = x @ down.T
        result = base.forward(x)
        result.addmm_(inner, up.T, alpha=scaling)
        ctx.save_for_backward(x, inner, down, up)
        ctx.base, ctx.scaling = base, scaling
        return result

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, inner, down, up = ctx.saved_tensors
        grad_inner = (grad @ up).mul_(ctx.scaling)
        grad_up = (grad.T @ inner).mul_(ctx.scaling)
        grad_x = ctx.base.backward(grad).addmm_(grad_inner, down) if ctx.needs_input_grad[0] else None
        return grad_x, None, grad_inner.T @ x, grad_up, None


@torch.no_grad()
def unwrap_adapter(model: Any) -> Any:
    """Return the base model of a `PeftModel` with each of its LoRA layers as an `UnmergedLinear`.

    A model with anything that is not plain LoRA on a linear layer (a trained head, DoRA, a layer's own bias) is
    returned as it is, and so is one that then does not compute what it computes by peft, tried on a few tokens: some
    families read the weights of their layers.
    """
    base, name = model.get_base_model(), model.active_adapter
    layers = _lora_layers(base)
    config = model.peft_config[name]
    is_plain = all(_is_plain(layer, name) and type(layer.base_layer) is nn.Linear for layer in layers.values())
    has_more = getattr(config, "modules_to_save", None) or getattr(config, "bias", "none") != "none"
    if not layers or not is_plain or has_more:
        log.warning("the adapter is not plain LoRA on linear layers, so its layers are computed by peft and not packed")
        return model
    given: dict[str, Any] = {
        "input_ids": torch.tensor([probe_ids(base, 8)], device=base.device),
        "use_cache": False,
    }
    expected = model(**given).logits[0]
    for path, layer in layers.items():
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        _put(base, path, UnmergedLinear(layer.base_layer, down, up, scaling=layer.scaling[name]))
    try:
        said = None if agrees(base(**given).logits[0], expected, dtype=base.dtype) else "its logits differ"
    except Exception as error:  # whatever a family's own code says to layers of another class
        said = why(error)
    if said is None:
        return base
    log.warning("%s: layers with an adapter are computed by peft and not packed (%s)", base.config.model_type, said)
    for path, layer in layers.items():
        _put(base, path, layer)
    return model


def _put(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, attribute = path.rpartition(".")
    setattr(model.get_submodule(parent), attribute, layer)


def _lora_layers(model: nn.Module) -> dict[str, Any]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {name: layer for name, layer in model.named_modules() if isinstance(layer, BaseTunerLayer)}


def _is_plain(layer: Any, name: str) -> bool:
    """Return whether a layer is base(x) + scaling B(A(x)) and no more."""
    from peft.tuners.lora import Linear, Linear4bit

    return (
        type(layer) in (Linear, Linear4bit)
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
        and isinstance(layer.lora_dropout[name], nn.Identity)
    )
