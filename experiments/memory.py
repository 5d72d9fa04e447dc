"""What fits on a GPU of 24, 48 or 80 GiB? Training, sampling and judging of an 8B model, by part.

python -m experiments.memory            prints the tables
python -m experiments.memory --write    and puts them into experiments/memory.md

Another architecture is given by its numbers (`--help`). Everything is computed from shapes; what autograd keeps
is a closed formula, which tests/test_memory_table.py compares with the project's own forward and backward pass.
"""

import argparse
from collections.abc import Sequence
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table as Printed

from experiments.architecture import RANK, Architecture

REPOSITORY = Path(__file__).parent.parent
RECORD, ENGINE = REPOSITORY / "experiments" / "memory.md", REPOSITORY / "conf" / "engine" / "vllm.yaml"
BEGIN, END = "<!-- tables: python -m experiments.memory --write -->", "<!-- end of tables -->"
GIB, CARDS = 2**30, (24, 48, 80)  # of so many GiB
CHUNK = 512  # tpo.train.pair_trees.CHUNK, which a test compares: importing it would import torch
PROMPT = 300  # tokens of instruction, thought prompt and chat template: an assumption
COMPLETION = 2048  # conf/sample/paper.yaml: thought and response share it
JUDGE_TOKENS = 16384  # conf/judge/armorm.yaml, batch_tokens
TRAINED = 2 + 2 + 4 + 4 + 4  # bytes of a trained weight: itself, gradient, float32 master copy, Adam's two moments
# Assumptions: CUDA's context, cuBLAS's workspaces, what the driver keeps; a part lost to fragmentation; and what vLLM
# takes beside weights and KV cache (its profiling run's activations, the sampler's logits, captured graphs).
CONTEXT, FRAGMENTATION, VLLM_WORKSPACE = 1.0 * GIB, 0.05, 2.0 * GIB
AVAILABLE = {card: card * GIB * (1 - FRAGMENTATION) - CONTEXT for card in CARDS}


class Pair(NamedTuple):
    """Tokens of a preference pair; the tree has their sum."""

    prompt: int
    chosen: int
    rejected: int


class Activations(NamedTuple):
    """Bytes that a forward and backward pass takes: kept between them, and besides at the worst moment."""

    kept: float
    working: float


def activations(
    model: Architecture, pairs: Sequence[Pair], *, is_checkpointed: bool, rank: int = RANK, is_quantized: bool = False
) -> Activations:
    """Return what one micro-batch of pairs takes, each a tree without padding, everything in 16 bits unless said.

    Kept for each token and layer: two norms' inputs and scales in float32, and their outputs; LoRA's inner
    products; turned queries and keys, values, the output projection's input; gate, its SiLU, up and their product. Of
    frozen weights nothing: the backward pass dequantizes a matrix again. The chosen branch with its trunk goes through
    flash attention (output, float32 logsumexp), the rejected one, with a mask, through the memory-efficient kernel:
    keys and values repeated for each head, output, logsumexp in blocks of 32 queries, a mask in 16 bits of its own.

    Worst moments: the head, when a chunk's logits meet those of the chunk before; the backward pass of a layer's feed
    forward, whose activations are free before that of attention, which takes less.
    """
    hidden, inner, query, key = model.hidden, model.intermediate, model.query, model.key
    tokens, predicted = sum(map(sum, pairs)), sum(pair.chosen + pair.rejected for pair in pairs)
    norms, adapters = 2 * (4 * hidden + 4 + 2 * hidden), 2 * rank * len(model.linears)
    layer = (norms + adapters + 2 * 2 * query + 4 * key + 4 * 2 * inner) * tokens
    for pair in pairs:
        whole = pair.prompt + pair.rejected
        layer += (2 * query + 4 * model.heads) * (pair.prompt + pair.chosen)
        layer += 2 * query * (pair.rejected + 2 * whole)
        layer += 4 * model.heads * round_up(pair.rejected, 32) + 2 * pair.rejected * round_up(whole, 8)  # rows aligned
    # Cosines and sines; masks as the row holds them; for each predicted token its state, the gradient to it, and where
    # it stands. The final norm's input and scale stand in for the first norm's, which are not kept, unless
    # checkpointing wants gradients to the embeddings.
    masks = {(pair.prompt, pair.rejected): pair.rejected * (pair.prompt + pair.rejected) for pair in pairs}
    shared = 2 * 2 * model.head_dim * tokens + sum(masks.values()) + predicted * (2 * 2 * hidden + 28)
    gradients = (4 * inner + 2 * hidden) * tokens
    if is_quantized:
        gradients += 2 * max(inputs * outputs for inputs, outputs in model.linears)  # one matrix in 16 bits
    head = 14 * model.vocabulary * min(CHUNK, predicted)
    if not is_checkpointed:
        return Activations(model.layers * layer + shared, max(head, gradients))
    return Activations((model.layers * 2 * hidden + 4 * hidden + 4) * tokens + shared, max(head, layer + gradients))


def round_up(size: int, multiple: int) -> int:
    """Return the smallest multiple that is not below a size."""
    return -(-size // multiple) * multiple


def training_bytes(model: Architecture, pairs: Sequence[Pair], *, quantization: str, is_checkpointed: bool) -> float:
    """Return the peak of training an adapter; the pass for the reference's log-probabilities takes less."""
    taken = activations(model, pairs, is_checkpointed=is_checkpointed, is_quantized=quantization == "nf4")
    return model.base_bytes(quantization) + TRAINED * model.num_adapter() + sum(taken)


def most_pairs(model: Architecture, pair: Pair, *, card: int, quantization: str, is_checkpointed: bool) -> int:
    """Return how many such pairs one forward and backward pass can take, 0 to 64."""
    given = {"quantization": quantization, "is_checkpointed": is_checkpointed}
    return sum(training_bytes(model, [pair] * count, **given) <= AVAILABLE[card] for count in range(1, 65))


def sequences_at_once(model: Architecture, *, card: int, utilization: float, tokens: int) -> int:
    """Return how many sequences of so many tokens vLLM's KV cache holds, in blocks of 16 tokens."""
    taken = 2 * (model.num_linear + model.num_other + model.num_adapter()) + VLLM_WORKSPACE
    return max(0, int((utilization * card * GIB - taken) // (round_up(tokens, 16) * model.kv_bytes)))


def judge_bytes(model: Architecture, tokens: int = JUDGE_TOKENS) -> float:
    """Return the peak, a feed forward, of a reward model without a language-model head that keeps nothing."""
    weights = 2 * (model.num_linear + model.num_other - (not model.is_tied) * model.num_head)
    return weights + (4 * model.head_dim + 6 * model.intermediate + 8 * model.hidden) * tokens


class Table(NamedTuple):
    """What is printed and recorded."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Return it in Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gib(size: float) -> str:
    """Return bytes as GiB."""
    return f"{size / GIB:.2f}"


def tables(model: Architecture) -> list[Table]:
    """Return what is printed and recorded."""
    sizes = [Pair(PROMPT, *[length] * 2) for length in (350, 850, COMPLETION)]
    names = [f"{sum(pair):,} tokens" for pair in sizes]
    adapter, total = model.num_adapter(), model.num_linear + model.num_other
    each = "itself, gradient, master copy, Adam's moments"
    weights = [
        ["base, NF4", gib(model.base_bytes("nf4")), f"{total:,} weights, {model.num_other:,} of them in 16 bits"],
        ["base, bf16", gib(model.base_bytes("none")), "2 bytes a weight"],
        ["LoRA", gib(TRAINED * adapter), f"r={RANK}, {adapter:,} weights, {TRAINED} bytes each"],
        ["full fine-tuning", gib(TRAINED * total), f"{TRAINED} bytes each: {each}"],
    ]
    passes, fits, settings, inference = [], [], [], []
    for is_checkpointed in (True, False):
        mode = str(is_checkpointed).lower()
        taken = [activations(model, [pair], is_checkpointed=is_checkpointed) for pair in sizes]
        passes.append([mode, "kept for the backward pass", *(gib(part.kept) for part in taken)])
        passes.append([mode, "besides, at the worst moment", *(gib(part.working) for part in taken)])
    for card, quantization in product(CARDS, ("nf4", "none")):
        most = {}
        for is_checkpointed in (True, False):
            given = {"quantization": quantization, "is_checkpointed": is_checkpointed}
            counts = [most_pairs(model, pair, card=card, **given) for pair in sizes]
            fits.append([f"{card} GiB", quantization, str(is_checkpointed).lower(), *(str(n or "-") for n in counts)])
            most[is_checkpointed] = counts[-1]
        checkpoints, count = not most[False], most[False] or most[True]
        size = 2 ** (count.bit_length() - 1) if count else 0  # train.batch_size is a multiple of it
        peak = training_bytes(model, [sizes[-1]] * max(size, 1), quantization=quantization, is_checkpointed=checkpoints)
        settings.append([f"{card} GiB", quantization, str(size or "does not fit"), str(checkpoints).lower(), gib(peak)])
    engine, sampled = OmegaConf.load(ENGINE), PROMPT + COMPLETION
    for card in CARDS:
        held = sequences_at_once(model, card=card, utilization=engine.gpu_memory_utilization, tokens=sampled)
        judge = f"{gib(judge_bytes(model))}: {'fits' if judge_bytes(model) <= AVAILABLE[card] else 'does not fit'}"
        inference.append([f"{card} GiB", str(held), str(min(held, engine.max_num_seqs)), judge])
    cards, checkpointing = ["GPU", "model.quantization"], "train.gradient_checkpointing"
    cache, longest = f"sequences of {sampled:,} tokens in vLLM's cache", f"{sum(sizes[-1]):,} tokens"
    return [
        Table("Weights and what training adds", ["part", "GiB", "which is"], weights),
        Table("Activations of one pair, GiB", [checkpointing, "part", *names], passes),
        Table("Pairs that fit in one pass, up to 64", [*cards, checkpointing, *names], fits),
        Table(f"Settings for pairs of {longest}", [*cards, "train.micro_batch_size", checkpointing, "GiB"], settings),
        Table("Sampling and judging", ["GPU", cache, "decoded together", "ArmoRM, GiB"], inference),
    ]


def main(options: argparse.Namespace) -> None:
    """Print the tables, and record them."""
    found = tables(Architecture(**{field.name: getattr(options, field.name) for field in fields(Architecture)}))
    for table in found:
        printed = Printed(*table.header, title=table.title)
        for row in table.rows:
            printed.add_row(*row)
        Console().print(printed)
    if options.write:
        before, after = RECORD.read_text().split(BEGIN)[0], RECORD.read_text().split(END)[1]
        RECORD.write_text(before + "\n\n".join([BEGIN, *(table.markdown() for table in found), END]) + after)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in fields(Architecture):  # is_tied: 0 or 1
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=int(field.default))
    parser.add_argument("--write", action="store_true", help="put the tables into experiments/memory.md")
    main(parser.parse_args())
