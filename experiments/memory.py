"""What fits on a GPU of 24, 48 or 80 GiB? Training, sampling and judging of an 8B model, by part.

python -m experiments.memory            prints the tables
python -m experiments.memory --write    and puts them into experiments/memory.md

Another architecture is given by its numbers (`--help`). Everything is computed from shapes by `tpo.plan.memory`; what
autograd keeps is a closed formula, which tests/test_memory_table.py compares with the project's own passes.
"""

import argparse
from dataclasses import fields
from itertools import product
from pathlib import Path
from typing import NamedTuple

from omegaconf import OmegaConf
from rich.console import Console
from rich.table import Table as Printed

from tpo.model.architecture import RANK, Architecture
from tpo.model.disk import GIB, PROMPT
from tpo.plan.memory import (
    TRAINED,
    Pair,
    activations,
    available,
    judge_bytes,
    most_pairs,
    sequences_at_once,
    training_bytes,
)

REPOSITORY = Path(__file__).parent.parent
RECORD, ENGINE = REPOSITORY / "experiments" / "memory.md", REPOSITORY / "conf" / "engine" / "vllm.yaml"
BEGIN, END = "<!-- tables: python -m experiments.memory --write -->", "<!-- end of tables -->"
CARDS = (24, 48, 80)  # of so many GiB
COMPLETION = 2048  # conf/sample/paper.yaml: thought and response share it
JUDGE_TOKENS = 16384  # conf/judge/armorm.yaml, batch_tokens


class Table(NamedTuple):
    """What is printed and recorded."""

    title: str
    header: list[str]
    rows: list[list[str]]

    def markdown(self) -> str:
        """Return it in Markdown."""
        lines = [self.header, ["---"] * len(self.header), *self.rows]
        return f"**{self.title}**\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines)


def gib(size: float) -> str:
    """Return bytes as GiB."""
    return f"{size / GIB:.2f}"


def tables(model: Architecture) -> list[Table]:
    """Return what is printed and recorded."""
    sizes = [Pair(PROMPT, *[length] * 2) for length in (350, 850, COMPLETION)]
    names = [f"{sum(pair):,} tokens" for pair in sizes]
    adapter, total = model.num_adapter(), model.num_linear + model.num_other
    each = "itself, gradient, master copy, Adam's moments"
    weights = [
        ["base, NF4", gib(model.base_bytes("nf4")), f"{total:,} weights, {model.num_other:,} of them in 16 bits"],
        ["base, bf16", gib(model.base_bytes("none")), "2 bytes a weight"],
        ["LoRA", gib(TRAINED * adapter), f"r={RANK}, {adapter:,} weights, {TRAINED} bytes each"],
        ["full fine-tuning", gib(TRAINED * total), f"{TRAINED} bytes each: {each}"],
    ]
    passes, fits, settings, inference = [], [], [], []
    for is_checkpointed in (True, False):
        mode = str(is_checkpointed).lower()
        taken = [activations(model, [pair], is_checkpointed=is_checkpointed) for pair in sizes]
        passes.append([mode, "kept for the backward pass", *(gib(part.kept) for part in taken)])
        passes.append([mode, "besides, at the worst moment", *(gib(part.working) for part in taken)])
    for card, quantization in product(CARDS, ("nf4", "none")):
        most = {}
        for is_checkpointed in (True, False):
            given = {"quantization": quantization, "is_checkpointed": is_checkpointed}
            counts = [most_pairs(model, pair, card=card, **given) for pair in sizes]
            fits.append([f"{card} GiB", quantization, str(is_checkpointed).lower(), *(str(n or "-") for n in counts)])
            most[is_checkpointed] = counts[-1]
        checkpoints, count = not most[False], most[False] or most[True]
        size = 2 ** (count.bit_length() - 1) if count else 0  # train.batch_size is a multiple of it
        peak = training_bytes(model, [sizes[-1]] * max(size, 1), quantization=quantization, is_checkpointed=checkpoints)
        settings.append([f"{card} GiB", quantization, str(size or "does not fit"), str(checkpoints).lower(), gib(peak)])
    engine, sampled = OmegaConf.load(ENGINE), PROMPT + COMPLETION
    for card in CARDS:
        held = sequences_at_once(model, card=card, utilization=engine.gpu_memory_utilization, tokens=sampled)
        judging = judge_bytes(model, JUDGE_TOKENS)
        judge = f"{gib(judging)}: {'fits' if judging <= available(card) else 'does not fit'}"
        inference.append([f"{card} GiB", str(held), str(min(held, engine.max_num_seqs)), judge])
    cards, checkpointing = ["GPU", "model.quantization"], "train.gradient_checkpointing"
    cache, longest = f"sequences of {sampled:,} tokens in vLLM's cache", f"{sum(sizes[-1]):,} tokens"
    return [
        Table("Weights and what training adds", ["part", "GiB", "which is"], weights),
        Table("Activations of one pair, GiB", [checkpointing, "part", *names], passes),
        Table("Pairs that fit in one pass, up to 64", [*cards, checkpointing, *names], fits),
        Table(f"Settings for pairs of {longest}", [*cards, "train.micro_batch_size", checkpointing, "GiB"], settings),
        Table("Sampling and judging", ["GPU", cache, "decoded together", "ArmoRM, GiB"], inference),
    ]


def main(options: argparse.Namespace) -> None:
    """Print the tables, and record them."""
    found = tables(Architecture(**{field.name: getattr(options, field.name) for field in fields(Architecture)}))
    for table in found:
        printed = Printed(*table.header, title=table.title)
        for row in table.rows:
            printed.add_row(*row)
        Console().print(printed)
    if options.write:
        before, after = RECORD.read_text().split(BEGIN)[0], RECORD.read_text().split(END)[1]
        RECORD.write_text(before + "\n\n".join([BEGIN, *(table.markdown() for table in found), END]) + after)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for field in fields(Architecture):  # is_tied, norms_heads: 0 or 1
        parser.add_argument(f"--{field.name.replace('_', '-')}", type=int, default=int(field.default))
    parser.add_argument("--write", action="store_true", help="put the tables into experiments/memory.md")
    main(parser.parse_args())
