"""Stage "reward": preferences -> a reward model, a LoRA adapter and a score head on the embedded model.

Bradley-Terry loss -log sigmoid(r_chosen - r_rejected) through trl's `RewardTrainer`, on ids rendered as the judge
renders them, nothing truncated. Writes `reward_model/` and the held-out accuracy of each kind of pair.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import TaskType, get_peft_model
from trl import RewardConfig, RewardTrainer
from trl.trainer.reward_trainer import DataCollatorForPreference

from tpo.evaluate.winrate import outcome
from tpo.judge.judges.reward_model import chat_with_response
from tpo.judge.judges.self_taught import DESCRIPTION, SelfTaught, load_classifier
from tpo.judge.protocol import Candidates
from tpo.model.chat import load_tokenizer
from tpo.model.policy import Policy
from tpo.results.stats import wilson_interval
from tpo.store.files import write_json
from tpo.store.records import Preference
from tpo.train.checkpoints import (
    MarkComplete,
    ResumesInPlace,
    complete_checkpoints,
    copy_adapter,
    last_complete,
    micro_batch_edges,
    read_metrics,
    unpack_micro_batch,
    write_metrics,
)
from tpo.train.optimizer import MasterWeightAdamW
from tpo.train.settings import LoraSettings, TrainingError


@dataclass(frozen=True)
class RewardSettings(LoraSettings):
    """The `reward` group."""

    max_tokens: int
    num_layers: int
    lora_first_layer: int


class MicroBatchCollator(DataCollatorForPreference):  # type: ignore[misc]
    """trl's collator for one ready micro-batch."""

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """Return trl's batch: chosen rows first, rejected rows after them, padded on the right."""
        batch: dict[str, Any] = super().torch_call(unpack_micro_batch(examples))
        return batch


class PreferenceTrainer(ResumesInPlace, RewardTrainer):  # type: ignore[misc]
    """trl's trainer on ready token ids."""


def train_reward_model(
    path: Path, preferences: Sequence[Preference], policy: Policy, settings: RewardSettings, *, seed: int
) -> dict[str, Any]:
    """Write the reward model to `path/reward_model` and `metrics.jsonl`; return what was counted.

    A killed training goes on from its last complete epoch. Preferences of exactly 0.5 teach nothing and are left out,
    as are pairs with a chat longer than `settings.max_tokens`; both are counted.

    Args:
        path: The artifact's directory.
        preferences: What to learn.
        policy: The embedded model.
        settings: Of the training.
        seed: Of adapter and head initialization and data order.

    Raises:
        TrainingError: If no pair is left.
    """
    work = path / "checkpoints"
    tokenizer = load_tokenizer(policy.tokenizer_path)
    pairs, drops = tokenize(preferences, tokenizer, max_tokens=settings.max_tokens)
    if not pairs:
        raise TrainingError(f"there is no preference to train on: {drops}")
    if not (path / "metrics.jsonl").exists():
        trainer = make_trainer(work, pairs, policy, settings, seed=seed)
        trainer.train(resume_from_checkpoint=last_complete(work))
        copy_adapter(complete_checkpoints(work)[-1], path / "reward_model", model_name=policy.model_path)
        write_json(path / "reward_model" / DESCRIPTION, {"num_layers": settings.num_layers})
        write_metrics(path / "metrics.jsonl", trainer.state.log_history)
    shutil.rmtree(work, ignore_errors=True)
    entries = read_metrics(path / "metrics.jsonl")
    return {"num_pairs": len(pairs), "drops": drops, "num_steps": len(entries), "last": entries[-1]}


def tokenize(
    preferences: Sequence[Preference], tokenizer: Any, *, max_tokens: int
) -> tuple[list[dict[str, list[int]]], dict[str, int]]:
    """Return trl's columns `chosen_ids` and `rejected_ids` per pair, and how many were left out, by reason."""
    pairs = []
    drops = {"tied": 0, "too_long": 0}
    for row in preferences:
        if row.preference == 0.5:
            drops["tied"] += 1
            continue
        texts = (row.response_a, row.response_b) if row.preference > 0.5 else (row.response_b, row.response_a)
        chosen, rejected = (chat_with_response(tokenizer, row.instruction, text) for text in texts)
        if max(len(chosen), len(rejected)) > max_tokens:
            drops["too_long"] += 1
            continue
        pairs.append({"chosen_ids": chosen, "rejected_ids": rejected})
    return pairs, drops


def make_trainer(
    work: Path, pairs: Sequence[dict[str, list[int]]], policy: Policy, settings: RewardSettings, *, seed: int
) -> PreferenceTrainer:
    """Return the trainer; pairs of similar length share a micro-batch, which is a row of its data set."""
    tokenizer = load_tokenizer(policy.tokenizer_path)
    torch.manual_seed(seed % 2**63)
    base = load_classifier(policy, dtype=policy.dtype, num_layers=settings.num_layers)
    base.config.use_cache = False
    layers = list(range(settings.lora_first_layer, settings.num_layers))
    # For this task peft also trains and saves the score head.
    model = get_peft_model(base, settings.lora(TaskType.SEQ_CLS, layers_to_transform=layers))
    arguments = RewardConfig(**settings.arguments(work, seed=seed))
    ordered = sorted(pairs, key=lambda pair: max(len(pair["chosen_ids"]), len(pair["rejected_ids"])))
    edges = micro_batch_edges(len(ordered), settings.micro_batch_size)
    rows = [
        {side: [pair[side] for pair in ordered[start:stop]] for side in ("chosen_ids", "rejected_ids")}
        for start, stop in edges
    ]
    trainer = PreferenceTrainer(
        model=model,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        data_collator=MicroBatchCollator(pad_token_id=tokenizer.pad_token_id),
        processing_class=tokenizer,
        callbacks=[MarkComplete()],
    )
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # The adapter computes in the base's dtype; the score head stays in float32, where rewards are not coarse.
    for name, parameter in model.named_parameters():
        if parameter.requires_grad and "lora_" in name:
            parameter.data = parameter.data.to(getattr(torch, policy.dtype))
    trainer.optimizer = MasterWeightAdamW(trainable, lr=settings.learning_rate, weight_decay=0.0)
    return trainer


def measure(
    path: Path, preferences: Sequence[Preference], policy: Policy, settings: RewardSettings
) -> dict[str, dict[str, Any]]:
    """Return the accuracy of the reward model at `path` by kind of pair and overall, through the judge itself.

    An accuracy is the fraction of pairs whose preferred response gets the higher score, a tie counting one half, with
    n and its 95 % Wilson interval.
    """
    judge = SelfTaught(
        {"path": str(path), "dtype": policy.dtype, "max_tokens": settings.max_tokens, "batch_tokens": 8192}, policy
    )
    labelled = [row for row in preferences if row.preference != 0.5]
    candidates = [Candidates(row.instruction, (row.response_a, row.response_b)) for row in labelled]
    wins: dict[str, list[float]] = {"all": []}
    for row, (first, second) in zip(labelled, judge.score(candidates), strict=True):
        if first.score is None or second.score is None:
            continue
        higher = outcome(first.score, second.score)
        win = higher if row.preference > 0.5 else 1 - higher
        wins["all"].append(win)
        wins.setdefault(row.group, []).append(win)
    result: dict[str, dict[str, Any]] = {}
    for kind, values in sorted(wins.items()):
        if values:
            rate = sum(values) / len(values)
            interval = list(wilson_interval(rate, len(values), confidence=0.95))
            result[kind] = {"accuracy": rate, "interval": interval, "num_pairs": len(values)}
    return result
