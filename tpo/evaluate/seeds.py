"""The seed model of a run: a model, or what another run or an export left: `model.name=runs/<run>@2`.

A policy with an adapter goes on with it: it is sampled, trained and named by its artifact as in the run that it is of,
on the same base, so that iteration 0 is that run's policy to the last token and the first step's loss is ln 2. A judge
that is the seed model is the base, without adapter, the same in both runs.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from tpo.config.fields import ConfigError
from tpo.config.groups import ModelConfig, SampleConfig, TrainConfig
from tpo.config.thought import ThoughtFormat
from tpo.evaluate.trained import adapter_of_run, named_run, require_directory, trained_artifact
from tpo.model.exported import read_export
from tpo.model.load import ADAPTER_CONFIG
from tpo.model.policy import PolicyRef, is_whole_model
from tpo.model.stages import prepare_model
from tpo.results.read import read_run
from tpo.store.store import Store


class Seed(NamedTuple):
    """What `model.name` stands for.

    Attributes:
        model: The group `model` of the base: what is prepared, and what a judge uses that is the seed model.
        weights: Directory of an adapter on it; None where there is none.
    """

    model: ModelConfig
    weights: Path | None = None


def find_seed(model: ModelConfig, store: Store) -> Seed:
    """Return what the group `model` names.

    Args:
        model: The group.
        store: Of all artifacts.

    Raises:
        ConfigError: If it names an adapter, and its weights would be computed with in another way than in its training.
        PolicyError: If a run has no such iteration, or its artifacts are not at hand.
    """
    if (run := named_run(model.name)) is not None:
        found = find_seed(ModelConfig(**read_run(run.path).config["model"]), store)
        weights = adapter_of_run(run, store) or found.weights
        if weights is not None and is_whole_model(weights):
            return Seed(replace(model, source="pretrained", name=str(weights), revision=None))
        base = found.model
    elif (export := read_export(model.name)) is not None:
        if export.is_merged:
            template = model.chat_template or export.model_config.chat_template
            return Seed(replace(model, source="pretrained", revision=None, chat_template=template))
        base, weights = export.model_config, export.path
    else:
        if model.source == "pretrained":
            require_directory(model.name, at="model.name=")
        return Seed(model)
    for key in ("dtype", "quantization"):
        given, own = getattr(model, key), getattr(base, key)
        if given != own:
            raise ConfigError(
                f"model.{key}={given}, but the policy {model.name} was trained with {own}: take model.{key}={own}, or "
                "leave the group model out, which then has that policy's settings"
            )
    named = replace(model, source=base.source, name=base.name, revision=base.revision)
    return Seed(replace(named, chat_template=model.chat_template or base.chat_template), weights)


def seed_policy(store: Store, model: ModelConfig, *, form: ThoughtFormat, sampling: SampleConfig) -> PolicyRef:
    """Return the untrained policy of the group `model`: of a model, or of what another run or an export left."""
    seed = find_seed(model, store)
    prepared = prepare_model(store, seed.model)
    if seed.weights is None:
        return PolicyRef.untrained(prepared, model, form=form, sampling=sampling)
    adapter, epoch = trained_artifact(seed.weights, store)
    return PolicyRef.untrained(prepared, model, form=form, sampling=sampling, adapter=adapter, epoch=epoch)


def check_continued(policy: PolicyRef, train: TrainConfig) -> None:
    """Raise where a training cannot go on from a seed policy's adapter as its settings say.

    Args:
        policy: The seed policy.
        train: Settings of the training.

    Raises:
        ConfigError: Naming the key and what to do.
    """
    if policy.weights is None or not (policy.weights / ADAPTER_CONFIG).is_file():
        return
    name = policy.settings.name
    if train.is_full:
        raise ConfigError(
            f"train.method=full trains all weights, but {name} is an adapter: export it, format=merged, and name that"
        )
    if train.reference != "previous":
        raise ConfigError(
            f"train.reference={train.reference}: the model under the adapter of {name} is not the seed model of this "
            "run, and no other reference is computed: take train.reference=previous"
        )
    own = json.loads((policy.weights / ADAPTER_CONFIG).read_text())
    for key, field in (("lora_rank", "r"), ("lora_alpha", "lora_alpha")):
        if getattr(train, key) != own[field]:
            raise ConfigError(
                f"train.{key}={getattr(train, key)}, but training goes on with the adapter of {name}, which has "
                f"{own[field]}: take train.{key}={own[field]}"
            )
