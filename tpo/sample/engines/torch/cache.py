"""Key-value cache of samples that decode together: rows in blocks of similar length, and prompts that rows share.

Attention reads a block's tensors whole, since a CPU's matrix product would first copy a slice of them. So rows of
similar length share a block, as long as the longest of them and a little more; once a block is full, rows are sorted
into new blocks. The last block holds the shortest rows and has room for new ones.
"""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tpo.sample.engines.torch.draft import Draft, Prompt

BLOCK_ROWS = 32  # of a block on a CPU; on a GPU, where a launch costs more than the padding, one block holds all
STEP = 32  # positions by which tensors grow
SHARED_TOKENS = (
    64  # a shorter prompt is copied to its samples' rows: attention in two places costs more than reading it
)


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


class Prefix(NamedTuple):
    """A prompt's keys and values within a prefilled batch: [begin, stop) of its trunk and of its branch."""

    layers: list[Layer]
    parts: tuple[tuple[int, int], tuple[int, int]]

    @property
    def length(self) -> int:
        """The prompt's tokens."""
        return sum(stop - begin for begin, stop in self.parts)

    def copy_to(self, layers: Sequence[Layer], entry: int) -> None:
        """Copy the prompt to the beginning of an entry."""
        start = 0
        for begin, stop in self.parts:
            for target, source in zip(layers, self.layers, strict=True):
                target.put(entry, start, source, 0, begin, stop)
            start += stop - begin


class Block:
    """Rows of similar length, the first ones in use."""

    def __init__(self, like: Sequence[Layer], capacity: int, longest: int) -> None:
        """Allocate layers with the heads and dtype of others, for rows of at most `longest` tokens."""
        self.capacity, self.window = capacity, _round_up(longest, STEP)
        self.layers = [layer.zeros(capacity, self.window) for layer in like]
        self.drafts: list[Draft] = []

    def add(self, draft: Draft) -> None:
        """Give a new draft the next row, its prompt copied there unless that is shared."""
        if draft.prompt.prefix is not None:
            draft.prompt.prefix.copy_to(self.layers, len(self.drafts))
        self.drafts.append(draft)

    def fit(self, longest: int) -> None:
        """Make room for rows of `longest` tokens."""
        if longest > self.window:
            window, self.window = self.window, _round_up(longest, STEP)
            self.layers = [layer.grown(self.capacity, self.window, window) for layer in self.layers]

    def remove(self, index: int) -> None:
        """Free a row, into which the last one moves."""
        last = self.drafts.pop()
        if index < len(self.drafts):
            for layer in self.layers:
                layer.put(index, 0, layer, len(self.drafts), 0, last.length)
            self.drafts[index] = last


class Slots:
    """Prompts that several rows share, without gaps; the tensors grow with the number and the longest of them."""

    def __init__(self) -> None:
        self.window, self.capacity = 0, 0
        self.layers: list[Layer] = []
        self.used: list[Prompt] = []

    def add(self, prompt: Prompt, prefix: Prefix) -> None:
        """Copy a prefilled prompt to the next slot."""
        prompt.slot = len(self.used)
        self.used.append(prompt)
        window = max(self.window, _round_up(prefix.length, STEP))
        capacity = self.capacity if len(self.used) <= self.capacity else 2 * len(self.used)
        if (window, capacity) != (self.window, self.capacity):
            layers = self.layers or [layer.zeros(0, 0) for layer in prefix.layers]
            self.layers = [layer.grown(capacity, window, self.window) for layer in layers]
            self.window, self.capacity = window, capacity
        prefix.copy_to(self.layers, prompt.slot)

    def remove(self, prompt: Prompt) -> None:
        """Free a slot, into which the last prompt moves."""
        last = self.used.pop()
        if last is not prompt:
            for layer in self.layers:
                layer.put(prompt.slot, 0, layer, last.slot, 0, last.length)
            self.used[prompt.slot], last.slot = last, prompt.slot


class RowCache:
    """Drafts with their keys and values; implements transformers' cache protocol."""

    is_compileable = False

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        """Make an empty cache; memory is allocated as prompts and tokens are stored."""
        self.device = torch.device(device)
        self.prompts = Slots()
        self.blocks: list[Block] = []
        self.prefilled: list[Layer] | None = None
        self._like: list[Layer] = []
        self._places: list[tuple[Block, Tensor, Tensor]] = []

    @property
    def active(self) -> list[Draft]:
        """The drafts in their order in a step."""
        return [draft for block in self.blocks for draft in block.drafts]

    def begin_prefill(self) -> list[Layer]:
        """Prepare for a row of prompts; return the list to which its keys and values are appended, per layer."""
        self.prefilled = []
        return self.prefilled

    def add_prompt(self, prompt: Prompt, prefix: Prefix) -> None:
        """Store a prefilled prompt, once for its samples or to be copied to the row of each."""
        self._like = [layer.zeros(0, 0) for layer in prefix.layers]
        if prompt.num_unfinished > 1 and prefix.length >= SHARED_TOKENS:
            prompt.num_shared = prefix.length
            self.prompts.add(prompt, prefix)
        else:
            prompt.prefix = prefix

    def add(self, drafts: Sequence[Draft]) -> None:
        """Give rows to new drafts."""
        for draft in drafts:
            draft.length = draft.prompt.length - draft.prompt.num_shared
        if not drafts:
            return
        if not self.blocks or len(self.blocks[-1].drafts) + len(drafts) > self.blocks[-1].capacity:
            self._sort(drafts)
        self.blocks[-1].fit(max(draft.length for draft in drafts))
        for draft in drafts:
            self.blocks[-1].add(draft)

    def retire(self) -> Iterable[Draft]:
        """Yield the drafts that are finished, removed."""
        for block in self.blocks:
            for index in range(len(block.drafts) - 1, -1, -1):
                draft = block.drafts[index]
                if draft.finish_reason:
                    block.remove(index)
                    draft.prompt.num_unfinished -= 1
                    if draft.prompt.num_unfinished == 0 and draft.prompt.num_shared:
                        self.prompts.remove(draft.prompt)
                    yield draft

    def begin_decoding(self) -> None:
        """Prepare for one token of each active row, stored after those that the row has."""
        self.prefilled = None
        self.blocks = [block for block in self.blocks if block.drafts]
        self._places = []
        for block in self.blocks:
            lengths = [draft.length for draft in block.drafts]
            block.fit(max(lengths) + 1)
            places = torch.arange(len(lengths), device=self.device), torch.tensor(lengths, device=self.device)
            self._places.append((block, *places))

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store new keys and values and return them; attention reads the blocks."""
        if self.prefilled is not None:
            self.prefilled.append(Layer(key, value))
            return key, value
        start = 0
        for block, rows, positions in self._places:
            stop = start + len(rows)
            keys, values = block.layers[layer_idx]
            keys[rows, :, positions] = key[start:stop, :, 0]
            values[rows, :, positions] = value[start:stop, :, 0]
            start = stop
        return key, value

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions are always given explicitly."""
        return 0

    def _sort(self, new: Sequence[Draft]) -> None:
        """Sort rows into new blocks by length, the longest first, with room in the last block for `new` ones."""
        places = [(block, index) for block in self.blocks for index in range(len(block.drafts))]
        places.sort(key=lambda place: -place[0].drafts[place[1]].length)
        total = len(places) + len(new)
        num_blocks = max(1, total // BLOCK_ROWS) if self.device.type == "cpu" else 1
        size = -(-total // num_blocks)
        self.blocks = []
        for start in range(0, max(len(places), 1), size):
            part = places[start : start + size]
            is_last = start + size >= len(places)
            longest = max((block.drafts[index].length for block, index in part), default=0)
            capacity = max(2 * size, len(part) + len(new)) if is_last else len(part)
            sorted_block = Block(self._like, capacity, longest + 1)
            for row, (block, index) in enumerate(part):
                draft = block.drafts[index]
                for target, source in zip(sorted_block.layers, block.layers, strict=True):
                    target.put(row, 0, source, index, 0, draft.length)
                sorted_block.drafts.append(draft)
            self.blocks.append(sorted_block)


def _round_up(length: int, step: int) -> int:
    return -(-length // step) * step
