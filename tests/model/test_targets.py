"""Which layers get an adapter, and what is said of names that are none."""

from pathlib import Path

import pytest
import torch
from torch import nn

from experiments.families import make_family
from tpo.model.load import ModelError, load_model
from tpo.model.targets import check_targets, make_skeleton, without_adapter


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        ("q_proj,nope", "no layer is called nope"),
        ("qproj, v_porj", r"no layer is called qproj \(near: q_proj.*\); no layer is called v_porj \(near: v_proj"),
        ("lm_head", "lm_head is the model's head, no linear layer of the decoder"),
        ("q_proj,norm", "norm is of the class LlamaRMSNorm, no linear layer"),
        ("self_attn", "self_attn is of the class LlamaAttention"),
        ("embed_tokens,q_proj", "embed_tokens is of the class Embedding"),
        ("q_proj,", "a name is empty"),
    ],
)
def test_names_that_are_no_linear_layers_are_each_named(tiny_model: Path, targets: str, said: str) -> None:
    model = make_skeleton(str(tiny_model), revision=None)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    with pytest.raises(
        ModelError, match=rf"train\.lora_targets={targets}: {said}.*\. Take all-linear, or of down_proj"
    ) as error:
        check_targets(model, targets)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("targets", ["all-linear", "q_proj", " q_proj , layers.1.mlp.up_proj"])
def test_names_of_linear_layers_are_taken(tiny_model: Path, targets: str) -> None:
    check_targets(make_skeleton(str(tiny_model), revision=None), targets)


def test_a_layer_of_a_tower_alone_is_no_target(tmp_path: Path) -> None:
    model = make_skeleton(make_family("gemma3", tmp_path).model_path, revision=None)
    check_targets(model, "q_proj")  # of the tower and of the decoder
    with pytest.raises(ModelError, match="the loss does not reach fc1"):
        check_targets(model, "q_proj,fc1")


class Odd(nn.Module):
    """A layer beside a layer, which chooses and is not chosen by a gradient, or is never called."""

    def __init__(self, layer: nn.Linear, mode: str) -> None:
        super().__init__()
        self.own, self.mode = layer, mode
        self.indexer = nn.Linear(layer.in_features, layer.out_features)
        self.experts = nn.ModuleList(nn.Linear(layer.in_features, layer.out_features) for _ in range(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.own(x) + self.experts[1](x)
        return found * (self.indexer(x) > 0) if self.mode == "chooses" else found


@pytest.mark.parametrize("mode", ["chooses", "uncalled"])
@pytest.mark.parametrize("where", [(0, 1), (1,)], ids=["in all layers", "in one layer"])
def test_layers_that_the_loss_does_not_reach_get_no_adapter(
    tiny_model: Path, mode: str, where: tuple[int, ...]
) -> None:
    model = load_model(tiny_model, revision=None, dtype="float32")
    for number in where:
        model.model.layers[number].mlp.up_proj = Odd(model.model.layers[number].mlp.up_proj, mode)
    own = r"model\.layers\.\d+\.mlp\.up_proj\.indexer"
    # A list of experts is reached where one of them is.
    assert without_adapter(model) == own
    with pytest.raises(ModelError, match="the loss does not reach indexer"):
        check_targets(model, "q_proj,indexer", excluded=own)


def test_a_layer_that_is_unused_in_some_layers_alone_is_left_out_there(tiny_model: Path) -> None:
    model = load_model(tiny_model, revision=None, dtype="float32")
    for layer in model.model.layers:
        layer.mlp.up_proj = Odd(layer.mlp.up_proj, "chooses")
    model.model.layers[0].mlp.up_proj.forward = lambda x: model.model.layers[0].mlp.up_proj.indexer(x)
    assert without_adapter(model) == "|".join(
        [
            r"model\.layers\.0\.mlp\.up_proj\.experts\.0",
            r"model\.layers\.0\.mlp\.up_proj\.experts\.1",
            r"model\.layers\.0\.mlp\.up_proj\.experts\.2",
            r"model\.layers\.0\.mlp\.up_proj\.own",
            r"model\.layers\.1\.mlp\.up_proj\.indexer",
        ]
    )


def test_four_bit_layers_stay_as_they_were(tiny_model: Path) -> None:
    model = load_model(tiny_model, revision=None, dtype="float32", quantization="nf4")
    before = {name: part.clone() for name, part in model.state_dict().items()}
    assert without_adapter(model) is None
    assert all(torch.equal(part, before[name]) for name, part in model.state_dict().items())
    assert not any(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
