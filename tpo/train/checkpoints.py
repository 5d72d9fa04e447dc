"""Checkpoints of a training: saved whole, resumed in place, and turned into the adapter or model of an epoch.

A checkpoint's marker is written last, when the disk holds its files, and has their digests. So one that was torn,
damaged or edited is recognized, and training goes on from the one before it.
"""

import json
import logging
import os
import shutil
from pathlib import Path
from typing import Any

from torch.distributed.tensor import DTensor
from transformers import AutoConfig, Trainer, TrainerCallback
from transformers.utils import GENERATION_CONFIG_NAME, cached_file

from tpo.model.policy import Policy
from tpo.store.digests import DIGESTS, unlike, vouch

log = logging.getLogger(__name__)

COMPLETE = "complete.json"  # in a checkpoint: the digests of all its files
TRAINED = "trained.json"  # beside the checkpoints: the digests of what was made of them
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

    def __init__(self, *, num_states: int) -> None:
        """Set how many of the last checkpoints keep what only resuming needs."""
        self.num_states = num_states

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint once every process has written its part, and delete the state in old ones."""
        args.distributed_state.wait_for_everyone()
        if args.process_index == 0:
            work = Path(args.output_dir)
            checkpoint = work / f"checkpoint-{state.global_step}"
            vouch(checkpoint / COMPLETE, checkpoint, files_below(checkpoint) - {COMPLETE, DIGESTS})
            for old in complete_checkpoints(work)[: -self.num_states]:
                for path in (path for name in STATE for path in old.glob(name)):
                    shutil.rmtree(path) if path.is_dir() else path.unlink()


def files_below(folder: Path) -> set[str]:
    """Return the names of all files in a folder and below it, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def complete_checkpoints(work: Path) -> list[Path]:
    """Return the complete checkpoints in order of their step."""
    return [path for path in _ordered(work) if (path / COMPLETE).exists()]


def _ordered(work: Path) -> list[Path]:
    return sorted(work.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))


def last_complete(work: Path) -> str | None:
    """Return the checkpoint to resume from, with all before it whole; delete what a kill left, or is damaged.

    Where only one is damaged that training does not need to resume, its epoch is trained again nevertheless: its
    weights are the result.
    """
    resumable: list[Path] = []
    whole: list[Path] = []
    for path in _ordered(work):
        lost = unlike(path / COMPLETE, path)
        if lost is None or any(not _is_state(name) for name in lost):
            break
        whole.append(path)
        if not lost:
            resumable = list(whole)
    for path in _ordered(work):
        if path not in resumable:
            if (path / COMPLETE).exists():
                at = f"goes on from {resumable[-1].name}" if resumable else "begins anew"
                log.warning("%s, or one before it, is damaged: training %s", path, at)
            shutil.rmtree(path)
    return str(resumable[-1]) if resumable else None


def _is_state(name: str) -> bool:
    """Return whether a file of a checkpoint is of what only resuming needs."""
    return any(Path(name.partition("/")[0]).match(pattern) for pattern in STATE)


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


def link_model(checkpoint: Path, target: Path, *, policy: Policy) -> None:
    """Make of a checkpoint's weights a model in Hugging Face's format, complete with tokenizer and configuration.

    A second call, after a kill, completes the first.

    Args:
        checkpoint: Its weights are linked, where the file system can, and not copied: they are gigabytes. The trainer
            changed its configuration, which is therefore not used.
        target: Directory to write to.
        policy: The policy that training started from, whose configuration is used.
    """
    shutil.copytree(policy.tokenizer_path, target, dirs_exist_ok=True)
    for path in checkpoint.glob("*.safetensors*"):
        (target / path.name).unlink(missing_ok=True)
        try:
            os.link(path, target / path.name)
        except OSError:  # no hard links here, or none between these folders
            shutil.copy2(path, target / path.name)
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


def write_metrics(path: Path, log_history: list[dict[str, Any]]) -> None:
    """Write a line per step."""
    path.write_text("".join(json.dumps(entry) + "\n" for entry in steps_of(log_history)))


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
