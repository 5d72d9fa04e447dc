"""What the stages of a run take of a card's memory, by part, beside what the card has."""

from typing import NamedTuple

from tpo.config.schema import Config
from tpo.judge.judges.reward_model import RewardModelJudge
from tpo.model.architecture import Architecture, find_architecture
from tpo.model.disk import GIB, PROMPT
from tpo.plan.memory import (
    CONTEXT,
    FRAGMENTATION,
    TRAINED,
    VLLM_WORKSPACE,
    Pair,
    activations,
    judge_bytes,
    sequences_at_once,
)

SHARDED = {"FSDP", "DEEPSPEED"}


class Need(NamedTuple):
    """A stage's memory.

    Attributes:
        stage: Of the run.
        parts: GiB by what they are.
        fits: Whether their sum does, with what fragmentation takes.
        advice: What to do where it does not fit.
    """

    stage: str
    parts: dict[str, float]
    fits: bool
    advice: str

    @property
    def total(self) -> float:
        """GiB of all parts."""
        return sum(self.parts.values())


def memory_needs(config: Config, memory: float) -> list[Need] | None:
    """Return what preparing, sampling, judging and training take of a card of `memory` GiB.

    Returns:
        None where the seed model's sizes are unknown.
    """
    model = find_architecture(config.model.name, revision=config.model.revision)
    if model is None:
        return None
    found = [_sampling(config, model, memory)]
    if config.model.quantization == "nf4":
        # Layers are replaced one by one, and the old ones live until the last is.
        weights = {"16-bit weights": model.base_bytes("none"), "NF4 weights": model.base_bytes("nf4")}
        found.insert(0, _need("model", weights | {"CUDA": CONTEXT}, memory, "quantize on a larger card or a CPU"))
    for key, judge in (("judge", config.judge), ("eval.judge", getattr(config.eval, "judge", None))):
        if isinstance(judge, RewardModelJudge):
            sizes = find_architecture(judge.name, revision=judge.revision)
            if sizes is not None:
                found.append(_judging(key, sizes, judge.batch_tokens, memory))
    if config.num_iterations:
        found.append(_training(config, model, memory))
    return found


def _need(stage: str, parts: dict[str, float], memory: float, advice: str) -> Need:
    used = sum(parts.values()) - parts.get("CUDA", 0)
    fits = used <= memory * GIB * (1 - FRAGMENTATION) - parts.get("CUDA", 0)
    return Need(stage, {name: size / GIB for name, size in parts.items()}, fits, advice)


def _judging(key: str, model: Architecture, tokens: int, memory: float) -> Need:
    weights = judge_bytes(model, 0)
    parts = {"weights": weights, "activations": judge_bytes(model, tokens) - weights, "CUDA": CONTEXT}
    return _need(key, parts, memory, f"a smaller {key}.batch_tokens, or a smaller judge")


def _sampling(config: Config, model: Architecture, memory: float) -> Need:
    longest = PROMPT + config.sample.max_thought_tokens + config.sample.max_response_tokens
    quantization = "none" if getattr(config.engine, "quantization", "none") == "none" else "nf4"
    weights, adapter = model.base_bytes(quantization), 2.0 * model.num_adapter(config.train.lora_rank)
    adapter = 0.0 if config.train.is_full else adapter
    shards = getattr(config.engine, "tensor_parallel_size", 1)
    share = getattr(config.engine, "gpu_memory_utilization", None)
    name = "16-bit weights" if quantization == "none" else "NF4 weights"
    parts = {name: weights / shards, "adapter": adapter / shards}
    if share is None:  # engine=torch: one whole sequence at least
        parts |= {"cache of one sequence": float(longest * model.kv_bytes), "CUDA": CONTEXT}
        return _need("sample", parts, memory, "a smaller model")
    cache = share * memory * GIB - sum(parts.values()) - VLLM_WORKSPACE
    held = sequences_at_once(model, card=memory * shards, utilization=share, tokens=longest, quantization=quantization)
    parts |= {"vLLM's workspace": VLLM_WORKSPACE, f"cache, {held} sequences of {longest:,}": max(cache, 0.0)}
    need = _need(
        "sample",
        parts,
        memory,
        "a larger card, engine.quantization=bitsandbytes, or engine.tensor_parallel_size above 1",
    )
    return need._replace(fits=held > 0 and share <= 1)


def _training(config: Config, model: Architecture, memory: float) -> Need:
    train = config.train
    completion = min(
        config.sample.max_thought_tokens + config.sample.max_response_tokens, config.pairs.max_tokens - PROMPT
    )
    pairs = [Pair(PROMPT, completion, completion)] * train.micro_batch_size
    taken = activations(
        model,
        pairs,
        is_checkpointed=train.gradient_checkpointing,
        rank=train.lora_rank,
        is_quantized=config.model.quantization == "nf4",
    )
    shards = train.num_processes if config.accelerate.distributed_type in SHARDED else 1
    total = model.num_linear + model.num_other
    base = 0.0 if train.is_full else model.base_bytes(config.model.quantization)
    trained = TRAINED * (total if train.is_full else model.num_adapter(train.lora_rank))
    kept = f"kept for {train.micro_batch_size} longest pair{'s' * (train.micro_batch_size > 1)}"
    parts = {
        "base": base / shards,
        "trained weights, gradients, optimizer": trained / shards,
        kept: taken.kept,
        "at the worst moment": taken.working,
        "CUDA": CONTEXT,
    }
    advice = "hardware=<preset of the card>, or train.micro_batch_size=1 train.gradient_checkpointing=true"
    if train.is_full:
        advice = "accelerate=fsdp with more train.num_processes"
    return _need("train", {name: size for name, size in parts.items() if size}, memory, advice)
