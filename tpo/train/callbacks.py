"""What is done between the steps of a training: the first one is checked, a diverged one ended, each one reported."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from accelerate.utils import parse_flag_from_env
from torch.distributed.tensor import DTensor
from transformers import TrainerCallback

from tpo.store.progress import Progress, counted
from tpo.train.checkpoints import steps_of
from tpo.train.reference import log_probs
from tpo.train.settings import TrainingError

# At the first step policy and reference are the same weights on the same batches, so margins are 0 up to kernels that
# are not deterministic. A reference computed in other batches is off by 0.05 in bf16 (experiments/LOG.md), a wrong
# reference by much more.
FIRST_STEP_TOLERANCE = 1e-3

# A loss of so many times that of the first step, or of ln 2, has exploded: with DPO's usual beta of 0.1 a mean margin
# of -7,000 nats the wrong way round.
EXPLODED = 1000

# A policy has diverged that has taken so much of ln(vocabulary) nats from each token of the chosen completions, against
# the reference; all of it leaves less than random tokens have. What trainings took is in experiments/LOG.md.
MOST_LOST = 0.5


class FirstStep(TrainerCallback):  # type: ignore[misc]
    """Checks loss and margin of the first step, which are known where the policy is its own reference."""

    def __init__(self, *, starts_at_reference: bool, nll_weight: float) -> None:
        """Set what is known of the first step.

        Args:
            starts_at_reference: False for a later iteration with the seed model as reference: neither is known.
            nll_weight: Of the NLL term, without which the loss is that of DPO.
        """
        self.starts_at_reference, self.nll_weight = starts_at_reference, nll_weight

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Raise if the first loss is not ln 2 or the first margin is not 0."""
        if not self.starts_at_reference or state.global_step != 1 or "rewards/margins" not in (logs or {}):
            return
        assert logs is not None
        margin = logs["rewards/margins"]
        loss = logs["loss"] - self.nll_weight * logs.get("nll_loss", 0.0)
        if max(abs(loss - math.log(2)), abs(margin)) > FIRST_STEP_TOLERANCE:
            raise TrainingError(
                f"at the first step the policy is the reference, so DPO's loss is ln 2 = {math.log(2):.4f} and the "
                f"margin 0, but they are {loss:.4f} and {margin:.4f}: the reference is not the policy that training "
                "starts from"
            )


class TellsSteps(TrainerCallback):  # type: ignore[misc]
    """Reports what trl measures of every step, and how many steps are done, while the training goes on."""

    def __init__(self, progress: Progress, *, num_epochs: int) -> None:
        """Report to `progress`; a context of the caller's."""
        self.progress, self.num_epochs, self.num_told = progress, num_epochs, 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Report the steps of earlier attempts, with which this one goes on."""
        self.progress.total, self.progress.done = state.max_steps, state.global_step
        self._keep(state)
        self._tell(state.log_history)
        self.progress.advance(0)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Report a step."""
        if "loss" in (logs or {}):
            self._keep(state)
            self._tell(state.log_history[-1:])
            self.progress.advance()

    def _tell(self, log_history: list[dict[str, Any]]) -> None:
        for entry in steps_of(log_history):
            self.num_told += 1
            self.progress.measured(self.num_told, entry)

    def _keep(self, state: Any) -> None:
        """Say what a killed training need not do again: epochs that are complete."""
        num_complete = state.global_step * self.num_epochs // max(1, state.max_steps)
        self.progress.kept = f"{num_complete} of {counted(self.num_epochs, 'epoch')}"


class EndsDiverged(TrainerCallback):  # type: ignore[misc]
    """Ends a training that has diverged: at the step whose numbers show it, at the latest when its epoch is saved.

    That shows in a value or a weight that is not finite, a loss that explodes, or chosen completions that have become
    too unlikely (`MOST_LOST`), of which DPO's loss need not tell: it compares chosen and rejected ones.
    """

    _first_loss: float | None = None

    def __init__(self, *, vocabulary: int, longest: int, beta: float) -> None:
        """Set how much may be lost.

        Args:
            vocabulary: Tokens in it.
            longest: Tokens of the longest chosen completion.
            beta: DPO's, by which rewards are log-ratios.
        """
        self.most = MOST_LOST * math.log(vocabulary)
        self.least_reward = -beta * self.most * longest

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float] | None = None, **_: Any) -> None:
        """Raise if what was measured of a step shows it."""
        if "loss" not in (logs or {}):
            return
        assert logs is not None
        for name, value in logs.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise diverged(f"{name} is {value}", state, logs)
        if self._first_loss is None:
            first = next(entry["loss"] for entry in [*state.log_history, logs] if "loss" in entry)
            self._first_loss = max(first, math.log(2))
        if logs["loss"] > EXPLODED * self._first_loss:
            raise diverged(f"the loss is {logs['loss']:.3g}, {EXPLODED:,} times that of the first step", state, logs)
        if logs.get("rewards/chosen", 0.0) < self.least_reward:
            raise diverged(self._lost(logs["rewards/chosen"] / self.least_reward * self.most), state, logs)

    def on_save(
        self, args: Any, state: Any, control: Any, model: Any = None, train_dataloader: Any = None, **_: Any
    ) -> None:
        """Raise if the epoch's weights show it, which no step has computed with, before they are marked as complete.

        Nothing is computed with DeepSpeed's.
        """
        steps = steps_of(state.log_history)
        logs = steps[-1] if steps else {}
        for name, part in model.named_parameters():
            own = part.to_local() if isinstance(part, DTensor) else part
            if part.requires_grad and not torch.isfinite(own.detach()).all():
                raise diverged(f"{name} is not finite", state, logs)
        if parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
            return
        rows = train_dataloader.dataset  # in the order of their lengths
        lost = lost_per_token(model, train_dataloader.collate_fn([rows[len(rows) // 2]]))
        if not lost <= self.most:
            raise diverged(self._lost(lost), state, logs)

    def _lost(self, nats: float) -> str:
        return (
            f"the chosen completions have lost {nats:.3g} nats a token against the reference, "
            f"where a random token has {self.most / MOST_LOST:.3g}"
        )


@torch.no_grad()
def lost_per_token(model: Any, batch: Mapping[str, Any]) -> float:
    """Return how far the chosen completions of a micro-batch lie below the reference, in nats a token.

    Args:
        model: The policy.
        batch: The collator's, with `ref_chosen_logps`.
    """
    logps, _ = log_probs(model, batch).chunk(2)
    counted, _ = batch["completion_mask"][:, 1:].sum(dim=1).chunk(2)
    lost = batch["ref_chosen_logps"].to(logps.device).sum() - logps.sum()
    return float(lost / counted.sum().clamp(min=1).to(lost.device))


def diverged(what: str, state: Any, logs: Mapping[str, Any]) -> TrainingError:
    """Return the error of a training that has diverged.

    Args:
        what: How that shows.
        state: The trainer's.
        logs: What was measured of the step.
    """
    measured = ", ".join(
        f"{words} {logs[name]:.3g}"
        for name, words in (("learning_rate", "learning rate"), ("grad_norm", "gradient norm"))
        if name in logs
    )
    return TrainingError(
        f"training diverged: at step {state.global_step} of {state.max_steps}"
        f"{f' ({measured})' if measured else ''} {what}. No epoch of it is used: lower train.learning_rate, train.beta "
        "or train.nll_weight"
    )


class FirstGradients(TrainerCallback):  # type: ignore[misc]
    """Checks after the first backward passes that the loss reaches every weight that is to be trained."""

    is_checked = False

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        """Raise if a trained parameter has no gradient; DeepSpeed keeps gradients elsewhere."""
        if self.is_checked or parse_flag_from_env("ACCELERATE_USE_DEEPSPEED"):
            return
        self.is_checked = True
        without = [
            name for name, part in model.named_parameters() if part.requires_grad and part.numel() and part.grad is None
        ]
        if without:
            is_adapter = any("lora_" in name for name in without)
            raise TrainingError(
                f"{len(without)} weights that are to be trained got no gradient from the loss ({', '.join(without[:3])}"
                f"{', ...' if len(without) > 3 else ''}): "
                + ("name other layers in train.lora_targets" if is_adapter else "take train.method=lora")
            )
