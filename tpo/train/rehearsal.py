"""The longest micro-batch, computed forward and backward before the first step, and then forgotten.

Micro-batches are shuffled, so the longest may come after hours: if it does not fit into the memory, training ends now.
And where policy and reference are the same weights, its log-probabilities have to be the reference's to the last bit,
and so have those of the shortest and of one of median length, for which a device may have other kernels. The reference
is computed without gradients; should they round otherwise with them, it is computed again as training computes.
"""

import logging
from typing import Any

import torch
from accelerate.utils import gather
from torch import Tensor
from trl import DPOTrainer

from tpo.train.reference import COLUMNS, ReferenceCache, log_probs, reference_logps
from tpo.train.settings import TrainingError

log = logging.getLogger(__name__)

# The most that rounding may change a sequence's log-probability, nats, in 32 and in 16 bits: kernels for other shapes
# of a batch change it by half a nat in bfloat16 (experiments/LOG.md), another policy by tens.
ROUNDING, ROUNDING_16_BITS = 1e-2, 1.0
STATE_BYTES = 12  # of AdamW for each trained weight: master copy and two moments in float32


def rehearse(trainer: DPOTrainer, *, starts_at_reference: bool, cache: ReferenceCache | None) -> str | None:
    """Compute the longest micro-batch, and the reference again where that differs from it by rounding.

    Weights, gradients and random numbers are then as before. Every process of a training calls this, none where the
    model is sharded later: it is whole here.

    Args:
        trainer: Ready to train, its data set with the reference's columns.
        starts_at_reference: Whether the reference is the policy that training starts from.
        cache: Of the reference's log-probabilities; None for none.

    Returns:
        What was found of the reference, as a sentence; None where it was right.

    Raises:
        TrainingError: If the micro-batch does not fit into the device's memory.
    """
    data = trainer.train_dataset
    longest = longest_micro_batch(data, has_trees=trainer.data_collator.has_trees)
    found = {longest: _compute(trainer, data[longest])}
    if not starts_at_reference:
        return None
    for index in {0, len(data) // 2} - {longest}:  # rows are in the order of their lengths
        found[index] = log_probs(trainer.model, trainer.data_collator([data[index]])).detach().view(2, -1)
    gaps = [logps - logps.new_tensor([data[index][name] for name in COLUMNS]) for index, logps in found.items()]
    gap = float(gather(torch.cat([each.flatten() for each in gaps]).abs().max()).max())
    if gap == 0:
        return None
    limit = ROUNDING if trainer.model.dtype == torch.float32 else ROUNDING_16_BITS
    if not gap <= limit:  # another policy, or no number at all: the first step says so
        return None
    columns = reference_logps(trainer, disable_adapter=False, with_gradients=True)
    for name, values in columns.items():
        trainer.train_dataset = trainer.train_dataset.remove_columns(name).add_column(name, values)
    said = f"the reference was computed with gradients, without which it differed by {gap:.2g} nats"
    if trainer.accelerator.is_main_process:
        log.warning("%s: %s", trainer.model.config.model_type, said)
        if cache is not None:
            cache.write(columns)
    return said


def longest_micro_batch(data: Any, *, has_trees: bool) -> int:
    """Return the index of the micro-batch that takes the most memory.

    Args:
        data: A row per micro-batch, each value a list over its pairs.
        has_trees: Whether a pair is computed as prompt, chosen and rejected completion, without padding.
    """

    def cost(row: dict[str, Any]) -> int:
        sizes = [[len(ids) for ids in row[name]] for name in ("prompt_ids", "chosen_ids", "rejected_ids")]
        if has_trees:
            return sum(map(sum, sizes))
        widest: int = max(prompt + max(pair) for prompt, *pair in zip(*sizes, strict=True))
        return 2 * len(sizes[0]) * widest

    costs = [cost(row) for row in data]
    return costs.index(max(costs))


def _compute(trainer: DPOTrainer, row: dict[str, Any]) -> Tensor:
    """Return a micro-batch's log-probabilities, (2, pairs), after a backward pass through them."""
    model, arguments = trainer.model, trainer.args
    if arguments.gradient_checkpointing:  # the trainer does so when it begins to train
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs=arguments.gradient_checkpointing_kwargs)
    trained = [part for part in model.parameters() if part.requires_grad]
    is_cuda = model.device.type == "cuda"
    try:
        with torch.random.fork_rng([model.device] if is_cuda else []):
            # In place of the optimizer's state, which the first step allocates.
            state = [part.new_empty(STATE_BYTES * part.numel(), dtype=torch.uint8) for part in trained if is_cuda]
            logps = log_probs(model, trainer.data_collator([row]))
            logps.sum().backward()  # type: ignore[no-untyped-call]
    except torch.OutOfMemoryError as error:
        tokens = sum(len(ids) for name in ("prompt_ids", "chosen_ids", "rejected_ids") for ids in row[name])
        raise TrainingError(
            f"the longest micro-batch, {len(row['prompt_ids'])} pairs of {tokens} tokens, does not fit into the "
            "GPU's memory: lower train.micro_batch_size or pairs.max_tokens, or set train.gradient_checkpointing=true "
            f"({str(error).partition('.')[0]})"
        ) from error
    finally:
        for part in trained:
            part.grad = None
    del state
    return logps.detach().view(2, -1)
