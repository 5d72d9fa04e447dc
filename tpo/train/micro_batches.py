"""Pairs -> the micro-batches of a training: rows with the ids that were sampled, and the tensors that they become."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from datasets import Dataset
from trl.trainer.dpo_trainer import DataCollatorForPreference

from tpo.store.records import Pair
from tpo.train.pair_trees import lay_out
from tpo.train.settings import TrainingError, TrainSettings


def micro_batches(pairs: Sequence[Pair], settings: TrainSettings) -> Dataset:
    """Return trl's columns with one row per micro-batch; each value is a list over its pairs.

    Pairs of similar length share a micro-batch, which keeps padding small; sizes differ by at most one. The
    micro-batches are the same in every epoch, only their order changes: in 16 bits a sequence's log-probability changes
    by half a nat with the shape of its batch, and the reference's were computed once, on these very batches.

    Raises:
        TrainingError: If thought and response are to be told apart, and a pair does not say where its response starts.
    """
    ordered = sorted((_row(pair, settings) for pair in pairs), key=lambda row: (_longest(row), row["prompt_id"]))
    names = [name for name in ordered[0] if name != "prompt_id"]
    rows = [
        {name: [row[name] for row in ordered[start:stop]] for name in names}
        for start, stop in _edges(len(ordered), settings.micro_batch_size)
    ]
    return Dataset.from_list(rows)


def _row(pair: Pair, settings: TrainSettings) -> dict[str, Any]:
    return {
        "prompt_id": pair.prompt_id,
        "prompt_ids": pair.prompt_ids,
        **_side("chosen", pair.chosen_ids, pair.chosen_response_start, pair.chosen_forced, settings),
        **_side("rejected", pair.rejected_ids, pair.rejected_response_start, pair.rejected_forced, settings),
    }


def _side(
    name: str, token_ids: list[int], response_start: int, forced: list[int], settings: TrainSettings
) -> dict[str, Any]:
    """Return the columns of one completion: the tokens that are computed, and the ranges of them without a loss.

    A forced delimiter was appended, not sampled from the policy, so its log-probability must not enter the loss. No
    token of the thought depends on the response, so where only the thought carries the loss, only the thought is there.
    """
    left_out = [forced] if settings.mask_forced_tokens else []
    if settings.loss_on != "all" and response_start == 0:
        raise TrainingError(
            f"train.loss_on={settings.loss_on} needs to know where each response starts, and the thought format did "
            "not say: the Split that a class of your own returns has the spans of thought and response"
        )
    match settings.loss_on:
        case "thought":
            token_ids = token_ids[:response_start]
        case "response":
            left_out = [[0, response_start], *left_out]
    return {f"{name}_ids": token_ids, f"{name}_left_out": left_out}


def _longest(row: dict[str, Any]) -> int:
    return len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"]))


def _edges(count: int, size: int) -> list[tuple[int, int]]:
    """Return [start, stop) of micro-batches of at most `size` rows each, whose sizes differ by at most one."""
    number = math.ceil(count / size)
    edges = [round(index * count / number) for index in range(number + 1)]
    return list(pairwise(edges))


class PairCollator(DataCollatorForPreference):  # type: ignore[misc]
    """trl's collator for rows that are micro-batches, whose completion mask has the tokens only that carry the loss."""

    has_trees = False

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return trl's batch: chosen rows first, rejected rows after them, padded on the right.

        With `has_trees`, the batch has a `pair_row` as well, from which the model computes.
        """
        pairs = _unpacked(examples)
        batch: dict[str, Any] = super().torch_call(pairs)
        for side, offset in (("chosen", 0), ("rejected", len(pairs))):
            for row, example in enumerate(pairs):
                prompt = len(example["prompt_ids"])
                for start, stop in example[f"{side}_left_out"]:
                    batch["completion_mask"][offset + row, prompt + start : prompt + stop] = 0
        if self.has_trees:
            batch["pair_row"] = lay_out(batch, is_dense=not torch.cuda.is_available())
        return batch


def _unpacked(examples: list[dict[str, list[Any]]]) -> list[dict[str, Any]]:
    """Return the pairs of the data loader's one row, which holds a micro-batch."""
    (micro_batch,) = examples
    return [dict(zip(micro_batch, values, strict=True)) for values in zip(*micro_batch.values(), strict=True)]
