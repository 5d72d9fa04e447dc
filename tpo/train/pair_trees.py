"""Log-probabilities of pairs for training: a pair's completions share their prompt, and nothing is padded.

trl computes each completion with a copy of the prompt, padded to the longest of its batch, and passes every position
to the language-model head. Here a pair is a tree (`tpo.model.trees`), and only states that predict a token of a
completion reach the head, which is much of a small model's arithmetic. The results go into trl's own loss;
`experiments/kernels.py` compares the head with trl's.
"""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn.functional import linear
from trl.trainer.utils import FusedCausalLMOutput

from tpo.model.frozen import FrozenLinear, can_reorder
from tpo.model.probe import agrees, probe_ids
from tpo.model.trees import TreeRow, computes_trees, join

CHUNK = 512  # tokens whose logits exist at one time
STATISTICS = ("log_probs", "entropy", "mean_logits", "is_top1")  # trl's names of what a head returns of each token


@dataclass(frozen=True)
class PairRow:
    """A micro-batch of pairs laid out as trees.

    Attributes:
        row: A tree for each pair.
        sources: (tokens,) indices in the row of the states that predict the completions' tokens.
        targets: (tokens,) ids of these tokens.
        places: (tokens,) their indices in trl's batch without its first column, flattened.
        shape: Of that batch: chosen completions, then rejected ones; all positions but the first.
    """

    row: TreeRow
    sources: Tensor
    targets: Tensor
    places: Tensor
    shape: tuple[int, int]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "PairRow":
        """Return a copy on a device; accelerate calls this as it calls a tensor's `to`."""
        moved = {
            name: getattr(self, name).to(device, non_blocking=non_blocking) for name in ("sources", "targets", "places")
        }
        return replace(self, row=self.row.to(device, non_blocking=non_blocking), **moved)


def lay_out(batch: dict[str, Tensor], *, is_dense: bool) -> PairRow:
    """Return the row of trl's batch: `input_ids`, `attention_mask` and `completion_mask`, chosen above rejected.

    Args:
        batch: The batch.
        is_dense: Whether to lay it out for a CPU (`TreeRow`).
    """
    sequences = [
        ids[:length]
        for ids, length in zip(batch["input_ids"].tolist(), batch["attention_mask"].sum(dim=1).tolist(), strict=True)
    ]
    num_pairs = len(sequences) // 2
    trees = [join(sequences[pair::num_pairs]) for pair in range(num_pairs)]
    row = TreeRow(trees, is_dense=is_dense)
    rows, columns = torch.nonzero(batch["completion_mask"][:, 1:], as_tuple=True)
    sources = [
        row.spans[index % num_pairs].place(index // num_pairs, position)
        for index, position in zip(rows.tolist(), columns.tolist(), strict=True)
    ]
    width = batch["input_ids"].shape[1] - 1
    return PairRow(
        row,
        torch.tensor(sources),
        batch["input_ids"][rows, columns + 1],
        rows * width + columns,
        (2 * num_pairs, width),
    )


def add_pair_head(model: Any, *, allows_trees: bool = True, reorders: bool) -> str | None:
    """Let a causal language model that trl has prepared compute pairs on the fastest path that is exact for it.

    With trees, the model takes the argument `pair_row`; called with it, it returns what trl's own head returns for the
    batch, and zeros at masked positions. That is impossible for models whose decoder does not compute trees, or whose
    logits are more than a linear function of its states (Gemma 2's cap, Granite's scale). Then trl's head computes the
    padded batch; where even that is not what the model computes by itself, its own logits of all positions are taken.

    Args:
        model: The model.
        allows_trees: Whether batches can be rows of trees.
        reorders: Whether to copy a head that is not trained in the order of a CPU's kernels, as `fuse_adapter` does.

    Returns:
        What was given up, as a sentence; None for trees.
    """
    decoder, head = model.get_decoder(), model.get_output_embeddings()
    if allows_trees and _is_linear(model, decoder, head) and computes_trees(decoder):
        _add_trees(model, reorders=reorders)
        return None
    if _is_trls_exact(model):
        return "pairs are padded"
    _add_own_head(model)
    return "pairs are padded and the logits of every position computed"


def _add_trees(model: Any, *, reorders: bool) -> None:
    head = model.get_output_embeddings()
    padded: Callable[..., Any] = model.forward
    is_copied = reorders and not head.weight.requires_grad and can_reorder(model)
    frozen = FrozenLinear(head, reorders=True) if is_copied else None

    def forward(self: Any, *args: Any, pair_row: PairRow | None = None, **kwargs: Any) -> Any:
        if pair_row is None:
            return padded(*args, **kwargs)
        states = self.get_decoder()(**pair_row.row.inputs).last_hidden_state[0, pair_row.sources]
        head = self.get_output_embeddings()
        values = completion_statistics(states, _whole(head.weight), _whole(_bias(head)), pair_row.targets, frozen)
        empty = states.new_zeros(pair_row.shape).flatten()
        return FusedCausalLMOutput(
            **{
                name: empty.to(value.dtype).index_copy(0, pair_row.places, value).view(pair_row.shape)
                for name, value in zip(STATISTICS, values, strict=True)
            }
        )

    model.forward = MethodType(forward, model)


def _add_own_head(model: Any) -> None:
    fused: Callable[..., Any] = model.forward

    def forward(self: Any, *args: Any, fused_lm_head: bool = False, labels: Tensor | None = None, **kwargs: Any) -> Any:
        if not fused_lm_head or labels is None:
            return fused(*args, labels=labels, **kwargs)
        logits = fused(*args, **kwargs).logits[:, :-1].float()
        logps = logits.log_softmax(dim=-1)
        mask, targets = labels[:, 1:] != -100, labels[:, 1:].clamp(min=0)
        chosen = logps.gather(-1, targets[..., None]).squeeze(-1)
        with torch.no_grad():
            others = (-(logps.exp() * logps).sum(dim=-1), logits.mean(dim=-1), chosen == logps.amax(dim=-1))
        values = zip(STATISTICS, (chosen, *others), strict=True)
        return FusedCausalLMOutput(**{name: value.masked_fill(~mask, 0) for name, value in values})

    model.forward = MethodType(forward, model)


@torch.no_grad()
def _is_linear(model: Any, decoder: Any, head: Any) -> bool:
    ids = torch.arange(1, 9, device=model.device)[None]
    with suppress(Exception):  # whatever a family's own code says to what it does not expect
        states = decoder(input_ids=ids, use_cache=False).last_hidden_state
        return torch.equal(linear(states, head.weight, _bias(head)), model(input_ids=ids, use_cache=False).logits)
    return False


@torch.no_grad()
def _is_trls_exact(model: Any) -> bool:
    """Return whether trl's head, which goes past the model's own, gives the same of the same states."""
    ids = torch.tensor([probe_ids(model, 16)], device=model.device).view(2, 8)
    mask = torch.ones_like(ids)
    mask[1, 6:] = 0
    given = {"input_ids": ids, "attention_mask": mask, "use_cache": False}
    is_read = mask[:, 1:].bool()
    logps = model(**given).logits[:, :-1].float().log_softmax(dim=-1)
    expected = logps.gather(-1, ids[:, 1:, None])[is_read]
    with suppress(Exception):  # whatever trl's head says to a family that it does not know
        labels = ids.masked_fill(mask == 0, -100)
        found = model(**given, labels=labels, fused_lm_head=True).log_probs[is_read]
        return agrees(found[:, None], expected, dtype=model.dtype, share=0.2)
    return False


def _bias(head: Any) -> Tensor | None:
    return getattr(head, "bias", None)


def _whole(parameter: Any) -> Any:
    """Return a parameter, gathered where FSDP has sharded it."""
    return parameter.full_tensor() if isinstance(parameter, DTensor) else parameter


def completion_statistics(
    states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, frozen: FrozenLinear | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return four statistics of each target under the head, all (tokens,), the first three float32, the last bool.

    The target's log-probability, with gradient; the distribution's entropy, in nats; the mean logit; whether no other
    token is more probable. The logits of `CHUNK` tokens are in memory at a time. The gradient with respect to the
    states is computed in the forward pass; the backward pass computes logits again only for a head that is trained.

    Args:
        states: (tokens, hidden).
        weight: (vocabulary, hidden).
        bias: (vocabulary,) or None.
        targets: (tokens,) ids.
        frozen: What multiplies with the weight, where it was copied.
    """
    found: tuple[Tensor, Tensor, Tensor, Tensor] = _Head.apply(states, weight, bias, targets, frozen)  # type: ignore[no-untyped-call]
    return found


class _Head(torch.autograd.Function):
    """The gradient of log p(target) with respect to a state is the target's row of the head less the expected row."""

    @staticmethod
    def forward(
        ctx: Any, states: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor, frozen: FrozenLinear | None
    ) -> tuple[Tensor, ...]:
        parts, rows = [], []
        for some, ids in zip(_chunks(states), _chunks(targets), strict=True):
            logits = (linear(some, weight, bias) if frozen is None else frozen.forward(some)).float()
            mean, top = logits.mean(dim=-1), logits.amax(dim=-1)
            logits.sub_(top[:, None])
            chosen = logits.gather(-1, ids[:, None]).squeeze(-1)
            masses = logits.exp()  # of which the largest is 1
            total = masses.sum(dim=-1)
            entropy = total.log() - logits.mul_(masses).sum(dim=-1) / total
            parts.append((chosen - total.log(), entropy, mean, chosen == 0))
            if states.requires_grad:
                masses = masses.to(weight.dtype)
                expected = masses @ weight if frozen is None else frozen.backward(masses)
                rows.append(weight[ids] - expected / total.to(weight.dtype)[:, None])
        ctx.save_for_backward(torch.cat(rows) if rows else None, states, weight, bias, targets)
        results = tuple(torch.cat(part) for part in zip(*parts, strict=True))
        ctx.mark_non_differentiable(*results[1:])
        return results

    @staticmethod
    def backward(ctx: Any, grad_logps: Tensor, *_: Any) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        rows, states, weight, bias, targets = ctx.saved_tensors
        grad_states = None if rows is None else (grad_logps[:, None] * rows).to(states.dtype)
        if not weight.requires_grad:
            return grad_states, None, None, None, None
        grad_weight = torch.zeros_like(weight)
        grad_bias = None if bias is None else torch.zeros_like(bias)
        for some, ids, grads in zip(*map(_chunks, (states, targets, grad_logps)), strict=True):
            grad_logits = torch.softmax(linear(some, weight, bias), dim=-1, dtype=torch.float32).mul_(-grads[:, None])
            grad_logits.scatter_add_(-1, ids[:, None], grads[:, None])
            grad_weight.addmm_(grad_logits.T.to(weight.dtype), some)
            if grad_bias is not None:
                grad_bias += grad_logits.sum(dim=0)
        return grad_states, grad_weight, grad_bias, None, None


def _chunks(values: Tensor) -> tuple[Tensor, ...]:
    return torch.split(values, CHUNK)
