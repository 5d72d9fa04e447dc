"""The operations and bytes that a piece of work cannot do without, from the model's configuration.

A multiplication and an addition are two operations. What sequences have in common is counted once, weights are read
once a step for all sequences together, activations and the optimizer are left out: a floor, which nobody has to reach.
Norms, rotations, activation functions and softmax are left out too, well below a hundredth of the operations.
"""

import math
from collections.abc import Sequence
from itertools import takewhile
from typing import NamedTuple

from tpo.model.architecture import Architecture


class Load(NamedTuple):
    """Work by what it asks of the machine."""

    operations: float
    bytes_read: float

    def plus(self, other: "Load") -> "Load":
        """Return both together."""
        return Load(self.operations + other.operations, self.bytes_read + other.bytes_read)


class Floor(NamedTuple):
    """Seconds below which a machine cannot do the work, by each of the two limits."""

    arithmetic_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """With perfect overlap, the larger of the two."""
        return max(self.arithmetic_s, self.memory_s)


def distinct_depths(sequences: Sequence[Sequence[int]]) -> list[int]:
    """Return the length of every distinct beginning of the sequences: the tokens to compute where they are shared."""
    depths: list[int] = []
    previous: Sequence[int] = ()
    for sequence in sorted(map(list, sequences)):
        shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(previous, sequence, strict=False)))
        depths += range(shared + 1, len(sequence) + 1)
        previous = sequence
    return depths


def sampling_load(
    model: Architecture, prompts: Sequence[Sequence[int]], lengths: Sequence[Sequence[int]], *, num_rows: int
) -> Load:
    """Return what sampling needs: prompts once, then a step for all sequences in flight together.

    A sequence's last token is not computed with, since nothing follows it. There are as many steps as the longest
    sequence has, or more where not all sequences fit into the rows. In a step, a prompt's keys and values are read
    once for all its samples.

    Args:
        model: Its sizes.
        prompts: Token ids.
        lengths: For each prompt, the tokens of its completions, all at least 1.
        num_rows: Sequences that decode together.
    """
    operations = model.forward_operations(distinct_depths(prompts), num_logits=len(prompts))
    own_positions = shared_positions = num_fed = 0
    for prompt, counts in zip(prompts, lengths, strict=True):
        for count in counts:
            depths = range(len(prompt) + 1, len(prompt) + count)
            operations += model.forward_operations(depths, num_logits=len(depths))
            num_fed += len(depths)
            own_positions += count * (count - 1) // 2
        shared_positions += len(prompt) * (max(counts) - 1)
    longest = max(max(counts) for counts in lengths) - 1
    num_steps = max(longest, math.ceil(num_fed / num_rows)) + 1  # and one for the prompts
    return Load(operations, num_steps * model.step_bytes + (own_positions + shared_positions) * model.kv_bytes)


def scoring_load(model: Architecture, groups: Sequence[Sequence[Sequence[int]]]) -> Load:
    """Return what reading one hidden state of each chat needs; what chats of a group have in common is shared."""
    operations = sum(model.forward_operations(distinct_depths(group), num_logits=0) for group in groups)
    return Load(operations, 2 * model.num_linear)


def training_load(
    model: Architecture,
    pairs: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]],
    *,
    num_epochs: int,
    rank: int,
) -> Load:
    """Return what DPO on a LoRA adapter needs: the reference once, then a forward and a backward pass an epoch.

    The base is frozen: the backward pass goes through its matrix products once (for the activations, not for weights),
    through the adapter's and through attention's twice. Logits are computed of completion tokens only, and the prompt
    of a pair once.

    Args:
        model: Its sizes.
        pairs: Token ids of prompt, chosen and rejected completion.
        num_epochs: Passes over the pairs.
        rank: Of the adapter, which is on all linear layers.
    """
    reference = epoch = 0.0
    for prompt, chosen, rejected in pairs:
        depths = distinct_depths([[*prompt, *chosen][:-1], [*prompt, *rejected][:-1]])
        num_logits = len(chosen) + len(rejected)
        forward = model.forward_operations(depths, num_logits=num_logits)
        attention = model.attention_operations * sum(depths)
        lora = 2 * model.num_adapter(rank) * len(depths)
        reference += forward
        epoch += 2 * forward + attention + 3 * lora
    return Load(reference + num_epochs * epoch, (1 + 2 * num_epochs) * model.step_bytes)


def floor(load: Load, *, operations_per_s: float, bytes_per_s: float) -> Floor:
    """Return the floor of a load on a machine that reaches so much."""
    return Floor(load.operations / operations_per_s, load.bytes_read / bytes_per_s)
