"""A GPU by what counts for a plan: memory, arithmetic and the speed of its memory, as its maker states them."""

import math
from typing import NamedTuple

from tpo.config.fields import near
from tpo.store.errors import TpoError
from tpo.store.gpus import Gpu


class Card(NamedTuple):
    """A GPU; `tflops` and `bandwidth` are None where they are not known.

    Attributes:
        name: Of the GPU.
        memory: In GiB.
        tflops: 10^12 operations a second in bf16 with float32 sums, without sparsity.
        bandwidth: Of its memory, GB/s.
    """

    name: str
    memory: float
    tflops: float | None
    bandwidth: float | None


# From the makers' data sheets; the longest name that a driver's name contains counts.
CARDS = {
    card.name: card
    for card in (
        Card("RTX 3090", 24, 71, 936),
        Card("RTX 4090", 24, 165, 1008),
        Card("RTX 5090", 32, 209, 1792),
        Card("A10", 24, 125, 600),
        Card("A10G", 24, 70, 600),
        Card("L4", 24, 121, 300),
        Card("A40", 48, 150, 696),
        Card("RTX A6000", 48, 155, 768),
        Card("L40S", 48, 362, 864),
        Card("A100", 80, 312, 1935),
        Card("H100 PCIe", 80, 756, 2000),
        Card("H100", 80, 989, 3350),
        Card("H200", 141, 989, 4800),
        Card("B200", 180, 2250, 8000),
    )
}
# What stands for a class of cards, named as the presets of the group hardware.
CLASSES = {"24gb": CARDS["RTX 4090"], "48gb": CARDS["RTX A6000"], "80gb": CARDS["H100"]}
KEYS = {"name", "memory", "tflops", "bandwidth"}


def known(name: str) -> Card | None:
    """Return what the longest name in `CARDS` says that is a part of a driver's name, as "A10G" of "NVIDIA A10G"."""
    words = f" {name.lower().replace('-', ' ')} "
    fitting = [card for card in CARDS.values() if f" {card.name.lower()} " in words]
    return max(fitting, key=lambda card: len(card.name), default=None)


def of_gpu(gpu: Gpu) -> Card:
    """Return the card that the driver names, with the memory that it states."""
    card = known(gpu.name)
    return Card(gpu.name, gpu.total_gib, card and card.tflops, card and card.bandwidth)


def parse(text: str) -> Card:
    """Return a card as it is given by hand: "24gb", "RTX 3090" or "name=mine,memory=32,tflops=200,bandwidth=1000".

    Raises:
        TpoError: If nothing is known of the name, or a key or its value is wrong.
    """
    if "=" not in text:
        card = CLASSES.get(text.lower()) or known(text)
        if card is None:
            names = [*CLASSES, *CARDS]
            raise TpoError(
                f"--card {text}: unknown{near(text, names)}; known are {', '.join(names)}; of another give "
                "memory=GiB,tflops=bf16 TFLOP/s,bandwidth=GB/s"
            )
        return card
    parts = [part.strip().partition("=")[::2] for part in text.split(",")]
    given = dict(parts)
    if len(given) < len(parts):
        raise TpoError(f"--card {text}: a key stands there twice")
    if wrong := given.keys() - KEYS:
        raise TpoError(f"--card {text}: there is no {', '.join(sorted(wrong))}; the keys are {', '.join(sorted(KEYS))}")
    base = known(given.get("name", ""))
    numbers: dict[str, float | None] = {} if base is None else base._asdict()
    for key in given.keys() - {"name"}:
        try:
            numbers[key] = float(given[key])
        except ValueError:
            numbers[key] = 0.0
        if not 0 < (numbers[key] or 0) < math.inf:
            raise TpoError(f"--card: {key}={given[key]} is no number above 0")
    if numbers.get("memory") is None:
        raise TpoError(f"--card {text}: give its memory in GiB, memory=...")
    memory = numbers["memory"]
    assert memory is not None
    return Card(given.get("name", f"{memory:g} GiB"), memory, numbers.get("tflops"), numbers.get("bandwidth"))
