"""What only a GPU can show: `make test-gpu` is for a machine that has one. Each test has a form for a CPU, here or, of
those that are marked `gpu` alone, where it says.

The oracles are plain matrix products in float64, the model's own forward pass and trl, with tolerances of 16 bits.
"""

import gc
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import test_pair_trees
import test_trainer
import torch
from conftest import make_model
from test_torch_engine import generate, make_adapter, random_prompts
from torch import Tensor

from experiments.bench.gpu import TINY, Report, _loss, _rows, _trainer, kernel_names, slow_kernels
from experiments.bench.gpu_models import save_model
from tpo.model.architecture import Architecture
from tpo.model.load import load_model, load_policy
from tpo.model.lora import fuse_adapter
from tpo.model.policy import Policy
from tpo.model.prepare import save_quantized
from tpo.model.trees import Tree, TreeRow, tree_attention
from tpo.sample.decoding import Decoding
from tpo.store.gpus import find_gpus, prepare
from tpo.train.pair_trees import CHUNK, completion_statistics

ON_BOTH = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
REPOSITORY = Path(__file__).parent.parent
SHAPES = [(32, 8, 128), (9, 3, 64)]  # Llama-3-8B's, SmolLM2-135M's: heads, key-value heads, head size


@pytest.fixture(autouse=True)
def as_the_stages_compute() -> Iterator[None]:
    before = torch.backends.cuda.cudnn_sdp_enabled()
    prepare()
    yield
    torch.backends.cuda.enable_cudnn_sdp(before)
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
    assert not slow_kernels(names)
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
def test_log_probabilities_of_a_head(device: str) -> None:
    """Values and the gradient to the states, of more tokens than one chunk, against float64."""
    generator = torch.Generator().manual_seed(0)
    count, hidden, vocabulary = CHUNK + 9, 64, 3000
    states, weight = (torch.randn(size, hidden, generator=generator).bfloat16() for size in (count, vocabulary))
    weight *= 0.3
    targets = torch.randint(0, vocabulary, (count,), generator=generator)
    upstream = torch.randn(count, generator=generator)
    found = states.to(device, copy=True).requires_grad_()
    logps, *_ = completion_statistics(found, weight.to(device), None, targets.to(device))
    exact = states.double().requires_grad_()
    expected = (exact @ weight.double().T).log_softmax(dim=-1).gather(-1, targets[:, None]).squeeze(-1)
    (logps * upstream.to(device)).sum().backward()
    (expected * upstream.double()).sum().backward()
    assert found.grad is not None and exact.grad is not None
    for one, other in ((logps, expected), (found.grad, exact.grad)):
        assert float((one.detach().cpu().double() - other.detach()).norm() / other.detach().norm()) < 1e-2


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
    from tpo.sample.decoding import Request
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
def test_losses_are_trls(tiny_model: Path, tmp_path: Path) -> None:
    """On a CPU: tests/train/test_pair_trees.py, ten steps."""
    ours, stock = test_pair_trees.losses_of_both(tiny_model, tmp_path)
    assert ours[:3] == pytest.approx(stock[:3], abs=1e-3)


@pytest.mark.gpu
def test_killed_and_resumed_is_undisturbed(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Adapters bitwise, killed in the second epoch; on a CPU: tests/train/test_trainer.py.

    Pairs are so short that a block of a kernel holds them: where several blocks add up a gradient, their order is free.
    """
    test_trainer.test_resumed_equals_uninterrupted(tiny_model, tmp_path, monkeypatch, "bfloat16", "nf4")


@pytest.mark.gpu
def test_a_model_that_is_gone_gives_its_memory_back(tmp_path: Path) -> None:
    """On a CPU nothing is to be given back: tests/store/test_resident.py has who makes room for whom."""
    sizes = Architecture(hidden=1024, layers=8, intermediate=4096, heads=8, kv_heads=8)
    policy = save_model(tmp_path / "model", sizes, device="cuda")
    before = torch.cuda.memory_allocated()
    model = load_model(policy.model_path, revision=None, dtype="bfloat16")
    assert torch.cuda.memory_allocated() > before + 2**27
    del model
    gc.collect()
    torch.cuda.empty_cache()
    assert torch.cuda.memory_allocated() <= before


# Runs in a process of its own, whose parent is the one of a run: it must not take the device's memory.
RUN = """
import sys
sys.path[:0] = ["tests", "tests/train", "tests/results", "tests/sample"]
from pathlib import Path
import test_run
import torch
from tpo.store.gpus import find_gpus
root, model = Path(sys.argv[1]), Path(sys.argv[2])
changes = ("isolate_stages=false", "num_iterations=1", "train.num_epochs=2", "prompts.num_test=3")
test_run.run_here(root, test_run.tiny_overrides(model, root, *changes))
assert not torch.cuda.is_initialized()
find_gpus.cache_clear()
print([gpu.free_gib / gpu.total_gib for gpu in find_gpus()])
"""


@pytest.mark.gpu
def test_a_run_without_isolated_stages_leaves_the_gpu_free(tiny_model: Path, tmp_path: Path) -> None:
    """Model, training and judge in one run; on a CPU: tests/test_run.py, where a child executes the device's stages."""
    command = [sys.executable, "-c", RUN, str(tmp_path), str(tiny_model)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    shares = json.loads(done.stdout.splitlines()[-1])
    assert shares and shares[0] > 0.9


# --- vLLM, where it is ------------------------------------------------------------------------------------------

# Greedily, then a prompt's samples alone and among many.
VLLM = """
import json, sys
sys.path[:0] = ["tests", "tests/sample"]
from pathlib import Path
from test_torch_engine import generate
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding
from tpo.sample.engines.vllm import VllmEngine, VllmEngineConfig
given = json.loads(Path(sys.argv[1]).read_text())
policy = Policy(given["model"], None, given["tokenizer"], given["dtype"], 512, Path(given["adapter"]))
settings = VllmEngineConfig(max_num_seqs=64, gpu_memory_utilization=given["share"], enforce_eager=given["is_eager"])
engine = VllmEngine(settings, policy, end_ids=frozenset({1}), seed=0)
prompts = given["prompts"]
greedy, hot = Decoding(0.0, 1.0, 24), Decoding(1.0, 0.95, 24)
seeds = [[100 * number + index for index in range(4)] for number in range(len(prompts))]
ids = lambda groups: [[generation.token_ids for generation in group] for group in groups]
found = {
    "greedy": ids(generate(engine, prompts, seeds=[[0]] * len(prompts), decoding=greedy)),
    "uses_seeds": engine.uses_seeds,
    "alone": ids(generate(engine, prompts[:1], seeds=seeds[:1], decoding=hot)),
    "among_many": ids(generate(engine, prompts * 8, seeds=seeds * 8, decoding=hot)),
}
from vllm import SamplingParams, TokensPrompt
asked = [TokensPrompt(prompt_token_ids=prompt) for prompt in prompts]
outputs = engine.llm.generate(asked, SamplingParams(temperature=0, max_tokens=24, logprobs=0), lora_request=engine.lora)
found["continued"] = [list(output.outputs[0].token_ids) for output in outputs]
found["logps"] = [
    [logps[token].logprob for token, logps in zip(output.outputs[0].token_ids, output.outputs[0].logprobs)]
    for output in outputs
]
Path(sys.argv[1]).write_text(json.dumps(found))
"""


@pytest.mark.parametrize(
    "device", [pytest.param("cpu", marks=pytest.mark.vllm), pytest.param("cuda", marks=pytest.mark.gpu)]
)
@pytest.mark.timeout(600)
def test_vllm_samples_from_the_policy_that_is_trained(device: str, tmp_path: Path) -> None:
    """Quantized weights and an adapter, started as by its path, with nothing else in the environment.

    Greedy tokens of the torch engine up to a tie, log-probabilities within 0.05 nat; on a GPU the samples of a prompt
    whatever shares their batch, and its memory back in 15 s.
    """
    pytest.importorskip("vllm")
    from tpo.model.chat import load_tokenizer
    from tpo.sample.engines.torch.engine import TorchEngine

    dtype = "float32" if device == "cpu" else "bfloat16"
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
    source = make_model(tmp_path / "source", **sizes)
    weights, adapter = tmp_path / "quantized", make_adapter(source, tmp_path / "train-1" / "epoch-1")
    save_quantized(source, weights, revision=None, dtype=dtype, quantization="nf4")
    policy = Policy(str(weights), None, str(source), dtype, 512, adapter)
    prompts = random_prompts(0, lengths=(2, 9, 33, 64, 90, 17, 5, 40))
    exchange = tmp_path / "exchange.json"
    given = {"model": str(weights), "tokenizer": str(source), "adapter": str(adapter), "dtype": dtype}
    exchange.write_text(json.dumps(given | {"prompts": prompts, "share": 0.15, "is_eager": device == "cpu"}))
    free = [gpu.free_gib for gpu in find_gpus()]
    clean = {"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
    done = subprocess.run(
        [sys.executable, "-c", VLLM, str(exchange)],
        cwd=REPOSITORY,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(exchange.read_text())
    engine = TorchEngine(policy, tokenizer=load_tokenizer(source), end_ids=frozenset({1}), max_sequences=8, max_len=256)
    expected = generate(engine, prompts, seeds=[[0]] * len(prompts), decoding=Decoding(0.0, 1.0, 24))
    same = sum(group[0] == other[0].token_ids for group, other in zip(found["greedy"], expected, strict=True))
    assert same == len(prompts) if device == "cpu" else same >= len(prompts) / 2, same
    model = load_policy(str(weights), revision=None, dtype=dtype, adapter_path=adapter)
    for prompt, ids, logps in zip(prompts, found["continued"], found["logps"], strict=True):
        sequence = torch.tensor([[*prompt, *ids]], device=model.device)
        with torch.no_grad():
            own = model(input_ids=sequence).logits[0, len(prompt) - 1 : -1].float().log_softmax(dim=-1)
        own = own.gather(-1, sequence[0, len(prompt) :, None]).squeeze(-1).cpu()
        assert len(ids) > 0 and float((own - torch.tensor(logps)).abs().max()) < 0.05
    assert found["uses_seeds"] == (device == "cuda")
    if device == "cuda":
        assert found["alone"][0] == found["among_many"][0]
        for _ in range(15):
            find_gpus.cache_clear()
            if find_gpus()[0].free_gib > free[0] - 1:
                return
            time.sleep(1)
        raise AssertionError("vLLM's memory is not free after its process has ended")
