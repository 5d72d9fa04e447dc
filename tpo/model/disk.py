"""What a run writes to disk, by part, from its settings and the sizes of its models; expected, not measured.

A run that finds its disk full ends without losing what it has, and goes on when there is room: hours may have passed.
So `tpo.run` compares before it starts, and `tpo.doctor` shows the parts.
"""

import logging
import shutil
from pathlib import Path
from typing import NamedTuple

from tpo.config.schema import Config
from tpo.model.architecture import find_architecture

log = logging.getLogger(__name__)

PROMPT = 300  # tokens of instruction, thought prompt and chat template: an assumption
USED = 0.4  # of the budget of a completion, on average: an assumption
ROW_BYTES = 14  # of an id in the rows of completions, its text included: 18.6 kB for 1,350 ids were measured
GIB = 2**30


class Part(NamedTuple):
    """Bytes in a directory, and what they are."""

    name: str
    directory: Path
    size: float


def hub_cache() -> Path:
    """Return where the Hub's files are kept."""
    from huggingface_hub.constants import HF_HUB_CACHE

    return Path(HF_HUB_CACHE)


def has_weights(name: str, *, revision: str | None) -> bool:
    """Return whether a model's weights are here: it is a directory, or the Hub's cache has the file or its index."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    if Path(name).is_dir():
        return True
    names = ("model.safetensors", "model.safetensors.index.json")
    try:
        return any(isinstance(try_to_load_from_cache(name, file, revision=revision), str) for file in names)
    except HFValidationError:
        return False


def hub_models(config: Config) -> dict[str, str | None]:
    """Return the models of the Hub that a run reads, each with its revision: the seed model, and the judges' own."""
    found = {config.model.name: config.model.revision} if config.model.source == "pretrained" else {}
    judges = [config.judge, getattr(config.eval, "judge", None)]
    for judge in judges:  # members of an ensemble are added while it is gone through
        judges += getattr(judge, "members", {}).values()
        name = getattr(judge, "name", None)
        if name is not None and getattr(judge, "backend", "vllm") == "vllm":
            found[name] = judge.revision  # type: ignore[union-attr]
    return {name: revision for name, revision in found.items() if not Path(name).is_dir()}


def disk_parts(config: Config) -> list[Part]:
    """Return what a run of this config adds to the disk where nothing of it is there yet.

    - Weights from the Hub that are not cached: 2 bytes each; a checkpoint may hold a tied head twice.
    - The artifact of the seed model: 2 bytes a weight, where it is quantized or embedded.
    - What is trained: epochs x iterations x 2 bytes a trained weight, and 12 bytes more (twice that for all weights,
      since a checkpoint is written before the last one goes) while an iteration trains.
    - Completions: 14 bytes a token, prompts included, of expected length.

    Models whose sizes are unknown count nothing.
    """
    artifacts = Path(config.artifacts_dir)
    parts = []
    for name, revision in hub_models(config).items():
        sizes = find_architecture(name, revision=revision)
        if sizes is not None and not has_weights(name, revision=revision):
            stored = sizes.num_linear + sizes.num_other + (sizes.num_head if sizes.is_tied else 0)
            parts.append(Part(f"{name}, from the Hub", hub_cache(), 2.0 * stored))
    model = find_architecture(config.model.name, revision=config.model.revision)
    train = config.train
    if model is not None:
        total = model.num_linear + model.num_other
        if config.model.quantization != "none" or config.model.source == "embedded":
            parts.append(Part("seed model as it is sampled from", artifacts, 2.0 * total))
        trained = total if train.is_full else model.num_adapter(train.lora_rank)
        name = "models after each epoch" if train.is_full else "adapters after each epoch"
        parts.append(Part(name, artifacts, 2.0 * trained * train.num_epochs * config.num_iterations))
        if config.num_iterations:
            parts.append(Part("optimizer, while training", artifacts, 12.0 * trained * (2 if train.is_full else 1)))
    parts.append(Part("completions", artifacts, ROW_BYTES * _expected_tokens(config)))
    return parts


def _expected_tokens(config: Config) -> float:
    """Return the tokens of all completions and their prompts."""
    prompts, sample, evaluation = config.prompts, config.sample, config.eval
    train, iterations = config.train, config.num_iterations
    selects = train.select == "validation" and train.num_epochs > 1
    completions = iterations * prompts.num_train * sample.num_samples
    completions += iterations * prompts.num_validation * evaluation.num_samples * (train.num_epochs if selects else 0)
    completions += prompts.num_test * ((iterations + 1) * evaluation.num_samples + evaluation.baseline_samples)
    return completions * (PROMPT + USED * (sample.max_thought_tokens + sample.max_response_tokens))


def existing(path: Path) -> Path:
    """Return the nearest directory above a path that exists."""
    path = path.absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())


class Room(NamedTuple):
    """What one file system has, and what the parts that lie on it need."""

    place: Path
    free: int
    needed: float


def rooms(parts: list[Part]) -> list[Room]:
    """Return free and needed bytes of every file system that the parts lie on."""
    found: dict[int, Room] = {}
    for part in parts:
        place = existing(part.directory)
        device = place.stat().st_dev
        room = found.get(device) or Room(place, shutil.disk_usage(place).free, 0.0)
        found[device] = room._replace(needed=room.needed + part.size)
    return list(found.values())


def warn_of_full_disk(config: Config) -> None:
    """Warn where less is free than a run may write, before hours go by; what a killed run has written counts twice."""
    for room in rooms(disk_parts(config)):
        if room.free < room.needed:
            log.warning(
                "%s has %.1f GiB free, and a run from its beginning may write %.1f GiB (python -m tpo.doctor shows the "
                "parts): make room, or move artifacts_dir",
                room.place,
                room.free / GIB,
                room.needed / GIB,
            )
