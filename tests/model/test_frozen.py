"""Weights copied in the order of a CPU's kernels against torch's own products."""

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Params4bit

from tpo.model import frozen
from tpo.model.frozen import FrozenLinear, can_reorder
from tpo.model.onednn import has_kernels

pytestmark = pytest.mark.skipif(not has_kernels(), reason="this CPU has no bfloat16 kernels")


@pytest.mark.parametrize("num_rows", [1, 37, 1100])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("is_quantized", [False, True], ids=["16 bits", "4 bits"])
def test_both_directions_equal_plain_products(num_rows: int, has_bias: bool, is_quantized: bool) -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(96, 160, bias=has_bias).bfloat16()
    layer: torch.nn.Linear = plain
    if is_quantized:
        layer = Linear4bit(96, 160, bias=has_bias, compute_dtype=torch.bfloat16, quant_type="nf4")
        layer.weight = Params4bit(plain.weight.data, requires_grad=False, quant_type="nf4")
        layer.bias = plain.bias
        layer.to("cpu")
    copied, called = FrozenLinear(layer, reorders=True), FrozenLinear(layer, reorders=False)
    assert copied.reordered
    assert not called.reordered
    x, grad = torch.randn(num_rows, 96).bfloat16(), torch.randn(num_rows, 160).bfloat16()
    with torch.no_grad():  # both round a sum in float32 once
        torch.testing.assert_close(copied.forward(x), called.forward(x), atol=1e-2, rtol=1e-2)
        torch.testing.assert_close(copied.backward(grad), called.backward(grad), atol=1e-2, rtol=1e-2)


def test_weights_of_a_large_model_are_not_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = torch.nn.Linear(8, 8).bfloat16()
    layer.device, layer.dtype = torch.device("cpu"), torch.bfloat16
    assert can_reorder(layer)
    monkeypatch.setattr(frozen, "MAX_PARAMETERS", 71)
    assert not can_reorder(layer)
    layer.dtype = torch.float32
    monkeypatch.setattr(frozen, "MAX_PARAMETERS", 72)
    assert not can_reorder(layer)
