"""Checkpoints of a training: saved whole, resumed in place, and turned into the adapter or model of an epoch."""

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor
from transformers import AutoConfig, Trainer, TrainerCallback
from transformers.utils import GENERATION_CONFIG_NAME, cached_file

from tpo.model.policy import Policy

COMPLETE = "complete"  # marks a checkpoint whose every file was written
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # peft's names
# What training is gone on from: torch's optimizer, FSDP's shards, DeepSpeed's.
STATE = ("optimizer.pt", "optimizer_*", "pytorch_model_fsdp_*", "global_step*")


class ResumesInPlace(Trainer):  # type: ignore[misc]
    """A trainer that saves what it trains, sharded or not, and resumes it into the parameters that are there."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the trained weights; of shards, transformers would also gather the frozen ones, or save nothing."""
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        weights = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
                if self.args.should_save:
                    weights[name] = whole.detach().cpu()
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """Leave the weights to the optimizer's state, which has them in float32.

        For an adapter, peft would make new parameters, and the optimizer would go on with the old ones.
        """


class MarkComplete(TrainerCallback):  # type: ignore[misc]
    """Marks checkpoints that were written whole."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint just written, once every process has written its part, and thin out those before it.

        Only the last is gone on from, and of a whole model the optimizer's state is six times its weights.
        """
        args.distributed_state.wait_for_everyone()
        if args.process_index == 0:
            work = Path(args.output_dir)
            (work / f"checkpoint-{state.global_step}" / COMPLETE).touch()
            for checkpoint in complete_checkpoints(work)[:-1]:
                for path in (path for name in STATE for path in checkpoint.glob(name)):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def complete_checkpoints(work: Path) -> list[Path]:
    """Return the complete checkpoints in order of their step."""
    found = [path for path in work.glob("checkpoint-*") if (path / COMPLETE).exists()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def last_complete(work: Path) -> str | None:
    """Return the checkpoint to go on from; one that a kill left half written is removed."""
    for path in work.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
    complete = complete_checkpoints(work)
    return str(complete[-1]) if complete else None


def copy_adapter(checkpoint: Path, target: Path, *, model_name: str) -> None:
    """Copy an adapter without what differs between processes and machines: set order and local paths."""
    target.mkdir(exist_ok=True)
    shutil.copy2(checkpoint / WEIGHTS, target)
    config = json.loads((checkpoint / CONFIG).read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    config["base_model_name_or_path"] = None if Path(model_name).exists() else model_name
    (target / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def move_model(checkpoint: Path, target: Path, *, policy: Policy) -> None:
    """Make a checkpoint's weights a model by itself, as any program that reads Hugging Face's format can load it.

    A second call, after a kill, does what is left.

    Args:
        checkpoint: Of a trainer, which changes a model's configuration for its own purposes. Its weights are moved:
            a copy would double gigabytes, and training goes on from the optimizer's.
        target: Directory to write to.
        policy: What training started from; the configuration is taken from there.
    """
    shutil.copytree(policy.tokenizer_path, target, dirs_exist_ok=True)
    for path in checkpoint.glob("*.safetensors*"):
        path.replace(target / path.name)
    config = AutoConfig.from_pretrained(policy.model_path, revision=policy.revision)
    config.dtype = policy.dtype
    config.save_pretrained(target)
    generation = cached_file(policy.model_path, GENERATION_CONFIG_NAME, revision=policy.revision)
    shutil.copyfile(generation, target / GENERATION_CONFIG_NAME)


def micro_batch_edges(count: int, size: int) -> list[tuple[int, int]]:
    """Return [start, stop) of micro-batches of at most `size` rows each, whose sizes differ by at most one."""
    number = math.ceil(count / size)
    edges = [round(index * count / number) for index in range(number + 1)]
    return list(pairwise(edges))


def unpack_micro_batch(examples: list[dict[str, list[Any]]]) -> list[dict[str, Any]]:
    """Return the pairs of the one row, a micro-batch, that a data loader hands over."""
    (micro_batch,) = examples
    return [dict(zip(micro_batch, values, strict=True)) for values in zip(*micro_batch.values(), strict=True)]


def write_metrics(path: Path, log_history: list[dict[str, Any]]) -> None:
    """Write a line per step; the file's existence means that all adapters were copied before."""
    # trl's count of tokens starts anew when training is resumed.
    history = [
        {name: value for name, value in sorted(entry.items()) if name != "num_tokens"}
        for entry in log_history
        if "loss" in entry
    ]
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(entry) + "\n" for entry in history))
    temporary.replace(path)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return what `write_metrics` wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]
