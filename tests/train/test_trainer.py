"""Training: the sampled ids are the trained ids, the reference is the right one, resumed equals uninterrupted."""

import dataclasses
import json
import math
import shutil
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

import tpo.train.reference
import tpo.train.trainer
from tpo.model.load import load_model
from tpo.model.policy import Policy
from tpo.model.prepare import save_quantized
from tpo.store.job import Job
from tpo.store.layout import CHECKPOINTS, is_content
from tpo.store.progress import PROGRESS
from tpo.store.records import Pair
from tpo.train import callbacks
from tpo.train.callbacks import EndsDiverged, lost_per_token
from tpo.train.checkpoints import MarkComplete, complete_checkpoints
from tpo.train.dpo import sequence_logps
from tpo.train.micro_batches import micro_batches
from tpo.train.reference import ReferenceCache, reference_logps
from tpo.train.settings import TrainingError, TrainSettings
from tpo.train.trainer import make_trainer, train_on_pairs

BOS, EOS = 0, 1
ADAPTER_FILES = {"adapter_model.safetensors", "adapter_config.json"}
SETTINGS = TrainSettings(
    quantization="none",
    beta=0.1,
    nll_weight=0.0,
    reference="previous",
    mask_forced_tokens=True,
    learning_rate=1e-2,
    lr_scheduler="linear",
    warmup_ratio=0.0,
    num_epochs=2,
    batch_size=4,
    micro_batch_size=2,
    max_grad_norm=1.0,
    gradient_checkpointing=False,
    lora_rank=4,
    lora_alpha=8,
    lora_targets="all-linear",
)


def settings(**changes: Any) -> TrainSettings:
    return dataclasses.replace(SETTINGS, **changes)


def make_pair(number: int, prompt: int, chosen: int, rejected: int, **changes: Any) -> Pair:
    """A pair of random ids of the given lengths; every other completion was cut before an EOS."""
    generator = np.random.default_rng(number)

    def draw(count: int) -> list[int]:
        return generator.integers(5, 500, size=count).tolist()

    fields: dict[str, Any] = {
        "prompt_id": str(number),
        "prompt_ids": [BOS, *draw(prompt)],
        "chosen_ids": [*draw(chosen), EOS] if number % 2 else draw(chosen),
        "rejected_ids": draw(rejected) if number % 2 else [*draw(rejected), EOS],
        "chosen_forced": [2, 5] if number % 3 else [0, 0],
        "rejected_forced": [1, 4],
        "chosen_response_start": 5,
        "rejected_response_start": 4,
        "chosen": "",
        "rejected": "",
        "chosen_index": 0,
        "rejected_index": 1,
        "margin": 1.0,
        "chosen_score": 1.0,
        "rejected_score": 0.0,
        "chosen_length": 1.0,
        "rejected_length": 1.0,
    }
    return Pair(**(fields | changes))


PAIRS = [make_pair(number, 4 + number, 6 + 2 * number, 14 - number) for number in range(6)]


def policy_of(path: Path, adapter_path: Path | None = None, *, dtype: str = "float32") -> Policy:
    return Policy(str(path), None, str(path), dtype, 1024, adapter_path)


def run_train(path: Path, policy: Policy, changed: TrainSettings = SETTINGS, *, pairs: Sequence[Pair] = PAIRS) -> Any:
    path.mkdir(exist_ok=True)
    return train_on_pairs(path, pairs, policy, changed, seed=3)


def read_history(path: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def straight_logps(model: Any, prompt_ids: list[int], completion_ids: list[int], forced: list[int]) -> float:
    """log p(completion | prompt) of one sequence; the tokens that were forced are left out."""
    ids = torch.tensor([prompt_ids + completion_ids])
    mask = torch.zeros_like(ids, dtype=torch.bool)
    mask[:, len(prompt_ids) :] = True
    mask[:, len(prompt_ids) + forced[0] : len(prompt_ids) + forced[1]] = False
    with torch.inference_mode():
        return float(sequence_logps(model(input_ids=ids).logits, ids, mask))


Key = tuple[str, tuple[int, ...]]  # side and completion


def reference_columns(trainer: Any) -> dict[Key, float]:
    """The reference's log-probabilities that the trainer uses."""
    return {
        (side, tuple(ids)): value
        for row in trainer.train_dataset
        for side in ("chosen", "rejected")
        for ids, value in zip(row[f"{side}_ids"], row[f"ref_{side}_logps"], strict=True)
    }


def reference_of(model: Any) -> dict[Key, float]:
    """The same by one forward pass a sequence."""
    return {
        (side, tuple(ids)): straight_logps(model, pair.prompt_ids, ids, forced)
        for pair in PAIRS
        for side, ids, forced in (
            ("chosen", pair.chosen_ids, pair.chosen_forced),
            ("rejected", pair.rejected_ids, pair.rejected_forced),
        )
    }


@pytest.fixture(scope="module")
def trained(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that ran undisturbed."""
    path = tmp_path_factory.mktemp("trained")
    run_train(path, policy_of(tiny_model))
    return path


@pytest.fixture(scope="module")
def moved_adapter(trained: Path) -> Path:
    """An adapter that differs clearly from the seed model."""
    return trained / "epoch-2"


# What is told while it trains


def test_steps_are_told_as_they_are_written(trained: Path) -> None:
    reports = [json.loads(line) for line in (trained / PROGRESS).read_text().splitlines()]
    history = read_history(trained)
    measured = [report["measured"] for report in reports if "measured" in report]
    assert [number for number, _ in measured] == list(range(1, len(history) + 1))
    assert [values for _, values in measured] == history
    last = [report["state"] for report in reports if "state" in report][-1]
    assert (last["done"], last["total"], last["unit"]) == (len(history), len(history), "step")
    assert last["kept"] == f"{SETTINGS.num_epochs} of {SETTINGS.num_epochs} epochs"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nll_weight": 1e38}, "(loss|grad_norm) is (inf|nan)"),
        ({"learning_rate": 1e30}, ""),
        ({"learning_rate": 1e38}, "the size of the step overflows"),
    ],
    ids=["loss", "weights", "step_size"],
)
def test_training_that_diverges_ends_at_that_step_with_a_sentence(
    tiny_model: Path, tmp_path: Path, change: dict[str, float], said: str
) -> None:
    ended = rf"training diverged: at step \d+ of \d+ \(learning rate \S+.*\) .*{said}.*train.nll_weight"
    for _ in range(2):  # and on every repetition
        with pytest.raises(TrainingError, match=ended):
            run_train(tmp_path / "diverged", policy_of(tiny_model), settings(**change))
    assert not list((tmp_path / "diverged").glob("epoch-*"))
    assert not list((tmp_path / "diverged").glob("metrics*"))


@pytest.mark.parametrize(
    ("losses", "is_diverged"),
    [([0.7, 690.0], False), ([0.7, 710.0], True), ([1e-9, 690.0], False), ([1e-9, 700.0], True), ([900.0, 9e5], False)],
)
def test_a_loss_that_explodes_ends_the_training(losses: list[float], is_diverged: bool) -> None:
    state = SimpleNamespace(global_step=2, max_steps=9, log_history=[{"loss": losses[0]}])
    step = {"loss": losses[1], "learning_rate": 0.25, "grad_norm": 1e7}
    ended = r"at step 2 of 9 \(learning rate 0.25, gradient norm 1e\+07\) the loss is 7[01]\d?, 1,000 times"
    for _ in range(2):  # the second as of a training that was resumed
        callback = EndsDiverged(vocabulary=100, longest=10, beta=0.1)
        with pytest.raises(TrainingError, match=ended) if is_diverged else nullcontext():
            callback.on_log(None, state, None, logs=step)


@pytest.mark.parametrize(("nats", "is_diverged"), [(-22.0, False), (-24.0, True), (500.0, False)])
def test_unlikely_chosen_completions_end_the_training_though_its_loss_is_small(nats: float, is_diverged: bool) -> None:
    # of ten tokens at most, of a vocabulary of a hundred: half of ln 100 = 4.605 nats each
    state = SimpleNamespace(global_step=2, max_steps=9, log_history=[{"loss": 0.7}])
    step = {"loss": 0.0, "learning_rate": 0.25, "grad_norm": 0.0, "rewards/chosen": 0.1 * nats}
    ended = r"at step 2 of 9 .* have lost 2.4 nats a token .* random token has 4.61"
    with pytest.raises(TrainingError, match=ended) if is_diverged else nullcontext():
        EndsDiverged(vocabulary=100, longest=10, beta=0.1).on_log(None, state, None, logs=step)


def test_a_last_step_that_diverges_ends_the_training(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The tests' model is random: it has nothing to lose.
    monkeypatch.setattr(callbacks, "lost_per_token", lambda *_: 9.83)
    one_step = settings(num_epochs=1, batch_size=12)
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"at step 1 of 1 \(learning rate 0.01, .* have lost 9.83 nats a token"):
            run_train(tmp_path / "diverged", policy_of(tiny_model), one_step)
    assert not complete_checkpoints(tmp_path / "diverged" / "checkpoints")
    assert not list((tmp_path / "diverged").glob("epoch-*"))


def test_what_was_lost_is_counted_by_token(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, PAIRS, policy_of(tiny_model), SETTINGS, seed=0)
    batch = trainer.data_collator([trainer.train_dataset[0]])
    assert lost_per_token(trainer.model, batch) == pytest.approx(0.0, abs=1e-5)
    half = len(batch["input_ids"]) // 2
    num_tokens = int(batch["completion_mask"][:half].sum())
    batch["ref_chosen_logps"] += 5.0  # nats for each sequence
    assert lost_per_token(trainer.model, batch) == pytest.approx(5.0 * half / num_tokens, rel=1e-4)


# What is trained on


@pytest.mark.parametrize("mask_forced_tokens", [True, False], ids=["masked", "unmasked"])
def test_sampled_ids_are_the_trained_ids(tiny_model: Path, tmp_path: Path, mask_forced_tokens: bool) -> None:
    # Longer than trl's default of 1024, which would cut the answer off.
    pairs = [*PAIRS, make_pair(7, 700, 600, 5), make_pair(8, 5, 6, 1300), make_pair(9, 4, 8, 8)]
    changed = settings(mask_forced_tokens=mask_forced_tokens)
    trainer = make_trainer(tmp_path, pairs, policy_of(tiny_model), changed, seed=0)
    seen = []
    for batch in trainer.get_train_dataloader():
        ids, attention, mask = (batch[key].tolist() for key in ("input_ids", "attention_mask", "completion_mask"))
        half = len(ids) // 2
        for row in range(half):
            seen.append([_sequence(ids[at], attention[at], mask[at]) for at in (row, half + row)])
    expected = []
    for pair in pairs:
        sides = []
        for completion, forced in (
            (pair.chosen_ids, pair.chosen_forced),
            (pair.rejected_ids, pair.rejected_forced),
        ):
            counted = [1] * len(completion)
            if mask_forced_tokens:
                counted[forced[0] : forced[1]] = [0] * (forced[1] - forced[0])
            sides.append((pair.prompt_ids + completion, [0] * len(pair.prompt_ids) + counted))
        expected.append(sides)
    assert sorted(seen) == sorted(expected), "each pair once, in full, chosen in the first half"
    for sides in seen:
        assert [ids.count(BOS) for ids, _ in sides] == [1, 1]
    assert sum(ids[-1] == EOS for sides in seen for ids, _ in sides) == len(pairs), "EOS only where it was sampled"


def _sequence(ids: list[int], attention: list[int], mask: list[int]) -> tuple[list[int], list[int]]:
    length = sum(attention)
    assert attention == [1] * length + [0] * (len(attention) - length), "padding is on the right"
    assert not any(mask[length:])
    return ids[:length], mask[:length]


@pytest.mark.parametrize("num_pairs", [1, 2, 5, 6])
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_micro_batches_hold_each_pair_once(num_pairs: int, size: int) -> None:
    rows = list(micro_batches(PAIRS[:num_pairs], settings(micro_batch_size=size)))
    found = [
        pair for row in rows for pair in zip(row["prompt_ids"], row["chosen_ids"], row["rejected_ids"], strict=True)
    ]
    expected = [(pair.prompt_ids, pair.chosen_ids, pair.rejected_ids) for pair in PAIRS[:num_pairs]]
    assert sorted(found) == sorted(expected)
    sizes = [len(row["prompt_ids"]) for row in rows]
    assert len(sizes) == math.ceil(num_pairs / size)
    assert max(sizes) <= size
    assert max(sizes) - min(sizes) <= 1


def test_order_of_the_pairs_does_not_matter() -> None:
    assert list(micro_batches(PAIRS, settings())) == list(micro_batches(PAIRS[::-1], settings()))


def test_no_pairs_are_an_error_that_says_why(tmp_path: Path) -> None:
    pairs = SimpleNamespace(rows=lambda kind: iter([]), metrics={"drops": {"all_tied": 5, "not_scored": 0, "tied": 1}})
    job = Job(tmp_path, {}, {"pairs": pairs}, seed=0, how={})  # type: ignore[dict-item]
    with pytest.raises(
        TrainingError, match="no pair to train on; .* dropped as 5 all_tied, 1 tied. Usually more samples"
    ):
        tpo.train.trainer.work(job)
    pairs.metrics["drops"] = {"truncated": 11, "tied": 5}
    with pytest.raises(TrainingError, match="11 truncated, 5 tied. Usually a larger sample.max_response_tokens helps"):
        tpo.train.trainer.work(job)


# The reference and the first step


def test_first_step_is_ln_2_and_training_moves_away_from_it(trained: Path) -> None:
    history = read_history(trained)
    assert len(history) == 4, "two steps an epoch"
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert history[0]["rewards/margins"] == pytest.approx(0, abs=1e-4)
    assert history[-1]["loss"] < 0.5
    assert history[-1]["rewards/margins"] > 0.5


def test_both_references_of_a_first_iteration_are_the_seed_model(tiny_model: Path, tmp_path: Path) -> None:
    # To the last bit, as the pipeline makes one artifact of the two.
    previous, seed = (
        reference_columns(make_trainer(tmp_path / name, PAIRS, policy_of(tiny_model), settings(reference=name), seed=0))
        for name in ("previous", "seed")
    )
    assert previous == seed


def test_reference_is_computed_once_for_the_same_pairs(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ReferenceCache(tmp_path / "reference" / "of_these_pairs.json", {"pairs": "pairs-a"}, tmp_path)

    def made(name: str, cache: ReferenceCache | None, beta: float) -> Any:
        work = tmp_path / name
        return make_trainer(work, PAIRS, policy_of(tiny_model), settings(beta=beta), seed=0, cache=cache)

    first = reference_columns(made("a", kept, 0.1))

    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(tpo.train.reference, "reference_logps", fail)
    assert reference_columns(made("b", kept, 0.2)) == first
    with pytest.raises(AssertionError, match="computed again"):
        made("c", None, 0.2)


@pytest.mark.parametrize("reference", ["previous", "seed"])
def test_reference_of_a_second_iteration(tiny_model: Path, moved_adapter: Path, tmp_path: Path, reference: str) -> None:
    policy = policy_of(tiny_model, moved_adapter)
    trainer = make_trainer(tmp_path, PAIRS, policy, settings(reference=reference), seed=0)
    base = load_model(tiny_model, revision=None, dtype="float32")
    expected = {"seed": reference_of(base)}
    expected["previous"] = reference_of(PeftModel.from_pretrained(base, str(moved_adapter)).eval())
    gaps = [abs(expected["seed"][key] - expected["previous"][key]) for key in expected["seed"]]
    assert min(gaps) > 0.1, "nothing to tell apart"
    assert reference_columns(trainer) == {
        key: pytest.approx(value, abs=1e-3) for key, value in expected[reference].items()
    }
    name = next(name for name in trainer.model.state_dict() if "lora_B" in name)
    assert trainer.model.state_dict()[name].abs().max() > 0, "the adapter goes on; it does not start anew"


def test_second_iteration_continues_the_adapter_from_ln_2(
    tiny_model: Path, moved_adapter: Path, tmp_path: Path
) -> None:
    run_train(tmp_path, policy_of(tiny_model, moved_adapter), settings(learning_rate=0.0, num_epochs=1))
    history = read_history(tmp_path)
    assert history[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    before, after = (load_file(path / "adapter_model.safetensors") for path in (moved_adapter, tmp_path / "epoch-1"))
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before), "a rate of 0 leaves it as it was"


def test_second_iteration_trains_against_the_seed_model(tiny_model: Path, moved_adapter: Path, tmp_path: Path) -> None:
    # Against the seed model the margin is not 0 at the first step: that is no error, it is what was asked for.
    changed = settings(reference="seed", num_epochs=1)
    run_train(tmp_path, policy_of(tiny_model, moved_adapter), changed)
    assert abs(read_history(tmp_path)[0]["rewards/margins"]) > 0.1


@pytest.mark.parametrize("nll_weight", [0.0, 1.0], ids=["dpo", "irpo"])
def test_wrong_reference_is_an_error(
    tiny_model: Path, moved_adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nll_weight: float
) -> None:
    def swapped(trainer: Any, *, disable_adapter: bool, model: Any) -> Any:
        return reference_logps(trainer, disable_adapter=not disable_adapter, model=model)

    monkeypatch.setattr(tpo.train.reference, "reference_logps", swapped)
    with pytest.raises(TrainingError, match="the reference is not the policy"):
        run_train(tmp_path, policy_of(tiny_model, moved_adapter), settings(nll_weight=nll_weight))
    assert not (tmp_path / "metrics.jsonl").exists()
    assert not list(tmp_path.glob("epoch-*"))


# Settings that change the computation, or must not


def test_nll_weight_adds_each_chosen_sequences_mean_nll(tiny_model: Path, tmp_path: Path) -> None:
    pairs = PAIRS[:2]  # one micro-batch, so that its order does not matter
    shared = {"batch_size": 2, "num_epochs": 1}
    run_train(tmp_path / "irpo", policy_of(tiny_model), settings(nll_weight=0.7, **shared), pairs=pairs)
    model = load_model(tiny_model, revision=None, dtype="float32")
    means = [
        -straight_logps(model, pair.prompt_ids, pair.chosen_ids, pair.chosen_forced)
        / (len(pair.chosen_ids) - (pair.chosen_forced[1] - pair.chosen_forced[0]))
        for pair in pairs
    ]
    found = read_history(tmp_path / "irpo")[0]
    assert found["nll_loss"] == pytest.approx(sum(means) / 2, abs=1e-4)
    assert found["loss"] == pytest.approx(math.log(2) + 0.7 * sum(means) / 2, abs=1e-4)
    assert found["rewards/margins"] == pytest.approx(0, abs=1e-4)


def adapter_of(path: Path, epoch: int = 1) -> dict[str, torch.Tensor]:
    return load_file(path / f"epoch-{epoch}" / "adapter_model.safetensors")


def assert_adapters_close(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor], tolerance: float) -> None:
    assert first.keys() == second.keys()
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=tolerance, rtol=0)


@pytest.mark.parametrize("change", [{"micro_batch_size": 4}, {"gradient_checkpointing": True}], ids=str)
def test_memory_settings_do_not_change_the_update(tiny_model: Path, tmp_path: Path, change: dict[str, Any]) -> None:
    # AdamW's first step sees little but the gradient's sign, and a gradient near 0 may flip with the rounding, so the
    # gradient's norm is compared tightly and the adapter within a tenth of the learning rate.
    pairs = PAIRS[:4]
    run_train(tmp_path / "a", policy_of(tiny_model), settings(num_epochs=1), pairs=pairs)
    run_train(tmp_path / "b", policy_of(tiny_model), settings(num_epochs=1, **change), pairs=pairs)
    first, second = read_history(tmp_path / "a"), read_history(tmp_path / "b")
    assert [row["grad_norm"] for row in first] == pytest.approx([row["grad_norm"] for row in second], rel=1e-3)
    assert_adapters_close(adapter_of(tmp_path / "a"), adapter_of(tmp_path / "b"), 1e-3)


def test_seed_decides_the_adapter(tiny_model: Path, tmp_path: Path) -> None:
    short = settings(num_epochs=1)
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        (tmp_path / name).mkdir()
        train_on_pairs(tmp_path / name, PAIRS, policy_of(tiny_model), short, seed=seed)
    assert_adapters_close(adapter_of(tmp_path / "a"), adapter_of(tmp_path / "b"), 0)
    other = adapter_of(tmp_path / "c")
    assert any(not torch.equal(value, other[name]) for name, value in adapter_of(tmp_path / "a").items())


def test_named_lora_targets(tiny_model: Path, tmp_path: Path) -> None:
    changed = settings(lora_targets="q_proj, v_proj", num_epochs=1)
    run_train(tmp_path, policy_of(tiny_model), changed)
    assert {name.split(".")[-3] for name in adapter_of(tmp_path)} == {"q_proj", "v_proj"}


@pytest.mark.parametrize(
    ("dtype", "quantization"),
    [("float32", "none"), ("bfloat16", "none"), ("float32", "nf4"), ("bfloat16", "nf4")],
)
def test_adapter_alone_is_trained_in_the_dtype_of_the_base(
    tiny_model: Path, tmp_path: Path, dtype: str, quantization: str
) -> None:
    policy = policy_of(tiny_model, dtype=dtype)
    trainer = make_trainer(tmp_path, PAIRS, policy, settings(quantization=quantization), seed=0)
    parameters = dict(trainer.model.named_parameters())
    assert list(trainer.model.peft_config) == ["default"], "trl's frozen copy of the adapter is gone"
    trained = {name for name, parameter in parameters.items() if parameter.requires_grad}
    assert trained == {name for name in parameters if "lora_" in name}
    assert {parameters[name].dtype for name in trained} == {getattr(torch, dtype)}, "as it will be sampled from"


def test_small_steps_accumulate_in_16_bits(tiny_model: Path, tmp_path: Path) -> None:
    # A step far below a bf16 weight's precision rounds to nothing, a sum of such steps must not.
    steps = 12
    changed = settings(learning_rate=1e-5, lr_scheduler="constant", num_epochs=steps // 2, max_grad_norm=0.0)
    trainer = make_trainer(tmp_path, PAIRS, policy_of(tiny_model, dtype="bfloat16"), changed, seed=0)
    before = {name: value.clone() for name, value in trainer.model.named_parameters() if "lora_A" in name}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    for name, start in before.items():
        master = trainer.optimizer.state[after[name]]["master"]
        assert master.dtype == torch.float32
        assert torch.equal(master.to(torch.bfloat16), after[name])
        moved = (master - start.float()).abs()
        # B starts at 0 and stays tiny, so A's first gradients are 0 and its later ones small but of AdamW's size.
        assert moved.max() > 2e-5
        assert moved.max() < 1.01e-5 * steps


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_four_bit_base_learns_a_repeated_pair(tiny_model: Path, tmp_path: Path, dtype: str) -> None:
    import bitsandbytes

    changed = settings(quantization="nf4", num_epochs=8, batch_size=1, micro_batch_size=1)
    trainer = make_trainer(tmp_path, PAIRS[1:2], policy_of(tiny_model, dtype=dtype), changed, seed=0)
    assert any(isinstance(module, bitsandbytes.nn.Linear4bit) for module in trainer.model.modules())
    frozen = {name: value.clone() for name, value in trainer.model.named_parameters() if not value.requires_grad}
    trainer.train()
    history = [row["loss"] for row in trainer.state.log_history if "loss" in row]
    assert history[0] == pytest.approx(math.log(2), abs=0.05 if dtype == "bfloat16" else 1e-3)
    assert history[-1] < 0.5
    after = dict(trainer.model.named_parameters())
    assert all(torch.equal(after[name], value) for name, value in frozen.items())


# What is kept, and what a kill leaves


def test_adapter_folders_hold_the_adapter_alone(trained: Path) -> None:
    names = {path.name for path in trained.iterdir() if is_content(path.relative_to(trained))}
    assert names == {"metrics.jsonl", "epoch-1", "epoch-2"}
    for epoch in (1, 2):
        assert {path.name for path in (trained / f"epoch-{epoch}").iterdir()} == ADAPTER_FILES
        assert not any("ref" in name.split(".") for name in adapter_of(trained, epoch))
    first, last = adapter_of(trained, 1), adapter_of(trained, 2)
    assert any(not torch.equal(first[name], last[name]) for name in first), "each epoch has its own adapter"


def test_saved_adapter_is_the_trained_policy(tiny_model: Path, trained: Path) -> None:
    base = load_model(tiny_model, revision=None, dtype="float32")
    pair = PAIRS[3]
    seed = [straight_logps(base, pair.prompt_ids, ids, [1, 4]) for ids in (pair.chosen_ids, pair.rejected_ids)]
    model = PeftModel.from_pretrained(base, str(trained / "epoch-2")).eval()
    after = [straight_logps(model, pair.prompt_ids, ids, [1, 4]) for ids in (pair.chosen_ids, pair.rejected_ids)]
    assert (after[0] - seed[0]) - (after[1] - seed[1]) > 1, "the chosen completion gained on the rejected one"


class Killed(BaseException):
    """Stands in for SIGKILL."""


def assert_same_training(found: Path, expected: Path) -> None:
    for epoch in (1, 2):
        assert_adapters_close(adapter_of(found, epoch), adapter_of(expected, epoch), 0)  # bitwise
    assert {path.name for path in found.iterdir()} == {path.name for path in expected.iterdir()}
    assert (found / "metrics.jsonl").read_text() == (expected / "metrics.jsonl").read_text()


@pytest.mark.parametrize(("dtype", "quantization"), [("float32", "none"), ("bfloat16", "nf4")])
def test_resumed_equals_uninterrupted(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, dtype: str, quantization: str
) -> None:
    policy, changed = policy_of(tiny_model, dtype=dtype), settings(quantization=quantization)
    run_train(tmp_path / "undisturbed", policy, changed)

    def kill_in_second_epoch(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 3:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MarkComplete, "on_step_end", kill_in_second_epoch, raising=False)
        with pytest.raises(Killed):
            run_train(tmp_path / "killed", policy, changed)
    steps = []
    monkeypatch.setattr(
        MarkComplete, "on_step_end", lambda self, args, state, *_, **__: steps.append(state.global_step), raising=False
    )
    run_train(tmp_path / "killed", policy, changed)
    assert steps == [3, 4], "the first epoch is not trained again"
    assert_same_training(tmp_path / "killed", tmp_path / "undisturbed")


def test_half_written_checkpoint_is_not_gone_on_from(
    tiny_model: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_save = MarkComplete.on_save

    def kill_in_second_save(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 4:
            (Path(args.output_dir) / "checkpoint-4" / "adapter_model.safetensors").write_bytes(b"half")
            raise Killed
        on_save(self, args, state, control)

    with monkeypatch.context() as patch:
        patch.setattr(MarkComplete, "on_save", kill_in_second_save)
        with pytest.raises(Killed):
            run_train(tmp_path, policy_of(tiny_model))
    assert (tmp_path / "checkpoints" / "checkpoint-4").exists()
    run_train(tmp_path, policy_of(tiny_model))
    assert_same_training(tmp_path, trained)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["optimizer.pt", "trainer_state.json", "adapter_model.safetensors"])
def test_damaged_checkpoint_is_not_gone_on_from(
    name: str, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    policy, changed = policy_of(tiny_model), settings(num_epochs=3)
    run_train(tmp_path / "undisturbed", policy, changed)

    def kill_in_third_epoch(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(MarkComplete, "on_step_end", kill_in_third_epoch, raising=False)
        with pytest.raises(Killed):
            run_train(tmp_path / "killed", policy, changed)
    damaged = tmp_path / "killed" / CHECKPOINTS / "checkpoint-4" / name
    damaged.write_bytes(bytes(damaged.stat().st_size))
    run_train(tmp_path / "killed", policy, changed)
    assert "checkpoint-4, or one before it, is damaged: training goes on from checkpoint-2" in caplog.text
    assert_same_training(tmp_path / "killed", tmp_path / "undisturbed")


def test_edited_result_without_a_manifest_is_made_again(tiny_model: Path, trained: Path, tmp_path: Path) -> None:
    path = shutil.copytree(trained, tmp_path / "killed")
    (path / "epoch-1" / "adapter_model.safetensors").write_bytes(b"another")
    (path / "metrics.jsonl").write_text('{"loss": 0.0}\n')
    run_train(path, policy_of(tiny_model))
    assert_same_training(path, trained)


def test_kill_after_the_last_epoch_loses_nothing(
    tiny_model: Path, trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def kill_in_copy(*_: Any) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("tpo.train.trainer.shutil.copy2", kill_in_copy)
        with pytest.raises(Killed):
            run_train(tmp_path, policy_of(tiny_model))
    run_train(tmp_path, policy_of(tiny_model))
    assert_same_training(tmp_path, trained)


def test_finished_training_is_not_computed_again(
    tiny_model: Path, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Killed before the manifest.
    def fail(*_: Any, **__: Any) -> None:
        raise AssertionError("trained again")

    monkeypatch.setattr(tpo.train.trainer, "make_trainer", fail)
    metrics = run_train(trained, policy_of(tiny_model))
    assert metrics["num_pairs"] == len(PAIRS)
    assert metrics["num_steps"] == 4
    assert metrics["first_loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert metrics["last"] == read_history(trained)[-1]


def test_gradients_through_4_bit_layers_equal_those_of_their_values(tiny_model: Path, tmp_path: Path) -> None:
    # bitsandbytes repacks 4-bit weights for CPU inference when it meets them in eval mode, and from then on training
    # would go through a kernel without a backward pass: only the gradients tell.
    save_quantized(tiny_model, tmp_path / "values", revision=None, dtype="float32", quantization="nf4")
    gradients = {}
    for quantization in ("nf4", "none"):
        base = str(tiny_model) if quantization == "nf4" else str(tmp_path / "values")
        policy = Policy(str(tmp_path / "values"), None, str(tiny_model), "float32", 1024, None, base)
        trainer = make_trainer(
            tmp_path / quantization, PAIRS, policy, settings(quantization=quantization, learning_rate=0.0), seed=3
        )
        batch = trainer.data_collator([trainer.train_dataset[0]])
        trainer.compute_loss(trainer.model, batch).backward()
        gradients[quantization] = {
            name: parameter.grad for name, parameter in trainer.model.named_parameters() if parameter.grad is not None
        }
    assert gradients["nf4"].keys() == gradients["none"].keys()
    assert any(gradient.abs().max() > 1e-3 for gradient in gradients["nf4"].values())
    for name, gradient in gradients["nf4"].items():
        # bitsandbytes rounds the dequantized values of the two paths differently in float32, by 0.2 % at most; the
        # inference kernel's gradients were off by as much as they are large.
        error = (gradient - gradients["none"][name]).abs().max()
        assert error <= 5e-3 * gradients["none"][name].abs().max(), name


def test_values_that_another_device_quantized_are_said(
    tiny_model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    values = tmp_path / "values"
    save_quantized(tiny_model, values, revision=None, dtype="bfloat16", quantization="nf4")
    policy = Policy(str(values), None, str(tiny_model), "bfloat16", 1024, None, str(tiny_model))
    changed = settings(quantization="nf4")
    make_trainer(tmp_path / "same", PAIRS, policy, changed, seed=3)
    assert "not quite what was sampled" not in caplog.text
    tensors = load_file(values / "model.safetensors")
    tensors["model.layers.1.mlp.down_proj.weight"].view(-1)[:82] += 0.5  # of 64 x 128
    save_file(tensors, values / "model.safetensors", metadata={"format": "pt"})
    make_trainer(tmp_path / "other", PAIRS, policy, changed, seed=3)
    assert "1.00% of the values of model.layers.1.mlp.down_proj.weight are others" in caplog.text
