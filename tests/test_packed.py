"""Packed linear layers against torch's own."""

from pathlib import Path

import pytest
import torch

from tpo.models import load_model
from tpo.packed import PackedLinear, _is_supported, pack

pytestmark = pytest.mark.skipif(not _is_supported(), reason="this CPU has no bfloat16 kernels")


@pytest.mark.parametrize("rows", [1, 7, 64, 300])
@pytest.mark.parametrize("has_bias", [False, True])
def test_packed_layers_compute_the_same(rows: int, has_bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(96, 160, bias=has_bias).bfloat16()
    packed = PackedLinear(layer, num_rows=64)
    x = torch.randn(rows, 96, generator=generator).bfloat16()
    with torch.inference_mode():
        torch.testing.assert_close(packed(x), layer(x), atol=1e-2, rtol=1e-2)
        assert torch.equal(packed(x[None])[0], packed(x))


def test_a_packed_model_computes_the_same(tiny_model: Path) -> None:
    plain, packed = (load_model(tiny_model, revision=None, dtype="bfloat16") for _ in range(2))
    pack(packed, num_rows=8)
    assert sum(isinstance(layer, PackedLinear) for layer in packed.modules()) == 2 * 7 + 1
    ids = torch.arange(5, 45).view(2, 20)
    with torch.inference_mode():
        expected, found = plain(input_ids=ids).logits.float(), packed(input_ids=ids).logits.float()
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_float32_is_left_as_it_is(tiny_model: Path) -> None:
    model = load_model(tiny_model, revision=None, dtype="float32")
    pack(model, num_rows=8)
    assert not any(isinstance(layer, PackedLinear) for layer in model.modules())
