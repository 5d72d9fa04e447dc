"""Stages, the kinds of computation, and steps, what one of them is asked for.

A stage is declared where its part of the method lives (`tpo.sample.stages`, `tpo.judge.stages`, ...), beside a function
that requests it from the store. Its work is named by its path and imported when it runs: declaring and requesting
stages loads no heavy library, and the store knows no stage.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

from tpo.store.files import content_hash


class Budget(NamedTuple):
    """The most that a step may sample, judge or train on; what it took is in its metrics.

    Attributes:
        tokens: Completion tokens in all.
        num_prompts: Instructions that it is about.
        num_samples: Completions of each, so that a later step can say how many it will judge.
        response_tokens: Of the longest response.
        completion_tokens: Of the longest completion.
    """

    tokens: int
    num_prompts: int = 0
    num_samples: int = 0
    response_tokens: int = 0
    completion_tokens: int = 0


class RunsOn(StrEnum):
    """What a step computes with, which decides the process that it runs in (`tpo.store.open`).

    What a process keeps from one step to the next holds the device's memory, so the process ends before a step that
    wants something else of the device; HOST lets it be.
    """

    HOST = "host"  # none of the device's memory
    DEVICE = "device"  # the GPU, or the cores where there is none
    KEPT = "kept"  # as DEVICE, with a model in plain torch that later steps may ask too: on a GPU, a process keeps it
    VLLM = "vllm"  # vLLM, in the process that keeps it


@dataclass(frozen=True)
class Stage:
    """A kind of computation.

    Attributes:
        name: First part of its artifacts' ids.
        version: Of its work: raised when the same settings would give another result.
        work: "module:function", called with a `tpo.store.job.Job`; returns the metrics.
        runs_on: Where its steps run unless a request says otherwise.
    """

    name: str
    version: int
    work: str
    runs_on: RunsOn = RunsOn.HOST


@dataclass(frozen=True)
class Step:
    """A requested computation; its id is a hash of stage, version, config, inputs and seed.

    Attributes:
        stage: Name of the stage, for example "sample".
        version: Of the stage.
        config: The step's settings, plain JSON types only.
        inputs: Role to artifact id.
        seed: The step's seed, or 0 for stages without randomness.
        how: Settings that the result does not depend on, such as a server's address.
        work: "module:function" that computes it.
        runs_on: What it computes with.
        budget: What a plan can know of its cost; None where it is unknown or nothing is sampled, judged or trained on.
        processes: Configuration file of accelerate's launcher where several processes compute it together, else None.
        contents: Role to the digest of what the input holds, which the result has to come from; no part of the id.
    """

    stage: str
    version: int
    config: dict[str, Any]
    inputs: dict[str, str] = field(default_factory=dict)
    seed: int = 0
    how: dict[str, Any] = field(default_factory=dict)
    work: str = ""
    runs_on: RunsOn = RunsOn.HOST
    processes: dict[str, Any] | None = None
    budget: Budget | None = None
    contents: dict[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Return the identity as a plain dictionary."""
        return {
            "stage": self.stage,
            "version": self.version,
            "config": self.config,
            "inputs": self.inputs,
            "seed": self.seed,
        }

    def to_request(self) -> dict[str, Any]:
        """Return what `request.json` holds: the identity, and what it takes to compute the step."""
        return {
            **self.to_dict(),
            "contents": self.contents,
            "how": self.how,
            "work": self.work,
            "runs_on": str(self.runs_on),
            "processes": self.processes,
            "budget": None if self.budget is None else self.budget._asdict(),
        }

    @property
    def artifact_id(self) -> str:
        """`<stage>-<first 12 hex digits of the sha256 of the canonical JSON of the identity>`."""
        return f"{self.stage}-{content_hash(self.to_dict())}"
