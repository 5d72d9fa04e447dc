"""Whether a model computes on a fast path of this project what it computes by itself: self-tests share these.

The fast paths go past parts of transformers, peft and trl, and no list of families says which of them a model allows.
So each is tried on a few tokens when it is set up, and given up where the model's own forward pass gives something
else.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

# Of a position's values, relative to their norm. In float32 kernels differ by a millionth of the norm, and what a small
# decoder with random weights makes of another mask by less than a hundredth. In 16 bits kernels differ by a hundredth,
# and an occasional position by much more, where a layer amplifies a small difference; so there the median counts.
TOLERANCE, TOLERANCE_16_BITS = 1e-3, 0.05
# Keys that confine attention to so many tokens.
REACHES = (
    "sliding_window",
    "attention_chunk_size",
    "window_size",
    "attention_window_size",
    "local_attention",
    "keep_window_size",
    "index_topk",
)


def probe_ids(model: Any, count: int) -> list[int]:
    """Return token ids spread over the vocabulary, whose first ids are special tokens that never follow one another."""
    size = model.config.get_text_config().vocab_size  # an adapter may wrap the embeddings
    return [size * number // (count + 1) for number in range(1, count + 1)]


def agrees(found: Tensor, expected: Tensor, *, dtype: torch.dtype, share: float = 1.0) -> bool:
    """Return whether values, a row each position, are the expected ones up to rounding in a model's dtype.

    Args:
        found: What the fast path gives.
        expected: What the model gives.
        dtype: The model's.
        share: Of the tolerance, for what is rounded in few layers.
    """
    straight = expected.float()
    errors = (found.float() - straight).norm(dim=1) / straight.norm(dim=1).clamp(min=1e-30)
    if dtype == torch.float32:
        return bool((errors < share * TOLERANCE).all())
    return float(errors.median()) < share * TOLERANCE_16_BITS


def has_convolutions(decoder: Any) -> bool:
    """Return whether layers mix tokens by convolutions, as all do that have a state: whatever stands before, they see.

    Numbers alone do not always tell: in 16 bits what leaks into a short sequence can be as small as rounding.
    """
    return any(isinstance(module, nn.Conv1d) for module in decoder.modules())


class Reach(NamedTuple):
    """Up to how many tokens all of a sequence see one another, and the key of the configuration that says so."""

    tokens: int
    name: str


def reach(config: Any) -> Reach | None:
    """Return the first limit beyond which a model computes otherwise, None where there is none."""
    text = config.get_text_config()
    found = [
        Reach(size, name)
        for name in REACHES
        if isinstance(size := getattr(text, name, None), int)
        and not (name == "sliding_window" and not getattr(text, "use_sliding_window", True))
    ]
    # Rotary embeddings that are rescaled once the longest sequence of a batch is longer.
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("longrope", "dynamic"):
        found.append(Reach(rope.get("original_max_position_embeddings") or text.max_position_embeddings, "rope_type"))
    return min(found, default=None)
