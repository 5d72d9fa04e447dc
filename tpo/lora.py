"""LoRA layers in three matrix products and nothing else, unmerged.

peft computes base(x) + B(A(dropout(x))) * scaling as operations of their own, which for a small model take as long as
the products. Here the last product adds to the base's result in place.
"""

from types import MethodType
from typing import Any

from torch import Tensor, nn


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


def fuse_adapter(model: Any) -> None:
    """Make the plain LoRA layers of a `PeftModel` compute the sum so, with gradients, over 16-bit and 4-bit bases."""
    for layer in _lora_layers(model).values():
        if _is_plain(layer, model.active_adapter):
            layer.forward = MethodType(_fused_forward, layer)


def _fused_forward(self: Any, x: Tensor) -> Tensor:
    flat = x.reshape(-1, x.shape[-1])
    result: Tensor = self.base_layer(flat)
    if not self.disable_adapters:
        (name,) = self.active_adapters
        inner, up = nn.functional.linear(flat, self.lora_A[name].weight), self.lora_B[name].weight.T
        # No backward pass needs a linear layer's result; a 4-bit one's may be a view, which must not be written to.
        add = result.addmm_ if type(self.base_layer) is nn.Linear else result.addmm
        result = add(inner, up, alpha=self.scaling[name])
    return result.view(*x.shape[:-1], -1)


def unwrap_adapter(model: Any) -> Any:
    """Return the base model of a `PeftModel` with each of its LoRA layers as an `UnmergedLinear`.

    A model with anything that is not plain LoRA on a linear layer (a trained head, DoRA, a layer's own bias) is
    returned as it is.
    """
    base, name = model.get_base_model(), model.active_adapter
    layers = _lora_layers(base)
    config = model.peft_config[name]
    is_plain = all(_is_plain(layer, name) and type(layer.base_layer) is nn.Linear for layer in layers.values())
    if not is_plain or config.modules_to_save or config.bias != "none":
        return model
    for path, layer in layers.items():
        parent, _, attribute = path.rpartition(".")
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        fast = UnmergedLinear(layer.base_layer, down, up, scaling=layer.scaling[name])
        setattr(base.get_submodule(parent), attribute, fast)
    return base


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
