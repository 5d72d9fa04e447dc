"""How much faster than what it replaces is each of our kernels, on this machine's CPU?

python -m experiments.kernels

takes about a minute and prints a line for each. Both sides run in this process one after the other, in turn first, on
the same random numbers, with the sizes of SmolLM2-135M in bfloat16; tests/test_kernels.py holds that both compute the
same. A layer by itself: what it is worth in a training is what `make bench` measures.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from experiments.bench.results import Spread, speedup, spread
from tpo.model.architecture import RANK, Architecture
from tpo.model.lora import UnmergedLinear, fuse_adapter
from tpo.model.packed import pack
from tpo.model.trees import TreeRow, join, tree_attention
from tpo.sample.decoding import Decoding
from tpo.sample.engines.torch.cache import RowCache
from tpo.sample.engines.torch.draft import Draft, Rules
from tpo.sample.engines.torch.nucleus import sample_tokens
from tpo.sample.engines.torch.prompts import Layer, Prefix, Prompt
from tpo.sample.engines.torch.rows import DecodingStep, row_attention
from tpo.store.memory import keep_freed_memory
from tpo.train.pair_trees import add_pair_head, lay_out

DTYPE = torch.bfloat16
NUM_SAMPLES = 8  # of a prompt, in sampling
SMOLLM2 = Architecture(
    hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocabulary=49152, is_tied=True
)
TIMED_S = 0.02  # at least, in a round, of the faster side: calls are repeated
MIN_ROUNDS = 3


@dataclass(frozen=True)
class Sizes:
    """What is computed with: a model, a micro-batch of pairs whose tokens are all different, and rows of samples."""

    model: Architecture = SMOLLM2
    num_pairs: int = 4
    prompt: int = 100
    completion: int = 120
    num_rows: int = 256

    @property
    def num_tokens(self) -> int:
        """Tokens of the pairs as trees."""
        return self.num_pairs * (self.prompt + 2 * self.completion)

    @property
    def num_prompts(self) -> int:
        """Prompts of the rows that decode together."""
        return self.num_rows // NUM_SAMPLES


Step = Callable[[], Tensor]


class Sides(NamedTuple):
    """What is replaced, and ours: each call does the work once and returns something that both must agree on."""

    replaced: Step
    ours: Step


class Case(NamedTuple):
    """A replacement.

    Attributes:
        name: Of what it computes.
        replaces: What computed it before.
        make: Returns both sides, ready to be called again and again.
    """

    name: str
    replaces: str
    make: Callable[[Sizes], Sides]


class Found(NamedTuple):
    """Seconds of each side, and how many times as fast ours is."""

    replaced: Spread
    ours: Spread
    ratio: Spread


# --- training: a forward and a backward pass ----------------------------------------------------------------------


def attention_of_trees(sizes: Sizes) -> Sides:
    """Return the attention of one layer over the pairs' trees, which have no common root."""
    model = sizes.model
    trees = [join(pair) for pair in pairs_of(sizes)]
    query, key, value = (
        torch.randn(1, sizes.num_tokens, heads, model.head_dim, dtype=DTYPE).transpose(1, 2).requires_grad_()
        for heads in (model.heads, model.kv_heads, model.kv_heads)
    )
    upstream = torch.randn(1, sizes.num_tokens, model.heads, model.head_dim, dtype=DTYPE)

    def side(is_dense: bool) -> Step:
        row = TreeRow(trees, is_dense=is_dense)

        def step() -> Tensor:
            out, _ = tree_attention(nn.Module(), query, key, value, None, row=row)
            return torch.autograd.grad(out, (query, key, value), upstream)[0]

        return step

    return Sides(side(False), side(True))


def adapted_layer(sizes: Sizes) -> Sides:
    """Return a frozen linear layer with a LoRA adapter, as peft computes it and fused."""
    return _adapted(sizes, _linear(sizes))


def adapted_layer_in_4_bits(sizes: Sizes) -> Sides:
    """Return the same over a layer in NF4."""
    from bitsandbytes.nn import Linear4bit, Params4bit

    plain = _linear(sizes)
    layer = Linear4bit(plain.in_features, plain.out_features, bias=False, compute_dtype=DTYPE, quant_type="nf4")
    layer.weight = Params4bit(plain.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4")
    return _adapted(sizes, layer.to("cpu"))


def _linear(sizes: Sizes) -> nn.Linear:
    return nn.Linear(sizes.model.hidden, sizes.model.intermediate, bias=False, dtype=DTYPE)


def _adapted(sizes: Sizes, layer: nn.Linear) -> Sides:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules=["layer"], init_lora_weights=False)
    x = torch.randn(1, sizes.num_tokens, layer.in_features, dtype=DTYPE, requires_grad=True)
    upstream = torch.randn(1, sizes.num_tokens, layer.out_features, dtype=DTYPE)

    def side(is_fused: bool) -> Step:
        torch.manual_seed(1)  # of the adapter
        holder: Any = nn.Module()
        holder.layer, holder.device, holder.dtype = layer, x.device, DTYPE
        holder.is_loaded_in_4bit = type(layer) is not nn.Linear
        adapted = get_peft_model(holder, config, autocast_adapter_dtype=False).to(DTYPE).train()
        if is_fused:
            fuse_adapter(adapted, reorders=True)
        trained = [parameter for parameter in adapted.parameters() if parameter.requires_grad]
        return lambda: torch.autograd.grad(holder.layer(x), (x, *trained), upstream)[0]

    return Sides(side(False), side(True))


def head_of_pairs(sizes: Sizes) -> Sides:
    """Return the log-probabilities of a model without layers: embedding, final norm and head."""
    from transformers import LlamaConfig, LlamaForCausalLM
    from trl.trainer.dpo_trainer import DataCollatorForPreference
    from trl.trainer.utils import add_fused_lm_head

    config = LlamaConfig(
        hidden_size=sizes.model.hidden,
        intermediate_size=sizes.model.intermediate,
        num_hidden_layers=0,
        num_attention_heads=sizes.model.heads,
        num_key_value_heads=sizes.model.kv_heads,
        head_dim=sizes.model.head_dim,
        vocab_size=sizes.model.vocabulary,
        tie_word_embeddings=sizes.model.is_tied,
    )
    model = LlamaForCausalLM(config).to(DTYPE).requires_grad_(False).train()
    model.enable_input_require_grads()
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
    assert add_pair_head(model, reorders=True) is None
    rows = [
        {"prompt_ids": one[: sizes.prompt], "chosen_ids": one[sizes.prompt :], "rejected_ids": other[sizes.prompt :]}
        for one, other in pairs_of(sizes)
    ]
    batch = DataCollatorForPreference(pad_token_id=0).torch_call(rows)
    given = {name: batch[name] for name in ("input_ids", "attention_mask")}
    labels = batch["input_ids"].masked_fill(batch["completion_mask"] == 0, -100)

    def side(**more: Any) -> Step:
        def step() -> Tensor:
            logps = model(**given, **more, labels=labels, fused_lm_head=True, use_cache=False).log_probs.sum(dim=1)
            logps.sum().backward()
            return logps.detach()

        return step

    return Sides(side(), side(pair_row=lay_out(batch, is_dense=True)))


# --- sampling: a step of many rows --------------------------------------------------------------------------------


def layers_of_one_input(sizes: Sizes) -> Sides:
    """Return queries, keys and values with their adapters, layer by layer and packed."""
    model = sizes.model
    x = torch.randn(sizes.num_rows, 1, model.hidden, dtype=DTYPE)
    names = {"q_proj": model.heads, "k_proj": model.kv_heads, "v_proj": model.kv_heads}

    def side(is_packed: bool) -> Step:
        torch.manual_seed(1)
        attention: Any = nn.Module()
        attention.device, attention.dtype = x.device, DTYPE
        for name, heads in names.items():
            layer = nn.Linear(model.hidden, heads * model.head_dim, bias=False, dtype=DTYPE)
            down = torch.randn(RANK, layer.in_features, dtype=DTYPE) / model.hidden
            up = torch.randn(layer.out_features, RANK, dtype=DTYPE)
            attention.add_module(name, UnmergedLinear(layer, down, up, scaling=2.0))
        if is_packed:
            pack(attention, num_rows=sizes.num_rows)
        return _frozen(lambda: torch.cat([getattr(attention, name)(x) for name in names], dim=-1))

    return Sides(side(False), side(True))


def attention_of_samples(sizes: Sizes) -> Sides:
    """Return one layer's attention in the middle of a completion: a copy of the prompt for each sample, or one."""
    model, num_own = sizes.model, sizes.completion // 2
    cache = RowCache()
    prompts = [
        torch.randn(2, 1, model.kv_heads, sizes.prompt, model.head_dim, dtype=DTYPE) for _ in range(sizes.num_prompts)
    ]
    for keys_and_values in prompts:
        prompt = Prompt("", sizes.prompt, NUM_SAMPLES)
        cache.begin_prefill()
        cache.add_prompt(prompt, Prefix([Layer(*keys_and_values)], 0, sizes.prompt))
        rules = Rules(Decoding(temperature=1, top_p=1, max_tokens=1), frozenset(), None)
        cache.add([Draft.begin(prompt, index, seed=0, rules=rules) for index in range(NUM_SAMPLES)])
    own = torch.randn(2, sizes.num_rows, model.kv_heads, num_own, model.head_dim, dtype=DTYPE)
    for position in range(num_own):
        cache.begin_decoding()
        step = DecodingStep(cache, dtype=DTYPE)
        cache.update(*own[:, :, :, position : position + 1], 0)
        for draft in cache.active:
            draft.length += 1
    query = torch.randn(sizes.num_rows, model.heads, 1, model.head_dim, dtype=DTYPE)
    new = own[0, :, :, -1:]
    # As a padded batch leaves it: every sample behind its prompt.
    keys, values = torch.cat([torch.cat(prompts, dim=1).repeat_interleave(NUM_SAMPLES, dim=1), own], dim=3)
    everything = torch.zeros(sizes.num_rows, 1, 1, keys.shape[2], dtype=DTYPE)
    layer: Any = nn.Module()
    layer.layer_idx = 0
    return Sides(
        _frozen(
            lambda: scaled_dot_product_attention(query, keys, values, attn_mask=everything, enable_gqa=True)[:, :, 0]
        ),
        _frozen(lambda: row_attention(layer, query, new, new, None, step=step)[0][:, 0]),
    )


def choice_of_tokens(sizes: Sizes) -> Sides:
    """Return tokens of the nucleus, T 0.8 and top-p 0.95, found by sorting the vocabulary and without."""
    ranks = torch.argsort(torch.rand(sizes.num_rows, sizes.model.vocabulary), dim=-1) + 1
    logits = -1.5 * torch.log(ranks)  # as words are distributed, so that nuclei are as small as a model's
    uniforms = torch.rand(sizes.num_rows, dtype=torch.float64)

    def sort() -> Tensor:
        shares, tokens = torch.softmax(logits / 0.8, dim=-1).double().sort(dim=-1, descending=True)
        mass = shares.cumsum(dim=-1)
        kept = torch.where(mass - shares < 0.95, shares, 0.0).cumsum(dim=-1)
        return tokens.gather(1, torch.searchsorted(kept, uniforms[:, None] * kept[:, -1:], right=True))[:, 0]

    return Sides(_frozen(sort), _frozen(lambda: sample_tokens(logits, uniforms, 0.8, 0.95)))


def _frozen(step: Step) -> Step:
    return torch.inference_mode()(step)


def pairs_of(sizes: Sizes) -> list[list[list[int]]]:
    """Return two sequences for each pair, which share the prompt and nothing else."""
    prompt, completion = sizes.prompt, sizes.completion
    pairs = []
    for _ in range(sizes.num_pairs):
        ids = torch.randperm(sizes.model.vocabulary - 1)[: prompt + 2 * completion].add_(1).tolist()
        pairs.append([ids[: prompt + completion], ids[:prompt] + ids[prompt + completion :]])
    return pairs


CASES = (
    Case("attention of trees", "scaled_dot_product_attention, a call for each branch", attention_of_trees),
    Case("linear layer and adapter", "peft", adapted_layer),
    Case("4-bit linear layer and adapter", "peft, bitsandbytes", adapted_layer_in_4_bits),
    Case("head of pairs", "trl's fused head on padded batches", head_of_pairs),
    Case("q, k, v and adapters, sampling", "linear layers one by one", layers_of_one_input),
    Case("attention of samples", "scaled_dot_product_attention, a prompt for each", attention_of_samples),
    Case("choice of tokens", "a sort of the vocabulary", choice_of_tokens),
)


# --- timing -------------------------------------------------------------------------------------------------------


def measure(sides: Sides, *, seconds: float) -> Found:
    """Return what calls of both sides take, over rounds in which each side runs, in turn first.

    Args:
        sides: What to call.
        seconds: To go on for; at least `MIN_ROUNDS` rounds.
    """
    once = [min(_seconds(step, 1) for _ in range(2)) for step in sides]  # the first call also prepares
    num_calls = max(1, math.ceil(TIMED_S / min(once)))
    taken: list[dict[int, float]] = [{}, {}]
    stop = time.perf_counter() + seconds
    number = 0
    while number < MIN_ROUNDS or time.perf_counter() < stop:
        for side in (0, 1) if number % 2 else (1, 0):
            taken[side][number] = _seconds(sides[side], num_calls) / num_calls
        number += 1
    replaced, ours = (spread(list(found.values())) for found in taken)
    ratio = speedup(taken[1], taken[0], is_rate=False)
    assert replaced is not None and ours is not None and ratio is not None
    return Found(replaced, ours, ratio)


def _seconds(step: Step, num_calls: int) -> float:
    started = time.perf_counter()
    for _ in range(num_calls):
        step()
    return time.perf_counter() - started


def report(sizes: Sizes, *, seconds: float) -> Iterator[str]:
    """Return the lines that are printed, each as soon as it is known."""
    yield (
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}, "
        f"bfloat16; {sizes.num_pairs} pairs, {sizes.num_rows} rows, "
        f"prompt {sizes.prompt} tokens, completions {sizes.completion}"
    )
    yield f"{'medians':32} {'replaced':>10} {'ours':>10}   times as fast [smallest, largest of the rounds]"
    for case in CASES:
        torch.manual_seed(0)
        replaced, ours, ratio = measure(case.make(sizes), seconds=seconds)
        yield (
            f"{case.name:32} {1000 * replaced.median:7.2f} ms {1000 * ours.median:7.2f} ms   "
            f"{ratio.median:.2f} [{ratio.low:.2f}, {ratio.high:.2f}], n = {ratio.num}, of {case.replaces}"
        )


def main() -> None:
    """Print a line for each replacement."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=6.0, help="for each replacement")
    options = parser.parse_args()
    keep_freed_memory()  # as stages do
    for line in report(Sizes(), seconds=options.seconds):
        print(line, flush=True)


if __name__ == "__main__":
    main()
