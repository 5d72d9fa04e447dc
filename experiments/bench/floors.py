"""The operations and bytes that a piece of work cannot do without, from the model's configuration.

A multiplication and an addition are two operations. What sequences have in common is counted once, weights are read
once a step for all sequences together, activations and the optimizer are left out: a floor, which nobody has to reach.
Norms, rotations, activation functions and softmax are left out too, well below a hundredth of the operations.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, NamedTuple


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


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder with grouped attention and a gated MLP (the Llama, Qwen and Gemma families)."""

    num_layers: int
    hidden: int
    intermediate: int
    query: int  # heads x head dimension
    key_value: int  # key-value heads x head dimension
    vocabulary: int
    weight_bytes: int = 2

    @classmethod
    def of(cls, config: Any) -> "Shape":
        """Return the sizes of a transformers configuration."""
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            num_layers=config.num_hidden_layers,
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            query=config.num_attention_heads * head,
            key_value=config.num_key_value_heads * head,
            vocabulary=config.vocab_size,
        )

    @classmethod
    def of_model(cls, path: str) -> "Shape":
        """Return the sizes of a model by its directory or Hub name."""
        from transformers import AutoConfig

        return cls.of(AutoConfig.from_pretrained(path).get_text_config())

    @property
    def linear_sizes(self) -> tuple[tuple[int, int], ...]:
        """(in, out) of the linear layers of one layer: q, k, v, o, gate, up, down."""
        hidden, inner = self.hidden, self.intermediate
        return (
            (hidden, self.query),
            (hidden, self.key_value),
            (hidden, self.key_value),
            (self.query, hidden),
            (hidden, inner),
            (hidden, inner),
            (inner, hidden),
        )

    @property
    def layer_weights(self) -> int:
        """Weights of the linear layers, without the output embedding."""
        return self.num_layers * sum(size * out for size, out in self.linear_sizes)

    @property
    def head_weights(self) -> int:
        """Weights of the output embedding. Of the input embedding only single rows are read."""
        return self.hidden * self.vocabulary

    @property
    def total_bytes(self) -> int:
        """Of the weights that a step of decoding reads."""
        return (self.layer_weights + self.head_weights) * self.weight_bytes

    @property
    def attention_operations(self) -> int:
        """Of one query and one key in all layers: the score, and the value that it weighs."""
        return 4 * self.query * self.num_layers

    @property
    def cache_bytes(self) -> int:
        """Of one position's keys and values in all layers."""
        return 2 * self.key_value * self.num_layers * self.weight_bytes

    def lora_weights(self, rank: int) -> int:
        """Weights of adapters of this rank on all linear layers."""
        return self.num_layers * rank * sum(size + out for size, out in self.linear_sizes)

    def forward(self, depths: Sequence[int], *, num_logits: int) -> float:
        """Return the operations of a forward pass.

        Args:
            depths: For every token, how many positions it attends to, itself included.
            num_logits: Positions whose logits are computed.
        """
        linear = 2 * self.layer_weights * len(depths) + 2 * self.head_weights * num_logits
        return linear + self.attention_operations * sum(depths)


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
    shape: Shape, prompts: Sequence[Sequence[int]], lengths: Sequence[Sequence[int]], *, num_rows: int
) -> Load:
    """Return what sampling needs: prompts once, then a step for all sequences in flight together.

    A sequence's last token is not computed with, since nothing follows it. There are as many steps as the longest
    sequence has, or more where not all sequences fit into the rows. In a step, a prompt's keys and values are read
    once for all its samples.

    Args:
        shape: Of the model.
        prompts: Token ids.
        lengths: For each prompt, the tokens of its completions, all at least 1.
        num_rows: Sequences that decode together.
    """
    operations = shape.forward(distinct_depths(prompts), num_logits=len(prompts))
    own_positions = shared_positions = num_fed = 0
    for prompt, counts in zip(prompts, lengths, strict=True):
        for count in counts:
            depths = range(len(prompt) + 1, len(prompt) + count)
            operations += shape.forward(depths, num_logits=len(depths))
            num_fed += len(depths)
            own_positions += count * (count - 1) // 2
        shared_positions += len(prompt) * (max(counts) - 1)
    longest = max(max(counts) for counts in lengths) - 1
    num_steps = max(longest, math.ceil(num_fed / num_rows)) + 1  # and one for the prompts
    return Load(operations, num_steps * shape.total_bytes + (own_positions + shared_positions) * shape.cache_bytes)


def scoring_load(shape: Shape, groups: Sequence[Sequence[Sequence[int]]]) -> Load:
    """Return what reading one hidden state of each chat needs; what chats of a group have in common is shared."""
    operations = sum(shape.forward(distinct_depths(group), num_logits=0) for group in groups)
    return Load(operations, shape.layer_weights * shape.weight_bytes)


def training_load(
    shape: Shape, pairs: Sequence[tuple[Sequence[int], Sequence[int], Sequence[int]]], *, num_epochs: int, rank: int
) -> Load:
    """Return what DPO on a LoRA adapter needs: the reference once, then a forward and a backward pass an epoch.

    The base is frozen: the backward pass goes through its matrix products once (for the activations, not for weights),
    through the adapter's and through attention's twice. Logits are computed of completion tokens only, and the prompt
    of a pair once.

    Args:
        shape: Of the model.
        pairs: Token ids of prompt, chosen and rejected completion.
        num_epochs: Passes over the pairs.
        rank: Of the adapter, which is on all linear layers.
    """
    reference = epoch = 0.0
    for prompt, chosen, rejected in pairs:
        depths = distinct_depths([[*prompt, *chosen][:-1], [*prompt, *rejected][:-1]])
        num_logits = len(chosen) + len(rejected)
        forward = shape.forward(depths, num_logits=num_logits)
        attention = shape.attention_operations * sum(depths)
        lora = 2 * shape.lora_weights(rank) * len(depths)
        reference += forward
        epoch += 2 * forward + attention + 3 * lora
    return Load(reference + num_epochs * epoch, (1 + 2 * num_epochs) * shape.total_bytes)


def floor(load: Load, *, operations_per_s: float, bytes_per_s: float) -> Floor:
    """Return the floor of a load on a machine that reaches so much."""
    return Floor(load.operations / operations_per_s, load.bytes_read / bytes_per_s)
