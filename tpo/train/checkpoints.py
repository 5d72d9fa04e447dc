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
# What only resuming needs: the state of torch's optimizer, FSDP's shards, DeepSpeed's state.
STATE = ("optimizer.pt", "optimizer_*", "pytorch_model_fsdp_*", "global_step*")


class ResumesInPlace(Trainer):  # type: ignore[misc]
    """A trainer that saves the trained weights, sharded or not, and resumes into the existing parameters."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Save the trained weights only; under FSDP, transformers would gather the frozen ones too, or save nothing.

        A whole model is saved whole, with the towers that text does not train.
        """
        if not self.is_fsdp_enabled:
            super().save_model(output_dir, _internal_call)
            return
        weights = {}
        is_adapter = hasattr(self.model, "peft_config")
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad or not is_adapter:
                whole = parameter.full_tensor() if isinstance(parameter, DTensor) else parameter
                if self.args.should_save:
                    weights[name] = whole.detach().cpu()
        if self.args.should_save:
            self._save(output_dir, state_dict=weights)

    def _load_from_checkpoint(self, *_: Any, **__: Any) -> None:
        """Do nothing: the optimizer's state holds the weights in float32 and restores them.

        peft would load an adapter into new parameters, while the optimizer would continue to update the old ones.
        """


class MarkComplete(TrainerCallback):  # type: ignore[misc]
    """Marks checkpoints that were written whole."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint once every process has written its part, and delete the state in the ones before it.

        Training resumes from the last checkpoint only, and a whole model's optimizer state is six times its weights.
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
    """Return the checkpoint to resume from; delete those that a kill left incomplete."""
    for path in work.glob("checkpoint-*"):
        if not (path / COMPLETE).exists():
            shutil.rmtree(path)
    complete = complete_checkpoints(work)
    return str(complete[-1]) if complete else None


def copy_adapter(checkpoint: Path, target: Path, *, policy: Policy) -> None:
    """Copy an adapter, without what differs between processes and machines (set order, paths of artifacts).

    It names its base model as the user did, a Hub name with the revision, a directory, or the embedded model: peft and
    what serves adapters look there.

    Args:
        checkpoint: As the trainer saved it.
        target: Directory to write to.
        policy: The policy that training started from.
    """
    target.mkdir(exist_ok=True)
    shutil.copy2(checkpoint / WEIGHTS, target)
    config = json.loads((checkpoint / CONFIG).read_text())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    config["base_model_name_or_path"] = policy.seed_name
    config["revision"] = policy.revision
    (target / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")


def move_model(checkpoint: Path, target: Path, *, policy: Policy) -> None:
    """Turn a checkpoint's weights into a model in Hugging Face's format, complete with tokenizer and configuration.

    A second call, after a kill, completes the first.

    Args:
        checkpoint: Its weights are moved, not copied: they are gigabytes, and training resumes from the optimizer's.
            The trainer changed its configuration, which is therefore not used.
        target: Directory to write to.
        policy: The policy that training started from, whose configuration is used.
    """
    shutil.copytree(policy.tokenizer_path, target, dirs_exist_ok=True)
    for path in checkpoint.glob("*.safetensors*"):
        path.replace(target / path.name)
    config = AutoConfig.from_pretrained(policy.model_path, revision=policy.revision, trust_remote_code=False)
    config.dtype = policy.dtype
    config.save_pretrained(target)
    generation = cached_file(
        policy.model_path,
        GENERATION_CONFIG_NAME,
        revision=policy.revision,
        _raise_exceptions_for_missing_entries=False,
    )
    if generation is not None:  # some models have none
        shutil.copyfile(generation, target / GENERATION_CONFIG_NAME)


def micro_batch_edges(count: int, size: int) -> list[tuple[int, int]]:
    """Return [start, stop) of micro-batches of at most `size` rows each, whose sizes differ by at most one."""
    number = math.ceil(count / size)
    edges = [round(index * count / number) for index in range(number + 1)]
    return list(pairwise(edges))


def unpack_micro_batch(examples: list[dict[str, list[Any]]]) -> list[dict[str, Any]]:
    """Return the pairs of the data loader's one row, which holds a micro-batch."""
    (micro_batch,) = examples
    return [dict(zip(micro_batch, values, strict=True)) for values in zip(*micro_batch.values(), strict=True)]


def write_metrics(path: Path, log_history: list[dict[str, Any]]) -> None:
    """Write a line per step. The file is written after all adapters were copied, and so vouches for them."""
    temporary = path.with_suffix(".tmp")
    temporary.write_text("".join(json.dumps(entry) + "\n" for entry in steps_of(log_history)))
    temporary.replace(path)


def steps_of(log_history: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return trl's entries of steps, without its count of tokens, which restarts at 0 when training is resumed."""
    return [
        {name: value for name, value in sorted(entry.items()) if name != "num_tokens"}
        for entry in log_history
        if "loss" in entry
    ]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return what `write_metrics` wrote."""
    return [json.loads(line) for line in path.read_text().splitlines()]
