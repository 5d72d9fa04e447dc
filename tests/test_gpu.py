"""What only a GPU can show, each test on a CPU too, at the same size: `make test-gpu` is for a machine that has one.

The oracles are plain matrix products in float64 and the model's own forward pass, with tolerances of 16 bits.
"""

import gc
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from experiments.bench.gpu import SLOW_KERNELS, TINY, Report, _loss, _rows, _trainer, cudnn, kernel_names
from experiments.bench.gpu_models import save_model
from tpo.model.architecture import Architecture
from tpo.model.load import load_model
from tpo.model.lora import fuse_adapter
from tpo.model.prepare import save_quantized
from tpo.model.trees import Tree, TreeRow, tree_attention

ON_BOTH = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
SHAPES = [(32, 8, 128), (9, 3, 64)]  # Llama-3-8B's, SmolLM2-135M's: heads, key-value heads, head size


@pytest.fixture(autouse=True)
def as_the_stages_compute() -> Iterator[None]:
    with cudnn(False):
        yield
    gc.collect()


def dense(query: Tensor, key: Tensor, value: Tensor, visible: Tensor) -> Tensor:
    """Attention as its definition has it, (tokens, heads, head_dim)."""
    groups = query.shape[1] // key.shape[1]
    keys, values = (part.repeat_interleave(groups, dim=1)[0] for part in (key, value))
    scores = (query[0] @ keys.transpose(1, 2)) * query.shape[-1] ** -0.5
    return (scores.masked_fill(~visible, -torch.inf).softmax(dim=-1) @ values).transpose(0, 1)


def visible_of(row: TreeRow) -> Tensor:
    """Which tokens of a row attend to which."""
    count = row.inputs["input_ids"].shape[1]
    found = torch.zeros(count, count, dtype=torch.bool)
    for segment in row.segments:
        for begin, stop in segment.seen:
            found[segment.begin : segment.stop, begin:stop] = True
        own = segment.stop - segment.begin
        found[segment.begin : segment.stop, segment.begin : segment.stop] = torch.ones(own, own).tril().bool()
    return found


@ON_BOTH
@pytest.mark.parametrize(("heads", "kv_heads", "dim"), SHAPES)
def test_attention_of_trees(device: str, heads: int, kv_heads: int, dim: int) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 40, (4, 4), generator=generator).tolist()
    trees = [Tree([1] * trunk, tuple([1] * branch for branch in branches)) for trunk, *branches in sizes]
    row = TreeRow(trees, is_dense=device == "cpu", device=device)
    count = row.inputs["input_ids"].shape[1]
    parts = [torch.randn(1, number, count, dim, generator=generator) for number in (heads, kv_heads, kv_heads)]
    weights = torch.randn(count, heads, dim, generator=generator)
    found = [part.to(device, torch.bfloat16).requires_grad_() for part in parts]
    exact = [part.bfloat16().double().requires_grad_() for part in parts]
    result, _ = tree_attention(torch.nn.Module(), *found, None, row=row)
    expected = dense(*exact, visible_of(row))
    (result[0] * weights.to(device, torch.bfloat16)).sum().backward()
    (expected * weights.bfloat16().double()).sum().backward()
    pairs = [(result[0], expected), *((one.grad, other.grad) for one, other in zip(found, exact, strict=True))]
    for one, other in pairs:
        assert one is not None and other is not None
        assert float((one.detach().cpu().double() - other.detach()).norm() / other.detach().norm()) < 1e-2


@pytest.mark.gpu
def test_kernels_and_memory_of_attention() -> None:
    trees = [Tree([1] * 300, ([1] * 2000, [1] * 2100))] * 4
    row = TreeRow(trees, device="cuda")
    count = row.inputs["input_ids"].shape[1]
    query, key, value = (
        torch.randn(1, number, count, 128, device="cuda", dtype=torch.bfloat16, requires_grad=True)
        for number in (32, 8, 8)
    )

    def once() -> None:
        tree_attention(torch.nn.Module(), query, key, value, None, row=row)[0].sum().backward()

    once()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    names = [name.lower() for name in kernel_names(once)]
    assert any("flash" in name or "fmha" in name for name in names), names
    assert not [name for name in names if any(slow in name for slow in SLOW_KERNELS)]
    scores = 4 * 32 * 2100 * 2400  # of one tree in float32, which the plain kernel would write
    assert torch.cuda.max_memory_allocated() - before < 4 * scores


@ON_BOTH
def test_layers_with_an_adapter_over_nf4(device: str, tmp_path: Path) -> None:
    """Fused against peft's own, values and gradients, in the dtype that they train in."""
    from peft import LoraConfig, get_peft_model

    sizes = replace(TINY, hidden=128, intermediate=256, head_dim=32)
    policy = save_model(tmp_path / "model", sizes, device=device)
    ids = torch.randint(5, 250, (2, 24), generator=torch.Generator().manual_seed(0)).to(device)
    outcomes = []
    for is_fused in (False, True):
        torch.manual_seed(0)
        base = load_model(policy.model_path, revision=None, dtype="bfloat16", quantization="nf4")
        given = LoraConfig(task_type="CAUSAL_LM", r=8, target_modules="all-linear", init_lora_weights=False)
        model: Any = get_peft_model(base, given, autocast_adapter_dtype=False).to(torch.bfloat16)
        for module in model.modules():
            module.training = type(module).__module__.startswith("bitsandbytes")
        if is_fused:
            fuse_adapter(model, reorders=False)
        logits = model(input_ids=ids, use_cache=False).logits
        logits.float().logsumexp(-1).sum().backward()
        grads = {name: part.grad.float().cpu() for name, part in model.named_parameters() if part.grad is not None}
        outcomes.append((logits.detach().float().cpu(), grads))
    (plain, plain_grads), (fused, fused_grads) = outcomes
    assert plain_grads.keys() == fused_grads.keys() and plain_grads
    assert float((plain - fused).norm() / plain.norm()) < 3e-2
    for name, grad in plain_grads.items():
        assert float((grad - fused_grads[name]).norm() / (grad.norm() + 1e-6)) < 0.1, name


@ON_BOTH
def test_what_is_sampled_is_what_is_trained(device: str, tmp_path: Path) -> None:
    """Every NF4 layer's values, as saved for sampling, are those that training multiplies with, bit for bit."""
    from bitsandbytes.functional import dequantize_4bit

    sizes = replace(TINY, hidden=128, intermediate=256)
    policy = save_model(tmp_path / "model", sizes, device=device)
    given: dict[str, Any] = {"revision": None, "dtype": "bfloat16"}
    save_quantized(policy.model_path, tmp_path / "quantized", quantization="nf4", **given)
    saved = load_model(tmp_path / "quantized", **given).state_dict()
    trained = load_model(policy.model_path, quantization="nf4", **given)
    layers = {
        name: module for name, module in trained.named_modules() if type(module).__module__.startswith("bitsandbytes")
    }
    assert len(layers) == 7 * sizes.layers
    for name, module in layers.items():
        weight = module.weight
        assert torch.equal(dequantize_4bit(weight.data, weight.quant_state), saved[f"{name}.weight"]), name


@ON_BOTH
def test_the_first_step_is_the_reference(device: str, tmp_path: Path) -> None:
    """With gradients as without, with checkpointing as without, on pairs of many lengths: the loss is ln 2."""
    policy = save_model(tmp_path / "model", TINY, device=device)
    trainer = _trainer(Report(device, True, tmp_path), policy)
    assert trainer.slow_path is None
    for shape in ((4, 3), (33, 70), (100, 150)):
        for batch in _rows(trainer, Report(device, True, tmp_path), shape, 3, 2, TINY.vocabulary):
            assert abs(_loss(trainer, batch).item() - math.log(2)) < 1e-3


@ON_BOTH
@pytest.mark.parametrize("has_adapter", [False, True], ids=["seed", "adapter"])
def test_the_torch_engine_is_greedy_as_generate(device: str, has_adapter: bool, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    from tpo.model.chat import load_tokenizer
    from tpo.model.load import load_policy
    from tpo.sample.decoding import Decoding, Request
    from tpo.sample.engines.torch.engine import TorchEngine

    policy = save_model(tmp_path / "model", TINY, device=device, dtype="float32")
    given: dict[str, Any] = {"revision": None, "dtype": "float32"}
    if has_adapter:
        lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", init_lora_weights=False)
        get_peft_model(load_model(policy.model_path, **given), lora).save_pretrained(tmp_path / "adapter")
        policy = replace(policy, adapter_path=tmp_path / "adapter")
    engine = TorchEngine(
        policy,
        tokenizer=load_tokenizer(policy.tokenizer_path),
        end_ids=frozenset({1}),
        max_sequences=4,
        max_len=128,
    )
    prompts = [[0, *range(5 + number, 9 + 5 * number)] for number in range(6)]
    requests = [Request(str(number), ids, {0: number}) for number, ids in enumerate(prompts)]
    decoding = Decoding(temperature=0, top_p=1, max_tokens=12)
    found = {sample.key: sample.generation.token_ids for sample in engine.stream(iter(requests), decoding=decoding)}
    model = load_policy(policy.model_path, adapter_path=policy.adapter_path, **given)
    for number, ids in enumerate(prompts):
        inputs = torch.tensor([ids], device=device)
        out = model.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=12, do_sample=False)
        assert list(found[str(number)]) == out[0, len(ids) :].tolist()
    engine.close()


@pytest.mark.gpu
def test_a_model_that_is_gone_gives_its_memory_back(tmp_path: Path) -> None:
    sizes = Architecture(hidden=1024, layers=8, intermediate=4096, heads=8, kv_heads=8)
    policy = save_model(tmp_path / "model", sizes, device="cuda")
    before = torch.cuda.memory_allocated()
    model = load_model(policy.model_path, revision=None, dtype="bfloat16")
    assert torch.cuda.memory_allocated() > before + 2**27
    del model
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before
