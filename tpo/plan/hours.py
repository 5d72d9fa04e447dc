"""How long the stages of a run may take on a card, from operations and bytes: a range, since little of it was measured.

Each stage takes what its arithmetic and its reading of memory need at the card's stated speed, divided by the share of
it that such programs reach. The shares are assumptions, low and high; on an H100, training reached 0.23 to 0.32 and a
judge 0.40 of its arithmetic (`experiments/gpu.md`). Where the truth lies on another, a first run shows
(`python -m tpo.plan` then says what past stages took). Completions are taken to have four tenths of their budget of
tokens, prompts 300 tokens, and every instruction to give a pair. Work of the host beside the GPU is left out.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tpo.model.architecture import Architecture, find_architecture
from tpo.model.disk import PROMPT, USED
from tpo.plan.cards import Card
from tpo.plan.memory import sequences_at_once
from tpo.store.artifacts import Artifact
from tpo.store.stage import Budget, RunsOn


class Range(NamedTuple):
    """From the best to the worst that is expected."""

    low: float
    high: float

    def plus(self, other: "Range") -> "Range":
        """Return both together."""
        return Range(self.low + other.low, self.high + other.high)


# Shares of what the card can do that are reached, the better first.
TRAINING = Range(0.4, 0.2)  # of its arithmetic: forward and backward passes of one micro-batch after another
READING = Range(0.5, 0.2)  # of its arithmetic: forward passes of judges, and of prompts
DECODING = Range(0.7, 0.35)  # of the larger of both limits, by vLLM, adapter included
DECODING_TORCH = Range(0.4, 0.1)  # by engine=torch
START_S = Range(30, 120)  # to load a model in a process of its own, or to start vLLM
NOTHING = Range(0, 0)
WITH_SEED_MODEL = {"likelihood", "self_rating"}
WITHOUT_MODEL = {"length", "checked", "random"}


def seconds_at(best: float, share: Range) -> Range:
    """Return how long something takes that would take `best` seconds at the card's stated speed."""
    return Range(best / share.low, best / share.high)


def training_operations(
    model: Architecture, *, num_pairs: int, completion: int, num_epochs: int, is_checkpointed: bool, is_full: bool
) -> float:
    """Return the operations of a training, its reference's pass included.

    n (F (e (2 + c + w) + 1)) for n pairs and e epochs, F being those of a forward pass over prompt, chosen and rejected
    completion, the prompt once and the head on completions only. An epoch has a forward pass, one of the same size
    back to the activations, c = 1 where they are computed again and w = 1 where all weights have gradients.
    """
    depths = [*range(1, PROMPT + completion + 1), *range(PROMPT + 1, PROMPT + completion + 1)]
    forward = model.forward_operations(depths, num_logits=2 * completion)
    return num_pairs * forward * (num_epochs * (2 + is_checkpointed + is_full) + 1)


def decoding_seconds(
    model: Architecture, card: Card, *, num_sequences: int, completion: float, at_once: int, share: Range
) -> Range:
    """Return the time to decode sequences, `at_once` of them together.

    A step gives each a token and takes max(B / bandwidth, A / arithmetic): B, the weights once and the cache of all
    sequences at half of their completion; A, 2 operations a weight and sequence. There are N L / C steps.
    """
    assert card.tflops is not None and card.bandwidth is not None
    together = max(1, min(at_once, num_sequences))
    depth = PROMPT + completion / 2
    read = model.step_bytes + together * depth * model.kv_bytes
    operations = together * (model.step_bytes + model.attention_operations * depth)  # 2 bytes and 2 operations a weight
    step = max(read / (card.bandwidth * 1e9), operations / (card.tflops * 1e12))
    return seconds_at(step * num_sequences * completion / together, share)


def reading_seconds(model: Architecture, card: Card, *, num_prompts: float, num_tokens: float) -> Range:
    """Return the time of forward passes over so many prompts and further tokens, no logits: 2 operations a weight."""
    assert card.tflops is not None
    operations = 2 * model.num_linear * (num_prompts * PROMPT + num_tokens)
    return seconds_at(operations / (card.tflops * 1e12), READING)


class Clock:
    """Expects the seconds of a run's stages on a card."""

    def __init__(self, card: Card, stages: Sequence[Artifact], *, model: Architecture | None) -> None:
        """Prepare.

        Args:
            card: Its arithmetic and bandwidth are known.
            stages: All of the run, planned or there.
            model: Sizes of the seed model; None where they are unknown.
        """
        self.card, self.model = card, model
        self._by_id = {artifact.artifact_id: artifact for artifact in stages}

    def expect(self, artifact: Artifact) -> Range | None:
        """Return the seconds of a stage without its start; None where nothing can be said."""
        stage, config = artifact.manifest["stage"], artifact.manifest["config"]
        match stage:
            case "sample" | "synthesize":
                return self._sample(artifact.budget, config["engine"])
            case "judge":
                return self._judge(artifact, config["judge"])
            case "train":
                return self._train(artifact, config)
            case "verdicts":
                return None
        return NOTHING

    def starts(self, artifacts: Sequence[Artifact]) -> int:
        """Return how often a model is loaded: once for stages that follow one another in a process that keeps it."""
        count, before = 0, None
        for artifact in artifacts:
            runs_on = artifact.manifest["runs_on"]
            if runs_on == RunsOn.HOST or not self._loads(artifact.manifest):
                continue
            count += runs_on != before or runs_on == RunsOn.DEVICE
            before = runs_on
        return count

    def _loads(self, manifest: Mapping[str, Any]) -> bool:
        is_judge = manifest["stage"] == "judge"
        return not (is_judge and manifest["config"]["judge"].get("kind") in WITHOUT_MODEL)

    def _sample(self, budget: Budget | None, engine: Mapping[str, Any]) -> Range | None:
        if self.model is None or budget is None or not budget.num_samples or engine["kind"] not in ("vllm", "torch"):
            return None
        completion = USED * budget.completion_tokens
        copies, shards = engine.get("data_parallel_size", 1), engine.get("tensor_parallel_size", 1)
        card = self._joined(shards)
        if engine["kind"] == "vllm":
            held = sequences_at_once(
                self.model,
                card=card.memory,
                utilization=engine["gpu_memory_utilization"],
                tokens=int(PROMPT + completion / 2),
                quantization="nf4" if "quantization" in engine else "none",
            )
            at_once, share = min(engine["max_num_seqs"], held), DECODING
            if not at_once:
                return None
        else:
            at_once, share = 256, DECODING_TORCH
        decoded = decoding_seconds(
            self.model,
            card,
            num_sequences=-(-budget.num_prompts * budget.num_samples // copies),
            completion=completion,
            at_once=at_once,
            share=share,
        )
        return decoded.plus(reading_seconds(self.model, card, num_prompts=budget.num_prompts / copies, num_tokens=0))

    def _joined(self, shards: int) -> Card:
        card = self.card
        assert card.tflops is not None and card.bandwidth is not None
        return Card(card.name, card.memory * shards, card.tflops * shards, card.bandwidth * shards)

    def _judge(self, artifact: Artifact, judge: Mapping[str, Any]) -> Range | None:
        kind = judge.get("kind")
        if kind in WITHOUT_MODEL:
            return NOTHING
        model = self.model if kind in WITH_SEED_MODEL else None
        if kind in ("armorm", "reward_model"):
            model = find_architecture(judge["name"], revision=judge.get("revision"))
        inputs = artifact.manifest["inputs"]
        sets = [self._by_id[name] for role, name in inputs.items() if role.startswith("completions_")]
        if model is None or not sets or any(completions.budget is None for completions in sets):
            return None
        prompts, tokens = 0, 0.0
        for completions in sets:
            budget, longest = completions.budget, completions.manifest["config"]["settings"]["max_response_tokens"]
            assert budget is not None
            prompts = max(prompts, budget.num_prompts)
            tokens += USED * budget.num_prompts * budget.num_samples * longest
        return reading_seconds(model, self.card, num_prompts=prompts, num_tokens=tokens)

    def _train(self, artifact: Artifact, config: Mapping[str, Any]) -> Range | None:
        sampled = self._by_id[artifact.manifest["inputs"]["pairs"]].budget
        if self.model is None or sampled is None or self.card.tflops is None:
            return None
        settings, processes = config["settings"], config.get("accelerate", {}).get("num_processes", 1)
        operations = training_operations(
            self.model,
            num_pairs=sampled.num_prompts,
            completion=int(USED * sampled.completion_tokens),
            num_epochs=settings["num_epochs"],
            is_checkpointed=settings["gradient_checkpointing"],
            is_full=settings["lora_rank"] == 0,
        )
        return seconds_at(operations / processes / (self.card.tflops * 1e12), TRAINING)
