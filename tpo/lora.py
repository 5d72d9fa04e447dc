"""LoRA layers that sample fast: unmerged, as trained, in three matrix products and nothing else.

peft computes base(x) + B(A(dropout(x))) * scaling as operations of their own, which while decoding, with few tokens in
a step, take longer than the products. Here the last product adds to the base's result in place.
"""

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


def unwrap_adapter(model: Any) -> Any:
    """Return the base model of a `PeftModel` with each of its LoRA layers as an `UnmergedLinear`.

    A model with anything that is not plain LoRA on a linear layer (a trained head, DoRA, a layer's own bias) is
    returned as it is.
    """
    from peft.tuners.lora.layer import Linear as LoraLinear
    from peft.tuners.tuners_utils import BaseTunerLayer

    base = model.get_base_model()
    layers = {name: layer for name, layer in base.named_modules() if isinstance(layer, BaseTunerLayer)}
    name = model.active_adapter
    is_plain = all(
        type(layer) is LoraLinear
        and type(layer.base_layer) is nn.Linear
        and name not in layer.lora_variant
        and layer.lora_B[name].bias is None
        for layer in layers.values()
    )
    config = model.peft_config[name]
    if not is_plain or config.modules_to_save or config.bias != "none":
        return model
    for path, layer in layers.items():
        parent, _, attribute = path.rpartition(".")
        down, up = layer.lora_A[name].weight, layer.lora_B[name].weight
        fast = UnmergedLinear(layer.base_layer, down, up, scaling=layer.scaling[name])
        setattr(base.get_submodule(parent), attribute, fast)
    return base
