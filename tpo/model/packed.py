"""Linear layers packed for a CPU's kernels, for sampling, where a step has few rows and every operation counts.

oneDNN reorders a 16-bit weight at every call unless it was reordered before. Layers with the same input (queries, keys
and values; gate and up) become one product, and so does a layer with its adapter: W x + B A x = [W B] [x; A x]. Results
are the same up to rounding. `python -m experiments.kernels` times it.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from tpo.model.lora import UnmergedLinear
from tpo.model.onednn import is_supported, product, reorder

SIBLINGS = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))  # called in this order, with one input


class PackedLinear(nn.Module):
    """x W^T + b of frozen layers in bfloat16 on a CPU, side by side, with their adapters."""

    def __init__(self, layers: Sequence[nn.Linear | UnmergedLinear], *, num_rows: int) -> None:
        """Pack layers that have the same input.

        Args:
            layers: The layers; their outputs are concatenated in this order.
            num_rows: Of the usual input, for which oneDNN chooses the order; any other number gives the same results.
        """
        super().__init__()
        bases = [_base(layer) for layer in layers]
        downs = [layer.down.detach() for layer in layers if isinstance(layer, UnmergedLinear)]
        weight = torch.cat([base.weight.detach() for base in bases])
        if downs:
            ups: Tensor = torch.block_diag(*map(_scaled_up, layers))  # type: ignore[no-untyped-call]
            weight = torch.cat([weight, ups], dim=1)
        self.down = reorder(torch.cat(downs), num_rows=num_rows) if downs else None
        self.weight = reorder(weight, num_rows=num_rows)
        self.bias = None
        if any(base.bias is not None for base in bases):
            zeros = weight.new_zeros
            self.bias = torch.cat([zeros(base.out_features) if base.bias is None else base.bias for base in bases])

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., all outs) of (..., in); for inference only."""
        if self.down is not None:
            x = torch.cat([x, product(x, self.down)], dim=-1)
        return product(x, self.weight, self.bias)


class _Siblings:
    """Several layers in one product: the first one's call computes all, the others' calls return their slices."""

    def __init__(self, product: PackedLinear, sizes: list[int]) -> None:
        self.product, self.sizes = product, sizes
        self.input: Tensor | None = None
        self.results: tuple[Tensor, ...] = ()

    def take(self, index: int, x: Tensor) -> Tensor:
        if index == 0 or x is not self.input:
            self.input, self.results = x, self.product(x).split(self.sizes, dim=-1)
        result = self.results[index]
        if index == len(self.sizes) - 1:
            self.input, self.results = None, ()
        return result


class _Sibling(nn.Module):
    """One of several layers that are computed together."""

    def __init__(self, siblings: _Siblings, index: int) -> None:
        super().__init__()
        self.siblings, self.index = siblings, index

    def forward(self, x: Tensor) -> Tensor:
        """Return (..., out) of (..., in), this layer's slice of the common product."""
        return self.siblings.take(self.index, x)


def pack(model: Any, *, num_rows: int) -> bool:
    """Pack the linear layers of a bfloat16 model on a CPU with kernels for it; leave any other model unchanged.

    Returns:
        Whether there was anything to pack.
    """
    if not is_supported(model):
        return False
    for parent in list(_parents(model)):
        for names in SIBLINGS:
            layers: list[Any] = [getattr(parent, name, None) for name in names]
            if all(_is_packable(layer) for layer in layers):
                sizes = [_base(layer).out_features for layer in layers]
                siblings = _Siblings(PackedLinear(layers, num_rows=num_rows), sizes)
                for index, name in enumerate(names):
                    setattr(parent, name, _Sibling(siblings, index))
        for name, layer in list(parent.named_children()):
            if _is_packable(layer):
                setattr(parent, name, PackedLinear([layer], num_rows=num_rows))
    return True


def _parents(module: Any) -> Iterator[Any]:
    """Yield the modules whose linear layers are only called; adapters read the weights of those that they hold."""
    if isinstance(module, UnmergedLinear) or hasattr(module, "base_layer"):
        return
    yield module
    for child in module.children():
        yield from _parents(child)


def _base(layer: Any) -> Any:
    return layer.base if isinstance(layer, UnmergedLinear) else layer


def _is_packable(layer: Any) -> bool:
    return type(_base(layer)) is nn.Linear


def _scaled_up(layer: nn.Linear | UnmergedLinear) -> Tensor:
    """Return a layer's B, (out, rank), times its scaling; one without an adapter has rank 0."""
    if isinstance(layer, UnmergedLinear):
        return layer.up.detach() * layer.scaling
    return layer.weight.new_zeros(layer.out_features, 0)
