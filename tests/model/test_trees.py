"""Trees of sequences against one forward pass a sequence."""

from pathlib import Path

import pytest
import torch
from conftest import make_model
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tpo.model.load import load_model
from tpo.model.trees import Segment, Tree, TreeRow, computes_trees, join

token_ids = st.lists(st.integers(5, 500), max_size=12)


@pytest.fixture(scope="module")
def decoders(tiny_model: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A decoder as it is, and one that computes trees."""
    plain, trees = (load_model(tiny_model, revision=None, dtype="float32").get_decoder() for _ in range(2))
    assert computes_trees(trees)
    return plain, trees


def test_what_sequences_share_is_the_trunk() -> None:
    tree = join([[1, 2, 3, 4], [1, 2, 5], [1, 2]])
    assert tree == Tree([1, 2], ([3, 4], [5], []))
    assert tree.num_tokens == 5
    assert join([[1, 2]]) == Tree([1, 2], ([],))
    assert join([[1], [2]]) == Tree([], ([1], [2]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    groups=st.lists(
        st.tuples(st.lists(st.integers(5, 500), min_size=1, max_size=12), st.lists(token_ids, min_size=1, max_size=4)),
        min_size=1,
        max_size=4,
    ),
    common=token_ids,
    is_dense=st.booleans(),
)
def test_states_equal_those_of_one_sequence_at_a_time(
    decoders: tuple[torch.nn.Module, torch.nn.Module],
    groups: list[tuple[list[int], list[list[int]]]],
    common: list[int],
    is_dense: bool,
) -> None:
    plain, decoder = decoders
    trees = [Tree(common + trunk, tuple(branches)) for trunk, branches in groups]
    row = TreeRow(trees, is_dense=is_dense)
    num_tokens = sum(tree.num_tokens for tree in trees)
    assert row.inputs["input_ids"].shape[1] <= num_tokens - is_dense * (len(trees) - 1) * len(common)
    with torch.inference_mode():
        states = decoder(**row.inputs).last_hidden_state[0]
        for tree, span in zip(trees, row.spans, strict=True):
            for number, branch in enumerate(tree.branches):
                ids = tree.trunk + branch
                expected = plain(input_ids=torch.tensor([ids])).last_hidden_state[0]
                found = states[[span.place(number, position) for position in range(len(ids))]]
                torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("is_dense", [False, True])
def test_gradients_equal_those_of_one_sequence_at_a_time(tiny_model: Path, is_dense: bool) -> None:
    trees = [Tree([7, 8, 9], ([10, 11], [12, 13, 14, 15])), Tree([7, 8], ([16], [17, 18]))]
    plain, decoder = (load_model(tiny_model, revision=None, dtype="float32").get_decoder() for _ in range(2))
    assert computes_trees(decoder)
    weights = torch.randn(4, 64, generator=torch.Generator().manual_seed(0))
    row = TreeRow(trees, is_dense=is_dense)
    states = decoder(**row.inputs).last_hidden_state[0]
    for tree, span in zip(trees, row.spans, strict=True):
        for number, branch in enumerate(tree.branches):
            ids = tree.trunk + branch
            chosen = [span.place(number, len(tree.trunk) + position) for position in range(len(branch))]
            (states[chosen] * weights[: len(branch)]).sum().backward(retain_graph=True)
            straight = plain(input_ids=torch.tensor([ids])).last_hidden_state[0, len(tree.trunk) :]
            (straight * weights[: len(branch)]).sum().backward()
    for (name, found), expected in zip(decoder.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(found.grad, expected.grad, atol=1e-4, rtol=1e-4, msg=name)


def test_a_dense_mask_by_hand() -> None:
    row = TreeRow([Tree([5], ()), Tree([5, 6], ([7], [8, 9]))])
    assert row.segments == [Segment(0, 1, ()), Segment(1, 4, ()), Segment(4, 6, ((1, 3),))]
    mask = row.dense_mask(row.segments[2], 2, None, torch.float32)
    assert ["".join(".1"[int(value == 0)] for value in line) for line in mask] == ["111.", "1111"] * 2
    assert set(mask.unique().tolist()) == {0, -torch.inf}
    assert row.dense_mask(row.segments[2], 2, None, torch.float32) is mask
    near = row.dense_mask(row.segments[2], 1, 2, torch.float32)
    assert ["".join(".1"[int(value == 0)] for value in line) for line in near] == [".11.", "..11"]


def test_what_all_trunks_begin_with_is_laid_out_once() -> None:
    trees = [Tree([5, 6, 7], ([8], [9])), Tree([5, 6], ([10], [])), Tree([5, 6, 11], ())]
    row = TreeRow(trees, is_dense=True)
    assert row.inputs["input_ids"].tolist() == [[5, 6, 7, 8, 9, 10, 11]]
    assert row.inputs["position_ids"].tolist() == [[0, 1, 2, 3, 3, 2, 2]]
    root = (0, 2)
    assert row.segments == [
        Segment(0, 2, ()),
        Segment(2, 4, (root,)),
        Segment(4, 5, (root, (2, 3))),
        Segment(5, 6, (root,)),
        Segment(6, 7, (root,)),
    ]
    assert [row.spans[0].place(1, position) for position in range(4)] == [0, 1, 2, 4]


@pytest.mark.parametrize("window", [2, 4, 7, 30])
def test_sliding_windows(tmp_path: Path, window: int) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=600,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        initializer_range=0.2,
    )
    MistralForCausalLM(config).save_pretrained(tmp_path)
    plain, decoder = (load_model(tmp_path, revision=None, dtype="float32").get_decoder() for _ in range(2))
    assert computes_trees(decoder)
    tree = Tree([5, 6, 7, 8, 9, 10], ([11, 12, 13], [14, 15, 16, 17, 18], [19]))
    row = TreeRow([tree])
    with torch.inference_mode():
        states = decoder(**row.inputs).last_hidden_state[0]
        for number, branch in enumerate(tree.branches):
            expected = plain(input_ids=torch.tensor([tree.trunk + branch])).last_hidden_state[0, -1]
            found = states[row.spans[0].place(number, len(tree.trunk) + len(branch) - 1)]
            torch.testing.assert_close(found, expected, atol=2e-5, rtol=2e-5)


def test_a_decoder_that_cannot_is_left_as_it_was(tmp_path: Path) -> None:
    model = load_model(make_model(tmp_path), revision=None, dtype="float32").get_decoder()
    ids = torch.tensor([[5, 6, 7, 8]])
    with torch.inference_mode():
        before = model(input_ids=ids).last_hidden_state
        for layer in model.layers:
            layer.register_forward_pre_hook(lambda _, args: (args[0].cumsum(dim=1),))  # looks at the row's neighbours
        mixed = model(input_ids=ids).last_hidden_state
        assert not torch.allclose(before, mixed)
        assert not computes_trees(model)
        torch.testing.assert_close(model(input_ids=ids).last_hidden_state, mixed)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_attention_past_the_interface_is_seen_where_it_adds_next_to_nothing(dtype: str) -> None:
    from transformers import OpenAIGPTConfig, OpenAIGPTModel

    torch.manual_seed(0)
    config = OpenAIGPTConfig(vocab_size=320, n_embd=64, n_head=4, n_layer=2, n_positions=512)
    model = OpenAIGPTModel(config).to(getattr(torch, dtype)).eval()
    assert not computes_trees(model)
