"""Which tokens carry the loss, and what a pair weighs: against the objective in plain torch, pair by pair."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from msgspec.structs import replace
from peft import PeftModel, get_peft_model
from test_trainer import PAIRS, SETTINGS, make_pair, policy_of, settings
from torch import Tensor
from transformers import TrainerCallback

from tpo.config.groups import AccelerateConfig, ModelConfig, SampleConfig
from tpo.config.thought import DIRECT, ThoughtFormat
from tpo.model.load import load_model
from tpo.model.policy import PolicyRef
from tpo.store.artifacts import Artifact
from tpo.store.records import Pair
from tpo.train.dpo import dpo_loss, sequence_logps
from tpo.train.micro_batches import micro_batches
from tpo.train.settings import TrainingError
from tpo.train.stages import train
from tpo.train.trainer import make_trainer

LOSS_ON = ("all", "thought", "response")
BETA = 0.3
# An odd number of pairs, of very different lengths; the second's two thoughts are the same tokens.
UNEQUAL = [make_pair(number, 4 + number, 7 + 9 * number, 40 - 7 * number) for number in range(5)]
UNEQUAL[1] = make_pair(
    1, 5, 16, 33, rejected_ids=[*UNEQUAL[1].chosen_ids[:5], *range(20, 48)], rejected_response_start=5
)


@pytest.fixture(scope="module")
def adapter(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter with random weights: its policy differs from the seed model, and every gradient is there."""
    path = tmp_path_factory.mktemp("adapter")
    torch.manual_seed(7)
    model = get_peft_model(load_model(tiny_model, revision=None, dtype="float32"), SETTINGS.lora())
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.05)
    model.save_pretrained(path)
    return path


def counted(pair: Pair, side: str, *, loss_on: str, mask_forced_tokens: bool) -> list[bool]:
    """Whether each token of a completion carries the loss."""
    start, forced = getattr(pair, f"{side}_response_start"), range(*getattr(pair, f"{side}_forced"))
    return [
        {"all": True, "thought": position < start, "response": position >= start}[loss_on]
        and not (mask_forced_tokens and position in forced)
        for position in range(len(getattr(pair, f"{side}_ids")))
    ]


def logps_of(model: Any, pair: Pair, side: str, mask: list[bool]) -> Tensor:
    ids = pair.prompt_ids + getattr(pair, f"{side}_ids")
    full = torch.tensor([[False] * len(pair.prompt_ids) + mask])
    return sequence_logps(model(input_ids=torch.tensor([ids])).logits, torch.tensor([ids]), full)


def step_by_hand(
    tiny_model: Path, adapter: Path, pairs: list[Pair], *, nll_weight: float, **which: Any
) -> tuple[float, dict[str, Tensor]]:
    """The loss of a step on all pairs, and its gradient: one sequence at a time, the seed model as reference."""
    model = PeftModel.from_pretrained(
        load_model(tiny_model, revision=None, dtype="float32"), str(adapter), is_trainable=True
    )
    total = 0.0
    for pair in pairs:
        masks = {side: counted(pair, side, **which) for side in ("chosen", "rejected")}
        policy = [logps_of(model, pair, side, mask) for side, mask in masks.items()]
        with torch.no_grad(), model.disable_adapter():
            reference = [logps_of(model, pair, side, mask) for side, mask in masks.items()]
        loss = dpo_loss(*policy, *reference, beta=BETA).loss - nll_weight * policy[0] / sum(masks["chosen"])
        (loss.sum() / len(pairs)).backward()
        total += float(loss.detach()) / len(pairs)
    return total, {name: part.grad for name, part in model.named_parameters() if part.requires_grad}


class KeepGradients(TrainerCallback):  # type: ignore[misc]
    """Keeps the gradient of each step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        parameters = {name: part for name, part in model.named_parameters() if part.requires_grad}
        self.steps.append({name: part.grad.clone() for name, part in parameters.items()})


def step_of_trainer(
    path: Path, tiny_model: Path, adapter: Path, pairs: list[Pair], **changes: Any
) -> tuple[float, dict[str, Tensor]]:
    """The same by the trainer, as the one step of a training."""
    changed = settings(beta=BETA, reference="seed", num_epochs=1, batch_size=8, max_grad_norm=0.0, **changes)
    trainer = make_trainer(path, pairs, policy_of(tiny_model, adapter), changed, seed=0)
    trainer.add_callback(kept := KeepGradients())
    trainer.train()
    [entry] = [entry for entry in trainer.state.log_history if "loss" in entry]
    [gradient] = kept.steps
    return entry["loss"], gradient


def assert_same_step(found: tuple[float, dict[str, Tensor]], expected: tuple[float, dict[str, Tensor]]) -> None:
    assert found[0] == pytest.approx(expected[0], abs=2e-5)
    assert found[1].keys() == expected[1].keys()
    for name, gradient in expected[1].items():
        scale = float(gradient.abs().max())
        assert scale > 1e-4, "a gradient of nothing"
        torch.testing.assert_close(found[1][name], gradient, atol=1e-4 * scale, rtol=1e-3, msg=name)


@pytest.mark.parametrize(
    ("loss_on", "nll_weight", "mask_forced_tokens"),
    [
        pytest.param("all", 0.0, True, marks=pytest.mark.slow),
        ("all", 0.7, True),
        pytest.param("thought", 0.0, True, marks=pytest.mark.slow),
        ("thought", 0.7, False),
        ("response", 0.7, True),
    ],
)
def test_loss_and_gradient_are_the_formulas_whatever_the_micro_batch(
    tiny_model: Path, adapter: Path, tmp_path: Path, loss_on: str, nll_weight: float, mask_forced_tokens: bool
) -> None:
    which = {"loss_on": loss_on, "mask_forced_tokens": mask_forced_tokens}
    expected = step_by_hand(tiny_model, adapter, UNEQUAL, nll_weight=nll_weight, **which)
    for size in (1, 2, 4):  # five micro-batches, or 2 + 1 + 2, or 2 + 3
        found = step_of_trainer(
            tmp_path / str(size), tiny_model, adapter, UNEQUAL, nll_weight=nll_weight, micro_batch_size=size, **which
        )
        assert_same_step(found, expected)


def test_rewards_are_means_over_pairs_whatever_the_micro_batch(tiny_model: Path, adapter: Path, tmp_path: Path) -> None:
    found = []
    for size in (1, 4):
        changed = settings(reference="seed", num_epochs=1, batch_size=8, micro_batch_size=size, nll_weight=1.0)
        trainer = make_trainer(tmp_path / str(size), UNEQUAL, policy_of(tiny_model, adapter), changed, seed=0)
        trainer.train()
        [entry] = [entry for entry in trainer.state.log_history if "loss" in entry]
        found.append([entry[name] for name in ("rewards/chosen", "rewards/margins", "logps/rejected", "nll_loss")])
    assert found[1] == pytest.approx(found[0], abs=1e-4)


@pytest.mark.parametrize("loss_on", LOSS_ON)
def test_the_reference_sums_over_the_same_tokens(tiny_model: Path, tmp_path: Path, loss_on: str) -> None:
    trainer = make_trainer(tmp_path, UNEQUAL, policy_of(tiny_model), settings(loss_on=loss_on), seed=0)
    model = load_model(tiny_model, revision=None, dtype="float32")
    pairs = {tuple(pair.prompt_ids): pair for pair in UNEQUAL}
    num_seen = 0
    for row in trainer.train_dataset:
        for side in ("chosen", "rejected"):
            for prompt_ids, found in zip(row["prompt_ids"], row[f"ref_{side}_logps"], strict=True):
                pair = pairs[tuple(prompt_ids)]
                mask = counted(pair, side, loss_on=loss_on, mask_forced_tokens=True)
                with torch.no_grad():
                    assert found == pytest.approx(float(logps_of(model, pair, side, mask)), abs=1e-4)
                num_seen += 1
    assert num_seen == 2 * len(UNEQUAL)


def test_parts_add_up_to_all(tiny_model: Path, tmp_path: Path) -> None:
    columns = {}
    for loss_on in LOSS_ON:  # one pair in each micro-batch
        changed = settings(loss_on=loss_on, micro_batch_size=1)
        trainer = make_trainer(tmp_path / loss_on, UNEQUAL, policy_of(tiny_model), changed, seed=0)
        columns[loss_on] = {
            tuple(row["prompt_ids"][0]): row["ref_chosen_logps"][0] + 1000 * row["ref_rejected_logps"][0]
            for row in trainer.train_dataset
        }
    for key, value in columns["all"].items():
        assert columns["thought"][key] + columns["response"][key] == pytest.approx(value, abs=0.1)


def test_of_a_thought_alone_the_response_is_not_computed() -> None:
    """What the response is, then, cannot matter."""
    changed = settings(loss_on="thought")
    other = [replace(pair, chosen_ids=[*pair.chosen_ids[: pair.chosen_response_start], 9, 9]) for pair in PAIRS]
    rows = list(micro_batches(PAIRS, changed))
    assert rows == list(micro_batches(other, changed))
    lengths = {(len(ids)) for row in rows for ids in (*row["chosen_ids"], *row["rejected_ids"])}
    assert lengths == {5, 4}


@pytest.mark.parametrize("loss_on", ["thought", "response"])
@pytest.mark.parametrize("side", ["chosen", "rejected"])
def test_a_pair_that_does_not_say_where_its_response_starts_is_refused(loss_on: str, side: str) -> None:
    pairs = [*PAIRS, replace(PAIRS[0], **{f"{side}_response_start": 0})]
    with pytest.raises(TrainingError, match=f"train.loss_on={loss_on} needs to know where each response starts"):
        micro_batches(pairs, settings(loss_on=loss_on))
    assert len(micro_batches(pairs, settings())) == 4


class Requests:
    """Stands in for a store: keeps what is asked for."""

    def __init__(self) -> None:
        self.configs: list[dict[str, Any]] = []

    def request(self, stage: Any, config: dict[str, Any], *_: Any, **__: Any) -> Any:
        self.configs.append(config)


def test_direct_answers_are_responses_as_a_whole() -> None:
    """So both settings share an artifact."""
    store = Requests()
    artifact = Artifact("made", Path("made"), {}, False)
    model = ModelConfig("pretrained", "x", None, "float32", "none", 64, None)
    for form in (DIRECT, ThoughtFormat("{instruction}", None, "<R>")):
        policy = PolicyRef.untrained(artifact, model, form=form, sampling=SampleConfig(2, 1.0, 1.0, 8, 8))
        for loss_on in ("all", "response"):
            changed = dataclasses.replace(SETTINGS, loss_on=loss_on)
            train(store, policy, artifact, settings=changed, accelerate=AccelerateConfig(), seed=0)  # type: ignore[arg-type]
    assert [config["settings"]["loss_on"] for config in store.configs] == ["all", "all", "all", "response"]
