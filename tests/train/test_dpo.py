"""The objective by hand, and trl's trainer against it."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import PAIRS, make_pair, policy_of, reference_columns, reference_of, settings
from torch import Tensor

from tpo.model.load import load_model
from tpo.model.trees import ATTENTION
from tpo.train.dpo import dpo_loss, nll_loss, sequence_logps
from tpo.train.trainer import make_trainer


@pytest.mark.parametrize(
    ("log_ratio", "expected"),
    # -log sigmoid(0.1 x) = log(1 + e^(-0.1 x)), computed by hand to nine digits.
    [(0.0, 0.693147181), (10.0, 0.313261688), (20.0, 0.126928011), (-10.0, 1.313261688), (5000.0, 0.0)],
)
def test_loss_by_hand(log_ratio: float, expected: float) -> None:
    ref = torch.tensor([-30.0], dtype=torch.float64)
    found = dpo_loss(ref + log_ratio, ref - 7, ref, ref - 7, beta=0.1)
    assert found.loss.item() == pytest.approx(expected, abs=1e-8)
    assert found.chosen_rewards.item() == pytest.approx(0.1 * log_ratio)
    assert found.rejected_rewards.item() == 0


def test_policy_equal_to_its_reference_has_ln_2() -> None:
    chosen, rejected = torch.randn(8) * 50, torch.randn(8) * 50
    found = dpo_loss(chosen, rejected, chosen, rejected, beta=0.3)
    assert found.loss.tolist() == pytest.approx([math.log(2)] * 8)
    assert found.chosen_rewards.abs().max() == found.rejected_rewards.abs().max() == 0


def test_swapping_the_pair_flips_the_margin() -> None:
    chosen, rejected, ref_chosen, ref_rejected = torch.randn(4, 6, generator=torch.Generator().manual_seed(1))
    found = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=0.5)
    swapped = dpo_loss(rejected, chosen, ref_rejected, ref_chosen, beta=0.5)
    margin = found.chosen_rewards - found.rejected_rewards
    assert torch.equal(swapped.chosen_rewards - swapped.rejected_rewards, -margin)
    torch.testing.assert_close(swapped.loss - found.loss, margin)  # -log s(-m) + log s(m) = m


def test_beta_scales_the_rewards() -> None:
    chosen, rejected = torch.tensor([3.0, -1.0]), torch.tensor([1.0, 2.0])
    zero = torch.zeros(2)
    found = dpo_loss(chosen, rejected, zero, zero, beta=2.0)
    assert found.chosen_rewards.tolist() == [6.0, -2.0]
    assert found.rejected_rewards.tolist() == [2.0, 4.0]
    assert found.loss.tolist() == pytest.approx([math.log1p(math.exp(-4)), math.log1p(math.exp(6))])


def test_sequence_logps_against_a_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(3, 7, 11, generator=generator)
    ids = torch.randint(11, (3, 7), generator=generator)
    mask = torch.rand(3, 7, generator=generator) < 0.5
    mask[:, 0] = True  # the first token is never predicted: it must not count
    mask[2] = False
    found = sequence_logps(logits, ids, mask)
    for row in range(3):
        expected = 0.0
        for position in range(1, 7):
            if mask[row, position]:
                values = logits[row, position - 1].double()
                expected += float(values[ids[row, position]] - torch.log(torch.exp(values).sum()))
        assert found[row].item() == pytest.approx(expected, abs=1e-4)
    assert found[2] == 0


def test_nll_is_each_sequences_mean_by_hand() -> None:
    # Mean over the sequences' means: (1 + 5) / 2 = 3; over all tokens it would be (10 + 10) / 12.
    found = nll_loss(torch.tensor([-10.0, -10.0, 0.0]), torch.tensor([10, 2, 0]))
    assert found.tolist() == [1.0, 5.0, 0.0]


def step_by_hand(model: Any, inputs: dict[str, Tensor], *, beta: float, nll_weight: float) -> dict[str, float]:
    """One micro-batch's loss and rewards from the model's plain logits; the chosen rows come first."""
    with torch.no_grad():
        logits = model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).logits
    mask = inputs["completion_mask"].bool()
    logps = sequence_logps(logits, inputs["input_ids"], mask)
    half = len(logps) // 2
    found = dpo_loss(logps[:half], logps[half:], inputs["ref_chosen_logps"], inputs["ref_rejected_logps"], beta=beta)
    nll = sum(-float(total) / int(row.sum()) for total, row in zip(logps[:half], mask[:half], strict=True)) / half
    return {
        "loss": float(found.loss.mean() + nll_weight * nll),
        "rewards/chosen": float(found.chosen_rewards.mean()),
        "rewards/rejected": float(found.rejected_rewards.mean()),
        "rewards/margins": float((found.chosen_rewards - found.rejected_rewards).mean()),
        "rewards/accuracies": float((found.chosen_rewards > found.rejected_rewards).float().mean()),
        "logps/chosen": float(logps[:half].mean()),
        "logps/rejected": float(logps[half:].mean()),
        **({"nll_loss": nll} if nll_weight else {}),
    }


@pytest.mark.parametrize("nll_weight", [0.0, 0.5], ids=["dpo", "irpo"])
@pytest.mark.parametrize("num_accumulated", [1, 2])
def test_trl_computes_this_objective_at_every_step(
    tiny_model: Path, tmp_path: Path, nll_weight: float, num_accumulated: int
) -> None:
    pairs = [*PAIRS, make_pair(6, 5, 8, 30), make_pair(7, 9, 20, 6)]
    changed = settings(
        num_epochs=2, batch_size=2 * num_accumulated, micro_batch_size=2, nll_weight=nll_weight, beta=0.3
    )
    trainer = make_trainer(tmp_path, pairs, policy_of(tiny_model), changed, seed=0)
    compute_loss, by_hand = trainer.compute_loss, []

    def record(model: Any, inputs: dict[str, Tensor], *arguments: Any, **named: Any) -> Any:
        model.set_attn_implementation("sdpa")  # one sequence a row, for the calculation by hand
        by_hand.append(step_by_hand(model, inputs, beta=0.3, nll_weight=nll_weight))
        model.set_attn_implementation(ATTENTION)
        return compute_loss(model, inputs, *arguments, **named)

    trainer.compute_loss = record
    trainer.train()
    history = [row for row in trainer.state.log_history if "loss" in row]
    assert len(history) == 8 // num_accumulated
    assert len(by_hand) == 8
    for number, row in enumerate(history):
        micro = by_hand[number * num_accumulated : (number + 1) * num_accumulated]
        for name in micro[0]:
            if name == "rewards/accuracies" and number == 0:
                continue  # all rewards are 0 up to rounding, and which rounds higher means nothing
            mean = sum(values[name] for values in micro) / num_accumulated
            assert row[name] == pytest.approx(mean, abs=1e-4), f"{name} at step {number + 1}"
    assert history[-1]["rewards/margins"] > 0.5, "a policy that did not move would hide a wrong reference"


def test_reference_columns_equal_straight_sums(tiny_model: Path, tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, PAIRS, policy_of(tiny_model), settings(), seed=0)
    expected = reference_of(load_model(tiny_model, revision=None, dtype="float32"))
    assert reference_columns(trainer) == pytest.approx(expected, abs=1e-4)
