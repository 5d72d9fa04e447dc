"""The longest micro-batch before the first step: it leaves no trace, and tells rounding from a wrong reference."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import PAIRS, make_pair, policy_of, settings
from trl import DPOConfig

import tpo.train.rehearsal
import tpo.train.trainer
from tpo.train.micro_batches import micro_batches
from tpo.train.reference import COLUMNS, ReferenceCache
from tpo.train.rehearsal import longest_micro_batch, rehearse
from tpo.train.settings import TrainingError
from tpo.train.trainer import make_trainer

Columns = dict[str, list[list[float]]]


def columns(trainer: Any) -> Columns:
    return {name: list(trainer.train_dataset[name]) for name in COLUMNS}


def shift(trainer: Any, by: float) -> None:
    """Move the reference's log-probabilities."""
    for name, values in columns(trainer).items():
        moved = [[value + by for value in row] for row in values]
        trainer.train_dataset = trainer.train_dataset.remove_columns(name).add_column(name, moved)


def state(trainer: Any) -> tuple[list[torch.Tensor], torch.Tensor]:
    return [part.detach().clone() for part in trainer.model.parameters()], torch.get_rng_state()


@pytest.mark.parametrize(
    ("dtype", "changes"),
    [("float32", {}), ("bfloat16", {"quantization": "nf4"}), ("bfloat16", {"gradient_checkpointing": True})],
)
def test_it_leaves_no_trace(tiny_model: Path, tmp_path: Path, dtype: str, changes: dict[str, Any]) -> None:
    trainer = make_trainer(tmp_path, PAIRS, policy_of(tiny_model, dtype=dtype), settings(**changes), seed=0)
    before, (weights, random_state) = columns(trainer), state(trainer)
    assert rehearse(trainer, starts_at_reference=True, cache=None) is None
    assert columns(trainer) == before, "with gradients the log-probabilities are the same, to the last bit"
    assert all(torch.equal(*pair) for pair in zip(state(trainer)[0], weights, strict=True))
    assert torch.equal(state(trainer)[1], random_state)
    assert all(part.grad is None for part in trainer.model.parameters())
    assert not trainer.optimizer.state and not trainer._metrics["train"]


@pytest.mark.parametrize(
    ("by", "starts_at_reference", "is_mended"),
    [
        (1e-3, True, True),  # rounding, in float32
        (0.5, True, False),  # another policy: the first step says so
        (1e-3, False, False),  # against the seed model, which the policy is not
    ],
)
def test_a_reference_that_is_off_by_rounding_is_computed_again(
    tiny_model: Path, tmp_path: Path, by: float, starts_at_reference: bool, is_mended: bool
) -> None:
    cache = ReferenceCache(tmp_path / "cache" / "key.json", {}, tmp_path)
    trainer = make_trainer(tmp_path, PAIRS, policy_of(tiny_model), settings(), seed=0)
    right = columns(trainer)
    shift(trainer, by)
    wrong = columns(trainer)
    said = rehearse(trainer, starts_at_reference=starts_at_reference, cache=cache)
    assert columns(trainer) == (right if is_mended else wrong)
    assert (cache.read() is not None) == is_mended and (said is not None) == is_mended
    if is_mended:
        assert cache.read() == right
        assert said == "the reference was computed with gradients, without which it differed by 0.001 nats"
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert trainer.compute_loss(trainer.model, batch).item() == pytest.approx(float(torch.tensor(2).log()), abs=1e-4)


@pytest.mark.parametrize("row", [0, 1])
def test_rounding_of_the_kernels_for_other_lengths_is_found(tiny_model: Path, tmp_path: Path, row: int) -> None:
    trainer = make_trainer(tmp_path, PAIRS, policy_of(tiny_model), settings(), seed=0)
    right = columns(trainer)
    assert longest_micro_batch(trainer.train_dataset, has_trees=True) == len(trainer.train_dataset) - 1 == 2
    for name, values in right.items():
        moved = [[value + 1e-3 * (at == row) for value in each] for at, each in enumerate(values)]
        trainer.train_dataset = trainer.train_dataset.remove_columns(name).add_column(name, moved)
    assert rehearse(trainer, starts_at_reference=True, cache=None) is not None
    assert columns(trainer) == right


def test_rounding_is_larger_in_16_bits(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, PAIRS, policy_of(tiny_model, dtype="bfloat16"), settings(), seed=0)
    right = columns(trainer)
    shift(trainer, 0.5)
    rehearse(trainer, starts_at_reference=True, cache=None)
    assert columns(trainer) == right


def test_the_longest_is_what_takes_the_most_memory() -> None:
    # As trees 5 + 40 + 1 = 46 and 5 + 25 + 25 = 55 tokens (with BOS and an EOS each); padded, two rows of 47 and 32.
    pairs = [make_pair(0, 4, 2, 2), make_pair(1, 4, 40, 0), make_pair(2, 4, 25, 25)]
    rows = micro_batches(pairs, settings(micro_batch_size=1))
    chosen = [len(row["chosen_ids"][0]) for row in rows]
    assert chosen[longest_micro_batch(rows, has_trees=True)] == 25
    assert chosen[longest_micro_batch(rows, has_trees=False)] == 41


def test_a_micro_batch_that_does_not_fit_ends_the_training_before_its_first_step(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    trainer = make_trainer(tmp_path, PAIRS, policy_of(tiny_model), settings(), seed=0)
    monkeypatch.setattr(tpo.train.rehearsal, "log_probs", fail)
    with pytest.raises(TrainingError, match=r"2 pairs of \d+ tokens, does not fit .*: lower train.micro_batch_size"):
        rehearse(trainer, starts_at_reference=True, cache=None)


# What else a GPU would show


def test_one_process_trains_on_one_of_several_gpus(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class SeesFour(DPOConfig):  # type: ignore[misc]
        def __post_init__(self) -> None:
            super().__post_init__()
            self._n_gpu = 4  # what transformers counts where four GPUs are visible

    monkeypatch.setattr(tpo.train.trainer, "DPOConfig", SeesFour)
    trainer = make_trainer(tmp_path, PAIRS, policy_of(tiny_model), settings(), seed=0)
    assert trainer.args.n_gpu == 1 and trainer.args.train_batch_size == 1


@pytest.mark.parametrize(
    ("variable", "is_shardable"), [(None, False), ("ACCELERATE_USE_FSDP", True), ("ACCELERATE_USE_DEEPSPEED", True)]
)
def test_4_bit_weights_are_stored_for_shards_only_where_there_are_any(
    variable: str | None, is_shardable: bool, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class LoadedError(Exception):
        pass

    def load(*_: Any, **given: Any) -> None:
        assert given["is_shardable"] == is_shardable
        raise LoadedError

    monkeypatch.setattr(tpo.train.trainer, "load_model", load)
    if variable is not None:
        monkeypatch.setenv(variable, "true")
    with pytest.raises(LoadedError):
        make_trainer(tmp_path, PAIRS, policy_of(tiny_model), settings(quantization="nf4", num_processes=2), seed=0)


def test_several_processes_with_whole_models_keep_the_fused_4_bit_layers(tiny_model: Path, tmp_path: Path) -> None:
    from peft.tuners.lora import Linear4bit

    trainer = make_trainer(
        tmp_path, PAIRS, policy_of(tiny_model), settings(quantization="nf4", num_processes=2), seed=0
    )
    layers = [module for module in trainer.model.modules() if isinstance(module, Linear4bit)]
    assert len(layers) == 14
    assert all(isinstance(layer.forward, partial) for layer in layers)
