"""The group `hardware`: settings by the memory of a card, and `hardware=auto`, which looks at the card that is there.

A preset is for cards on which nine tenths of its nominal memory are free: of a card of 24 GiB, cards report 22.5 to
24 GiB, and vLLM takes nine tenths. `auto` is replaced by the option that it stands for before anything is composed, so
that a run is the same as with the option itself, and its artifacts are. The options' numbers follow from the memory
model (`tpo.plan.memory`); tests/config/test_hardware.py computes them.
"""

import sys
from collections.abc import Sequence
from functools import cache

from tpo.config.fields import ConfigError
from tpo.store.gpus import visible_gpus

AUTO = "hardware=auto"
CARDS = {"80gb": 80, "48gb": 48, "24gb": 24, "laptop": 8}  # nominal GiB, the largest first
FREE = 0.9  # of a preset's nominal memory


def resolve_hardware(overrides: Sequence[str]) -> list[str]:
    """Return the words of a command line with `hardware=auto` replaced by the option for the card that is there.

    Without a GPU the word is left out, and the settings stay as they are.

    Raises:
        ConfigError: If the card has less memory free than any preset is for.
    """
    chosen = _choose() if AUTO in overrides else None
    replaced = [f"hardware={chosen}" if word == AUTO and chosen else word for word in overrides]
    return [word for word in replaced if word != AUTO]


@cache
def _choose() -> str | None:
    """Return the option for the first visible GPU, and say which on stderr, once."""
    gpus = visible_gpus()
    if not gpus:
        print(f"{AUTO}: no GPU is visible, so the settings stay as they are", file=sys.stderr)
        return None
    gpu = gpus[0]
    name = preset_for(gpu.free_gib)
    what = f"{gpu.name} has {gpu.free_gib:.1f} of {gpu.total_gib:.1f} GiB free"
    if name is None:
        raise ConfigError(
            f"{AUTO}: {what}, less than the {FREE * CARDS['laptop']:.1f} that hardware=laptop is for: end what uses "
            "it (nvidia-smi lists that), or set train.micro_batch_size and the engine's memory by hand"
        )
    print(f"{AUTO}: hardware={name}, since {what}", file=sys.stderr)
    return name


def preset_for(free_gib: float) -> str | None:
    """Return the option for a card with so much free memory; None where it is too little for any."""
    return next((name for name, nominal in CARDS.items() if free_gib >= FREE * nominal), None)
