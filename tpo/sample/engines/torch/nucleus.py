"""Choosing tokens: nucleus sampling by inversion, without sorting the vocabulary."""

import torch
from torch import Tensor

NUM_CANDIDATES = (64, 256, 1024)  # tried in this order, before the whole vocabulary is sorted
GREEDY = 1e-5  # temperatures below are 0, as in vLLM: logits divided by them are no numbers in float32
CHUNK = 64  # a row's n largest values lie in the n chunks with the largest maxima


def sample_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return one token a row, drawn from the nucleus by inverting its distribution function.

    The nucleus is the smallest set of most probable tokens whose mass reaches `top_p` (Holtzman et al. 2020, section
    3.1). It is computed from a row's few most probable tokens; for rows where their mass is below `top_p` from more of
    them, and at last from the sorted vocabulary. The token drawn is the same.

    Args:
        logits: (rows, vocabulary).
        uniforms: (rows,) in [0, 1).
        temperature: 0, or less than `GREEDY`, takes the most probable token.
        top_p: In (0, 1]; 1 keeps every token.

    Returns:
        (rows,) token ids.
    """
    if temperature < GREEDY:
        return logits.argmax(dim=-1)
    shares = torch.softmax(logits.to(torch.float32, copy=True).div_(temperature), dim=-1)
    if top_p == 1:  # the nucleus is the vocabulary, in any order: nothing is sorted
        tokens = torch.arange(shares.shape[-1], device=shares.device).expand_as(shares)
        return _invert(shares, tokens, uniforms, top_p)[0]
    chosen = torch.empty_like(uniforms, dtype=torch.long)
    rows = torch.arange(len(shares), device=shares.device)
    for count in (*NUM_CANDIDATES, shares.shape[-1]):
        values, tokens = largest(shares, min(count, shares.shape[-1]))
        chosen[rows], is_settled = _invert(values, tokens, uniforms, top_p)
        is_open = ~is_settled
        if count >= shares.shape[-1] or not is_open.any():
            break
        rows, shares, uniforms = rows[is_open], shares[is_open], uniforms[is_open]
    return chosen


def largest(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Return the `count` largest values of each row (rows, size), in descending order, and their indices."""
    rows, size = values.shape
    if count == size:
        ordered = values.sort(dim=-1, descending=True, stable=True)
        return ordered.values, ordered.indices
    if size % CHUNK or size // CHUNK <= count * 4:  # leaving chunks out would save too little
        top = values.topk(count, dim=-1)
        return top.values, top.indices
    chunks = values.view(rows, -1, CHUNK)
    best = chunks.amax(dim=-1).topk(count, dim=-1, sorted=False).indices
    candidates = chunks.gather(1, best[..., None].expand(-1, -1, CHUNK)).flatten(1)
    top = candidates.topk(count, dim=-1)
    return top.values, best.gather(1, top.indices // CHUNK) * CHUNK + top.indices % CHUNK


def _invert(values: Tensor, tokens: Tensor, uniforms: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the drawn tokens, and for which rows the sum of `values`, sorted unless top_p is 1, reaches `top_p`."""
    shares = values.double()
    mass = shares.cumsum(dim=-1)
    is_in_nucleus = mass - shares < top_p  # with the token that crosses top_p
    nucleus_mass = torch.where(is_in_nucleus, shares, 0.0).sum(dim=-1)
    position = torch.searchsorted(mass, (uniforms.double() * nucleus_mass)[:, None], right=True).flatten()
    position = torch.minimum(position, is_in_nucleus.sum(dim=-1) - 1)
    return tokens.gather(-1, position[:, None]).flatten(), mass[:, -1] >= top_p
