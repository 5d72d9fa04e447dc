"""What the trainings of policies and of reward models share: adapters that are saved whole and resumed in place."""

import json
import math
import shutil
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from peft import get_peft_model_state_dict
from safetensors.torch import load_file
from transformers import TrainerCallback

COMPLETE = "complete"  # marks a checkpoint whose every file was written
WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"  # peft's names


class ResumesInPlace:
    """A trainer that resumes an adapter into the parameters that the optimizer already holds."""

    model: Any

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, *_: Any, **__: Any) -> None:
        # peft would make new parameters, in float32, and the optimizer would go on with the old ones.
        saved = load_file(Path(resume_from_checkpoint) / WEIGHTS)
        for name, tensor in get_peft_model_state_dict(self.model).items():
            tensor.copy_(saved[name])


class MarkComplete(TrainerCallback):  # type: ignore[misc]
    """Marks checkpoints that were written whole."""

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Mark the checkpoint just written."""
        (Path(args.output_dir) / f"checkpoint-{state.global_step}" / COMPLETE).touch()


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


def lora_targets(text: str) -> str | list[str]:
    """Return peft's `target_modules`: "all-linear" as it is, else the names between commas."""
    return text if text == "all-linear" else [name.strip() for name in text.split(",")]


def micro_batch_edges(count: int, size: int) -> list[tuple[int, int]]:
    """Return [start, stop) of micro-batches of at most `size` rows each, whose sizes differ by at most one."""
    number = math.ceil(count / size)
    edges = [round(index * count / number) for index in range(number + 1)]
    return list(pairwise(edges))
