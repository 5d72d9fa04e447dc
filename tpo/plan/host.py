"""What a run takes of the host's memory where its model computes on the CPU, as a range by step.

The low end has prompts of a third of what `PROMPT` assumes and completions of `USED` of their budget, the high end both
in full. What does not depend on lengths was measured with the embedded model (experiments/LOG.md). All processes of a
run are counted, pages that they share once.
"""

from typing import NamedTuple

from tpo.config.schema import Config
from tpo.model.architecture import Architecture
from tpo.model.disk import GIB, PROMPT, USED
from tpo.plan.memory import TRAINED, Pair, activations
from tpo.store.processes.cores import AUTO

MAX_COPIED = 2**30  # tpo.model.frozen.MAX_PARAMETERS, which a test compares: importing it would import torch
# GiB at least and at most, measured: this process with torch, transformers and trl; the server that workers are forked
# from; and of each worker, or of this process where it samples itself, oneDNN's kernels, logits and prompts that were
# just prefilled.
PROGRAM, FORK_SERVER, WORKER = (0.7, 1.2), (0.2, 0.5), (0.3, 1.0)


class HostNeed(NamedTuple):
    """Bytes of the host that a step takes at most: between these."""

    step: str
    low: float
    high: float


def host_needs(config: Config, model: Architecture, *, num_cores: int) -> list[HostNeed]:
    """Return what preparing, sampling in plain torch and training take of the host.

    Args:
        config: Of the run.
        model: Sizes of its model.
        num_cores: Of the host, that the run may use.
    """
    total = model.num_linear + model.num_other
    # It is saved in one piece.
    found = [_need("prepare", [PROGRAM, FORK_SERVER], [(2.0 * total, 4.0 * total)])]
    if config.engine.kind == "torch":
        found.append(_sampling(config, model, num_cores=num_cores))
    if config.num_iterations:
        found.append(_training(config, model))
    return found


def _need(step: str, measured: list[tuple[float, float]], parts: list[tuple[float, float]]) -> HostNeed:
    low, high = (GIB * sum(part[end] for part in measured) + sum(part[end] for part in parts) for end in (0, 1))
    return HostNeed(step, low, high)


def _sampling(config: Config, model: Architecture, *, num_cores: int) -> HostNeed:
    engine, sample, prompts = config.engine, config.sample, config.prompts
    wanted = getattr(engine, "num_workers", AUTO)
    workers = num_cores if wanted == AUTO else int(wanted)
    rows = min(getattr(engine, "max_sequences", 1), max(prompts.num_train * sample.num_samples, prompts.num_test))
    short, long = _lengths(config)
    cache = (float(rows * sum(short) * model.kv_bytes), float(rows * sum(long) * model.kv_bytes))
    weights = 2.0 * (model.num_linear + model.num_other)  # as they are in the file, and packed
    return _need("sample", [PROGRAM, FORK_SERVER, *[WORKER] * workers], [(weights, 2 * weights), cache])


def _training(config: Config, model: Architecture) -> HostNeed:
    train = config.train
    ends = []
    for prompt, completion in _lengths(config):
        taken = activations(
            model,
            [Pair(prompt, completion, completion)] * train.micro_batch_size,
            is_checkpointed=train.gradient_checkpointing,
            rank=train.lora_rank,
            is_quantized=config.model.quantization == "nf4",
        )
        ends.append(float(sum(taken)))
    total = model.num_linear + model.num_other
    base = 0.0 if train.is_full else model.base_bytes(config.model.quantization)
    trained = TRAINED * (total if train.is_full else model.num_adapter(train.lora_rank))
    copies = (
        4.0 * total if total <= MAX_COPIED else 0.0
    )  # of what is not trained, in the order of the CPU's kernels, for each direction
    return _need("train", [PROGRAM, FORK_SERVER], [(base + trained, base + trained + copies), (ends[0], ends[1])])


def _lengths(config: Config) -> tuple[tuple[int, int], tuple[int, int]]:
    """Return tokens of a prompt and of a completion: short and long ones."""
    budget = config.sample.max_thought_tokens + config.sample.max_response_tokens
    longest = min(budget, config.pairs.max_tokens - PROMPT)
    return (PROMPT // 3, round(USED * longest)), (PROMPT, longest)
