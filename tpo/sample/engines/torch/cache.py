"""Key-value cache of samples that decode together: rows in blocks of similar length, and what rows share of prompts.

Attention reads a block's tensors whole, since a CPU's matrix product would first copy a slice of them. So rows of
similar length share a block, as long as the longest of them and a little more; once a block is full, rows are sorted
into new blocks. The last block holds the shortest rows and has room for new ones.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from tpo.sample.engines.torch.draft import Draft
from tpo.sample.engines.torch.prompts import (
    SHARED_TOKENS,
    STEP,
    Layer,
    Prefix,
    Prompt,
    Slots,
    Trunk,
    copy_to,
    grow,
    round_up,
)

# Of a block on a CPU, or more of similar length; on a GPU, where a launch costs more than padding, one block holds all.
BLOCK_ROWS = 32


class Block:
    """Rows of similar length, the first ones in use."""

    def __init__(self, capacity: int, longest: int) -> None:
        """Plan for rows of at most `longest` tokens; layers are added one by one."""
        self.capacity, self.window = capacity, round_up(longest, STEP)
        self.layers: list[Layer] = []
        self.drafts: list[Draft] = []

    def add(self, draft: Draft) -> None:
        """Give a new draft the next row, with what is not shared of its prompt."""
        copy_to(self.layers, len(self.drafts), draft.prompt.copied)
        self.drafts.append(draft)
        draft.prompt.forget_copied()

    def fit(self, longest: int) -> None:
        """Make room for rows of `longest` tokens."""
        if longest > self.window:
            window, self.window = self.window, round_up(longest, STEP)
            grow(self.layers, self.capacity, self.window, window)

    def remove(self, index: int) -> None:
        """Free a row, into which the last one moves."""
        last = self.drafts.pop()
        if index < len(self.drafts):
            for layer in self.layers:
                layer.put(index, 0, layer, len(self.drafts), 0, last.length)
            self.drafts[index] = last


class RowCache:
    """Drafts with their keys and values; implements transformers' cache protocol."""

    is_compileable = False

    def __init__(self, *, device: torch.device | str = "cpu") -> None:
        """Make an empty cache; memory is allocated as prompts and tokens are stored."""
        self.device = torch.device(device)
        self.trunk: Trunk | None = None
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

    def add_prompt(self, prompt: Prompt, own: Prefix) -> None:
        """Decide where the rows of a prefilled prompt find it, and store it if they share it.

        Args:
            prompt: The prompt.
            own: What it does not have in common with the trunk.
        """
        self._like = [layer.zeros(0, 0) for layer in own.layers]
        pieces = [own]
        if num_common := prompt.length - own.length:
            assert self.trunk is not None
            pieces.insert(0, Prefix(self.trunk.layers, 0, num_common))
        num_trunk = num_common if num_common >= SHARED_TOKENS else 0
        # A step reads a prompt in a slot once, and else for each sample what does not stand in the trunk.
        if SHARED_TOKENS <= prompt.length < prompt.num_unfinished * (prompt.length - num_trunk):
            self.prompts.add(prompt, pieces)
        else:
            prompt.num_trunk = num_trunk
            prompt.copied = [own] if num_trunk else pieces

    def add(self, drafts: Sequence[Draft]) -> None:
        """Give rows to new drafts."""
        if not drafts:
            return
        for draft in drafts:
            draft.length = draft.prompt.length - draft.prompt.num_shared
        if not self.blocks or len(self.blocks[-1].drafts) + len(drafts) > self.blocks[-1].capacity:
            self._sort(drafts)
            return
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
                    if draft.prompt.num_unfinished == 0 and draft.prompt.slot >= 0:
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
        """Sort rows and new drafts into new blocks by length, the longest first, with room in the last block."""
        rows: list[tuple[Draft, Block | None, int]] = [(draft, None, 0) for draft in new]
        rows += [(draft, block, index) for block in self.blocks for index, draft in enumerate(block.drafts)]
        rows.sort(key=lambda row: -row[0].length)
        parts = [[rows[0]]]
        for row in rows[1:]:
            is_similar = row[0].length > parts[-1][0][0].length - STEP
            if self.device.type == "cpu" and len(parts[-1]) >= BLOCK_ROWS and not is_similar:
                parts.append([])
            parts[-1].append(row)
        old, self.blocks = self.blocks, []
        for part in parts:
            room = BLOCK_ROWS if part is parts[-1] else 0
            self.blocks.append(Block(len(part) + room, part[0][0].length + 1))
            self.blocks[-1].drafts = [draft for draft, _, _ in part]
        for number, like in enumerate(self._like):
            for block, part in zip(self.blocks, parts, strict=True):
                layer = like.zeros(block.capacity, block.window)
                for entry, (draft, source, index) in enumerate(part):
                    if source is None:
                        copy_to([layer], entry, [piece.of_layer(number) for piece in draft.prompt.copied])
                    else:
                        layer.put(entry, 0, source.layers[number], index, 0, draft.length)
                block.layers.append(layer)
            for block in old:
                block.layers[number] = like  # of no size: rows are never in memory twice
        for draft in new:
            draft.prompt.forget_copied()
