"""The stage "train" and its request: everything that the next policy depends on."""

from typing import Any

from tpo.config.fields import identity
from tpo.config.groups import AccelerateConfig, TrainConfig
from tpo.model.policy import PolicyRef
from tpo.store.artifacts import Artifact
from tpo.store.stage import Budget, RunsOn, Stage
from tpo.store.store import Store

TRAIN = Stage("train", version=7, work="tpo.train.trainer:work", runs_on=RunsOn.DEVICE)


def train(
    store: Store, policy: PolicyRef, pairs: Artifact, *, settings: TrainConfig, accelerate: AccelerateConfig, seed: int
) -> Artifact:
    """Return what DPO makes of `policy` after each epoch: adapters, or whole models.

    Args:
        store: Of all artifacts.
        policy: Where training starts, and what the pairs were sampled from; its epoch is part of the identity, its
            thought format only as far as there are no thoughts to tell from responses.
        pairs: Preference pairs.
        settings: Of the training.
        accelerate: How several processes share it.
        seed: Of the step.
    """
    trained_with = identity(settings) | {"quantization": policy.settings.quantization}
    if policy.adapter is None:
        trained_with["reference"] = "previous"  # here both are the seed model, so both settings share one artifact
    if not policy.form.has_thought:
        trained_with["loss_on"] = "all"  # the response is the whole completion
    config: dict[str, Any] = {"settings": trained_with, **policy.config}
    processes = None
    if settings.num_processes > 1:  # the result is the same up to rounding only, so it is another artifact
        sharing = identity(accelerate) | {"num_processes": settings.num_processes}
        processes = config["accelerate"] = sharing
    sampled = pairs.budget or Budget(0)
    return store.request(
        TRAIN,
        config,
        {"pairs": pairs, **policy.inputs},
        seed=seed,
        processes=processes,
        budget=Budget(2 * sampled.num_prompts * sampled.completion_tokens * settings.num_epochs),
    )
