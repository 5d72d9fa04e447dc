"""The settings of a training, and trl's and peft's arguments made from them."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.config.fields import setting
from tpo.config.groups import TrainConfig
from tpo.store.errors import TpoError

if TYPE_CHECKING:
    from peft import LoraConfig


class TrainingError(TpoError):
    """A training that cannot start, or whose first step shows a wrong reference."""


@dataclass
class TrainSettings(TrainConfig):
    """The group `train` as a training gets it: with how the weights are quantized, which the group `model` says."""

    quantization: str = setting("none")

    def lora(self, *, excluded: str | None = None) -> "LoraConfig":
        """Return peft's configuration of the adapter; `excluded` is a regular expression of layers that get none."""
        from peft import LoraConfig, TaskType

        from tpo.model.targets import split_targets

        return LoraConfig(
            task_type=TaskType.CAUSAL_LM,
            r=self.lora_rank,
            lora_alpha=self.lora_alpha,
            lora_dropout=0.0,
            exclude_modules=excluded,
            target_modules=split_targets(self.lora_targets),
        )

    def arguments(self, work: Path, *, seed: int) -> dict[str, Any]:
        """Return the arguments of trl's configuration that do not concern the loss."""
        import torch

        return {
            "output_dir": str(work),
            "seed": seed % 2**31,
            "max_length": None,  # trl's default would truncate responses; longer pairs were dropped and counted
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": self.lr_scheduler,
            "warmup_steps": self.warmup_ratio,  # below 1 it is a fraction of all steps
            "num_train_epochs": self.num_epochs,
            "per_device_train_batch_size": 1,  # a row is a micro-batch
            "gradient_accumulation_steps": self.batch_size // (self.micro_batch_size * self.num_processes),
            "max_grad_norm": self.max_grad_norm,
            "gradient_checkpointing": self.gradient_checkpointing,
            "bf16": False,  # no autocast: the weights have the dtype of the computation
            "use_cpu": not torch.cuda.is_available(),
            "save_strategy": "epoch",
            "logging_steps": 1,
            "remove_unused_columns": False,
            "report_to": [],
            # The objective is DPO's, and the first step's loss ln 2: a loss that balances experts is no part of it.
            "router_aux_loss_coef": 0.0,
            "dataloader_pin_memory": torch.cuda.is_available(),
            "ddp_find_unused_parameters": False,  # every trained parameter is in every forward pass
        }
