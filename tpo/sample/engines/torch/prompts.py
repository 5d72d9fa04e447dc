"""Keys and values of prompts: what they all begin with, what the samples of one share, and what is copied to rows."""

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass, field
from os.path import commonprefix
from typing import NamedTuple

import torch
from torch import Tensor

STEP = 32  # positions by which tensors grow
SHARED_TOKENS = 64  # fewer are copied to rows: attention in two places costs more than reading them


PAGES_BYTES = 2**20  # smaller tensors are left to torch's allocator


def zeros(like: Tensor, *shape: int) -> Tensor:
    """Return zeros of the device and dtype of a tensor; large ones on a CPU lie in pages of their own.

    These go back to the system with the tensor, and pages that nothing was written to take no memory. On the heap,
    where a longer cache never fits into the gaps that shorter ones leave, half of a process was gaps.
    """
    size = math.prod(shape) * like.element_size()
    if like.device.type != "cpu" or size < PAGES_BYTES:
        return like.new_zeros(shape)
    pages = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return torch.frombuffer(pages, dtype=like.dtype).view(shape)


class Layer(NamedTuple):
    """Keys and values, (entries, kv_heads, window, head_dim)."""

    keys: Tensor
    values: Tensor

    def zeros(self, number: int, window: int) -> "Layer":
        """Return zeros for entries with the heads and dtype of these."""
        return Layer(*(zeros(part, number, part.shape[1], window, part.shape[3]) for part in self))

    def grown(self, number: int, window: int, filled: int) -> "Layer":
        """Return a copy with room for more entries and positions, zero where they are new.

        Args:
            number: Entries of the copy.
            window: Positions of the copy.
            filled: Positions of this layer.
        """
        parts = []
        for part in self:
            entries, kv_heads, _, dim = part.shape
            new = zeros(part, number, kv_heads, window, dim)
            new[:entries, :, :filled] = part
            parts.append(new)
        return Layer(*parts)

    def put(self, entry: int, start: int, other: "Layer", of: int, begin: int, stop: int) -> None:
        """Copy [begin, stop) of an entry of another layer to `start`."""
        for target, source in zip(self, other, strict=True):
            target[entry, :, start : start + stop - begin] = source[of, :, begin:stop]


class Trunk(NamedTuple):
    """What prompts begin with, such as a chat template: computed and stored once.

    Attributes:
        token_ids: At least one.
        layers: Keys and values, one entry.
    """

    token_ids: list[int]
    layers: list[Layer]

    def common(self, prompt_ids: Sequence[int]) -> int:
        """Return how many of its first tokens a prompt begins with; the prompt's last token never counts.

        The last one's logits are asked for, so it has to be computed.
        """
        return min(len(commonprefix([self.token_ids, list(prompt_ids)])), len(prompt_ids) - 1)


class Prefix(NamedTuple):
    """A prefilled piece of a prompt: [begin, stop) of the one entry of `layers`."""

    layers: list[Layer]
    begin: int
    stop: int

    @property
    def length(self) -> int:
        """Tokens."""
        return self.stop - self.begin

    def of_layer(self, number: int) -> "Prefix":
        """Return the same piece of one layer."""
        return Prefix([self.layers[number]], self.begin, self.stop)


def grow(layers: list[Layer], number: int, window: int, filled: int) -> None:
    """Replace layers by their `grown` copies, one after the other: two copies of all would be twice the memory."""
    for index, layer in enumerate(layers):
        layers[index] = layer.grown(number, window, filled)


def copy_to(layers: Sequence[Layer], entry: int, pieces: Sequence[Prefix]) -> None:
    """Copy pieces one after the other to the beginning of an entry."""
    start = 0
    for piece in pieces:
        for target, source in zip(layers, piece.layers, strict=True):
            target.put(entry, start, source, 0, piece.begin, piece.stop)
        start += piece.length


@dataclass(eq=False)
class Prompt:
    """A prefilled prompt with unfinished samples.

    Its rows attend to the trunk and then to what is copied to each of them, or to a slot that holds all of it.

    Attributes:
        key: Of its request.
        length: Tokens.
        num_unfinished: Samples.
        num_trunk: First tokens that its rows attend to in the trunk.
        slot: Its number; -1 if it has none.
        copied: To the row of each sample; forgotten when all have one.
        num_without_row: Samples that have none yet.
    """

    key: str
    length: int
    num_unfinished: int
    num_trunk: int = 0
    slot: int = -1
    copied: Sequence[Prefix] = ()
    num_without_row: int = field(init=False)

    def __post_init__(self) -> None:
        """Count all samples as without a row."""
        self.num_without_row = self.num_unfinished

    def forget_copied(self) -> None:
        """Let go of what was prefilled once the last sample has it: it stands in their rows."""
        self.num_without_row -= 1
        if self.num_without_row == 0:
            self.copied = ()

    @property
    def num_shared(self) -> int:
        """Tokens that do not stand in the row of each sample."""
        return self.length if self.slot >= 0 else self.num_trunk


class Slots:
    """Prompts that several rows share, without gaps; the tensors grow with the number and the longest of them."""

    def __init__(self) -> None:
        self.window, self.capacity = 0, 0
        self.layers: list[Layer] = []
        self.used: list[Prompt] = []

    def add(self, prompt: Prompt, pieces: Sequence[Prefix]) -> None:
        """Copy a prefilled prompt to the next slot."""
        prompt.slot = len(self.used)
        self.used.append(prompt)
        window = max(self.window, round_up(prompt.length, STEP))
        capacity = self.capacity if len(self.used) <= self.capacity else 2 * len(self.used)
        if (window, capacity) != (self.window, self.capacity):
            self.layers = self.layers or [layer.zeros(0, 0) for layer in pieces[0].layers]
            grow(self.layers, capacity, window, self.window)
            self.window, self.capacity = window, capacity
        copy_to(self.layers, prompt.slot, pieces)

    def remove(self, prompt: Prompt) -> None:
        """Free a slot, into which the last prompt moves."""
        last = self.used.pop()
        if last is not prompt:
            for layer in self.layers:
                layer.put(prompt.slot, 0, layer, last.slot, 0, last.length)
            self.used[prompt.slot], last.slot = last, prompt.slot


def round_up(length: int, step: int) -> int:
    """Return the next multiple of `step`."""
    return -(-length // step) * step
