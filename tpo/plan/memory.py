"""The memory of training, sampling and judging, by part, from a model's sizes; nothing is loaded or measured.

`experiments/memory.md` has the tables of an 8B model and says how the formulas were checked: what autograd keeps and
the peaks are those of the project's own passes, counted on the meta device and on a CPU.
"""

from collections.abc import Sequence
from typing import NamedTuple

from tpo.model.architecture import RANK, Architecture
from tpo.model.disk import GIB

CHUNK = 512  # tpo.train.pair_trees.CHUNK, which a test compares: importing it would import torch
TRAINED = 2 + 2 + 4 + 4 + 4  # bytes of a trained weight: itself, gradient, float32 master copy, Adam's two moments
# Assumptions: CUDA's context, cuBLAS's workspaces, what the driver keeps; a part lost to fragmentation; and what vLLM
# takes beside weights and KV cache (its profiling run's activations, the sampler's logits, captured graphs).
CONTEXT, FRAGMENTATION, VLLM_WORKSPACE = 1.0 * GIB, 0.05, 2.0 * GIB


def available(card: float) -> float:
    """Return the bytes of a card of so many GiB that tensors may take: M (1 - 0.05) - 1 GiB, both assumptions."""
    return card * GIB * (1 - FRAGMENTATION) - CONTEXT


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

    Kept for each token and layer: two norms' inputs and scales in float32, and their outputs; the same of queries and
    keys, without outputs, where each head has a norm; LoRA's inner products; turned queries and keys, values, the
    output projection's input; gate, its SiLU, up and their product. Of frozen weights nothing: the backward pass
    dequantizes a matrix again. The chosen branch with its trunk goes through flash attention (output, float32
    logsumexp), the rejected one, with a mask, through the memory-efficient kernel: keys and values repeated for each
    head, output, logsumexp in blocks of 32 queries, a mask in 16 bits of its own.

    Worst moments: the head, when a chunk's logits meet those of the chunk before; the backward pass of a layer's feed
    forward, whose activations are free before that of attention, which takes less.
    """
    hidden, inner, query, key = model.hidden, model.intermediate, model.query, model.key
    tokens, predicted = sum(map(sum, pairs)), sum(pair.chosen + pair.rejected for pair in pairs)
    norms, adapters = 2 * (4 * hidden + 4 + 2 * hidden), 2 * rank * len(model.linears)
    if model.norms_heads:
        norms += 4 * (query + key + model.heads + model.kv_heads)
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


def most_pairs(model: Architecture, pair: Pair, *, card: float, quantization: str, is_checkpointed: bool) -> int:
    """Return how many such pairs one forward and backward pass can take, 0 to 64."""
    return sum(
        training_bytes(model, [pair] * count, quantization=quantization, is_checkpointed=is_checkpointed)
        <= available(card)
        for count in range(1, 65)
    )


def sequences_at_once(
    model: Architecture, *, card: float, utilization: float, tokens: int, quantization: str = "none"
) -> int:
    """Return how many sequences of so many tokens vLLM's KV cache holds, in blocks of 16 tokens."""
    taken = model.base_bytes(quantization) + 2 * model.num_adapter() + VLLM_WORKSPACE
    return max(0, int((utilization * card * GIB - taken) // (round_up(tokens, 16) * model.kv_bytes)))


def judge_bytes(model: Architecture, tokens: int) -> float:
    """Return the peak, a feed forward, of a reward model without a language-model head that keeps nothing."""
    weights = 2 * (model.num_linear + model.num_other - (not model.is_tied) * model.num_head)
    return weights + (4 * model.head_dim + 6 * model.intermediate + 8 * model.hidden) * tokens
