"""Packed linear layers against torch's own and peft's."""

from pathlib import Path

import pytest
import torch
from test_torch_engine import make_adapter

from tpo.model.load import load_policy
from tpo.model.lora import UnmergedLinear
from tpo.model.onednn import has_kernels
from tpo.model.packed import PackedLinear, _Sibling, pack

pytestmark = pytest.mark.skipif(not has_kernels(), reason="this CPU has no bfloat16 kernels")


def make_layer(num_out: int, *, rank: int, has_bias: bool, scaling: float = 2.0) -> torch.nn.Linear | UnmergedLinear:
    base = torch.nn.Linear(96, num_out, bias=has_bias).bfloat16()
    if not rank:
        return base
    down, up = torch.randn(rank, 96).bfloat16() / 10, torch.randn(num_out, rank).bfloat16() / 10
    return UnmergedLinear(base, down, up, scaling=scaling)


@pytest.mark.parametrize("rows", [1, 7, 64, 300])
@pytest.mark.parametrize("has_bias", [False, True])
@pytest.mark.parametrize("ranks", [(0,), (4,), (0, 0), (4, 0, 6), (0, 8)])
def test_packed_layers_compute_the_same(rows: int, has_bias: bool, ranks: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    layers = [
        make_layer(32 * (index + 1), rank=rank, has_bias=has_bias and index != 1, scaling=1.5 + index)
        for index, rank in enumerate(ranks)
    ]
    packed = PackedLinear(layers, num_rows=64)
    x = torch.randn(rows, 96).bfloat16()
    with torch.inference_mode():
        expected = torch.cat([layer(x) for layer in layers], dim=-1)
        torch.testing.assert_close(packed(x), expected, atol=2e-2, rtol=2e-2)
        assert torch.equal(packed(x[None])[0], packed(x))


@pytest.mark.parametrize("has_adapter", [False, True])
def test_a_packed_model_computes_the_same(tiny_model: Path, tmp_path: Path, has_adapter: bool) -> None:
    adapter = make_adapter(tiny_model, tmp_path / "adapter") if has_adapter else None
    plain, packed = (load_policy(tiny_model, revision=None, dtype="bfloat16", adapter_path=adapter) for _ in range(2))
    pack(packed, num_rows=8)
    kinds = [type(layer) for layer in packed.modules()]
    assert kinds.count(_Sibling) == 2 * 5
    assert kinds.count(PackedLinear) == 2 * 2 + 1  # the siblings' own are no children of the model
    assert not {torch.nn.Linear, UnmergedLinear} & set(kinds)
    ids = torch.arange(5, 45).view(2, 20)
    with torch.inference_mode():
        expected, found = plain(input_ids=ids).logits.float(), packed(input_ids=ids).logits.float()
    assert (found - expected).norm() < 0.02 * expected.norm()


def test_siblings_with_other_inputs_compute_their_own(tiny_model: Path) -> None:
    model = load_policy(tiny_model, revision=None, dtype="bfloat16", adapter_path=None)
    layer = model.model.layers[0].self_attn
    first, second = torch.randn(2, 3, layer.q_proj.in_features).bfloat16()
    with torch.inference_mode():
        expected = [part(x) for x in (first, second) for part in (layer.q_proj, layer.k_proj, layer.v_proj)]
        pack(model, num_rows=8)
        queries, keys, values = layer.q_proj, layer.k_proj, layer.v_proj
        # Keys of the second input are asked for while those of the first are kept, and queries twice.
        found = [queries(first), keys(first), values(first), queries(first), keys(second), values(second)]
        torch.testing.assert_close(found[3], expected[0], atol=2e-2, rtol=2e-2)
        for position in (0, 1, 2, 4, 5):
            torch.testing.assert_close(found[position], expected[position], atol=2e-2, rtol=2e-2)


def test_float32_is_left_as_it_is(tiny_model: Path) -> None:
    model = load_policy(tiny_model, revision=None, dtype="float32", adapter_path=None)
    pack(model, num_rows=8)
    assert not any(isinstance(layer, (PackedLinear, _Sibling)) for layer in model.modules())
