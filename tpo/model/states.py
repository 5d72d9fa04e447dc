"""Hidden states of a decoder at chosen positions of many sequences, for judges with a head of their own."""

import logging
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tpo.model.packed import pack
from tpo.model.trees import TreeRow, computes_trees, join

log = logging.getLogger(__name__)


class Reading(NamedTuple):
    """Token ids, and the positions whose hidden states are wanted."""

    ids: list[int]
    positions: Sequence[int]


class StateReader:
    """Computes hidden states; a prefix that sequences share is computed once, where the decoder allows it."""

    def __init__(self, decoder: Any, *, batch_tokens: int) -> None:
        """Prepare the decoder; on a CPU its linear layers are packed.

        Args:
            decoder: A model without heads, in eval mode; its attention is replaced if it computes trees.
            batch_tokens: Tokens per forward pass; a longer sequence is a pass of its own.
        """
        self.decoder, self.batch_tokens = decoder, batch_tokens
        self.is_shared = computes_trees(decoder)
        if not self.is_shared:
            log.warning("%s: what sequences begin with alike is computed for each", decoder.config.model_type)
        pack(decoder, num_rows=batch_tokens)
        self.needs_mask = not self.is_shared and not is_causal(decoder)

    @torch.inference_mode()
    def read(self, groups: Sequence[Sequence[Reading]]) -> list[list[Tensor]]:
        """Return the states of every reading, (positions, hidden), in the order given.

        Args:
            groups: Sequences that share a prefix are in one group.
        """
        parts = [part for group in groups for part in self._cut(group)]
        states: list[list[Tensor]] = [[] for _ in parts]
        compute = self._trees if self.is_shared else self._padded
        sizes = [self._cost(part) for part in parts]
        for batch in batch_by_tokens(sizes, batch_tokens=self.batch_tokens, is_padded=not self.is_shared):
            found = iter(compute([parts[index] for index in batch]))
            for index in batch:
                states[index] = [next(found) for _ in parts[index]]
        flat = (state for part in states for state in part)
        return [[next(flat) for _ in group] for group in groups]

    def _cost(self, readings: Sequence[Reading]) -> int:
        return join([reading.ids for reading in readings]).num_tokens

    def _cut(self, group: Sequence[Reading]) -> Iterator[list[Reading]]:
        """Yield parts of a group that fit into one forward pass; single sequences where prefixes are not shared."""
        part: list[Reading] = []
        for reading in group:
            if part and (not self.is_shared or self._cost([*part, reading]) > self.batch_tokens):
                yield part
                part = []
            part.append(reading)
        if part:
            yield part

    def _trees(self, parts: Sequence[Sequence[Reading]]) -> list[Tensor]:
        device = self.decoder.device
        trees = [join([reading.ids for reading in part]) for part in parts]
        row = TreeRow(trees, is_dense=device.type == "cpu", device=device)
        hidden = self.decoder(**row.inputs).last_hidden_state[0]
        return [
            hidden[[span.place(branch, position) for position in reading.positions]]
            for part, span in zip(parts, row.spans, strict=True)
            for branch, reading in enumerate(part)
        ]

    def _padded(self, parts: Sequence[Sequence[Reading]]) -> list[Tensor]:
        """Pad on the right, with any id: tokens of a causal decoder do not see what follows, so no mask is needed."""
        readings = [reading for part in parts for reading in part]
        device = self.decoder.device
        longest = max(len(reading.ids) for reading in readings)
        ids = torch.tensor([reading.ids + [0] * (longest - len(reading.ids)) for reading in readings], device=device)
        lengths = torch.tensor([len(reading.ids) for reading in readings], device=device)
        mask = (torch.arange(longest, device=device) < lengths[:, None]).long() if self.needs_mask else None
        hidden = self.decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        return [hidden[row, list(reading.positions)] for row, reading in enumerate(readings)]


def batch_by_tokens(sizes: Sequence[int], *, batch_tokens: int, is_padded: bool) -> list[list[int]]:
    """Return batches of positions, the largest first, of at most `batch_tokens` tokens each.

    Starting with the largest makes a batch that does not fit in memory fail at once. Whatever is larger than
    `batch_tokens` is a batch of its own.

    Args:
        sizes: Tokens of each member.
        batch_tokens: Of a batch.
        is_padded: Whether every member takes as many tokens as the batch's largest.
    """
    batches: list[list[int]] = []
    filled = 0
    for position in sorted(range(len(sizes)), key=lambda position: (-sizes[position], position)):
        size = sizes[batches[-1][0]] if batches and is_padded else sizes[position]
        if batches and filled + size <= batch_tokens:
            batches[-1].append(position)
            filled += size
        else:
            batches.append([position])
            filled = sizes[position]
    return batches


@torch.inference_mode()
def is_causal(decoder: Any) -> bool:
    """Return whether hidden states ignore later tokens, tested on two inputs that differ in their second halves."""
    ids = torch.zeros(2, 16, dtype=torch.long, device=decoder.device)
    ids[1, 8:] = 1
    first, second = decoder(input_ids=ids, use_cache=False).last_hidden_state[:, :8].float()
    return torch.allclose(first, second, rtol=1e-2, atol=1e-2)
