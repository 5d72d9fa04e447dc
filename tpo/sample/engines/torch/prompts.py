"""Keys and values of prompts: what they all begin with, what the samples of one share, and what is copied to rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from os.path import commonprefix
from typing import NamedTuple

from torch import Tensor

STEP = 32  # positions by which tensors grow
SHARED_TOKENS = 64  # fewer are copied to rows: attention in two places costs more than reading them


class Layer(NamedTuple):
    """Keys and values, (entries, kv_heads, window, head_dim)."""

    keys: Tensor
    values: Tensor

    def zeros(self, number: int, window: int) -> "Layer":
        """Return zeros for entries with the heads and dtype of these."""
        shape = (number, self.keys.shape[1], window)
        return Layer(*(part.new_zeros(*shape, part.shape[3]) for part in self))

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
            new = part.new_empty(number, kv_heads, window, dim)
            new[:entries, :, :filled] = part
            new[:entries, :, filled:] = 0
            new[entries:] = 0
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
        copied: To the row of each sample.
    """

    key: str
    length: int
    num_unfinished: int
    num_trunk: int = 0
    slot: int = -1
    copied: Sequence[Prefix] = ()

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
            layers = self.layers or [layer.zeros(0, 0) for layer in pieces[0].layers]
            self.layers = [layer.grown(capacity, window, self.window) for layer in layers]
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
