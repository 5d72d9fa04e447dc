"""Policies: what is sampled from (`Policy`), and which artifact holds it (`PolicyRef`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tpo.store.artifacts import Artifact


@dataclass(frozen=True)
class Policy:
    """A model to sample from: the seed model with, from iteration 1 on, a LoRA adapter that stays unmerged.

    Or, where all weights are trained, another model from iteration 1 on.

    Attributes:
        model_path: 16-bit weights, a local directory or a Hub name. For a quantized policy they hold the
            quantized values, so that the policy that is sampled is the one that is trained.
        revision: Of the Hub repository.
        tokenizer_path: Local directory.
        dtype: Of weights and activations.
        max_model_len: Longest prompt plus completion, tokens.
        adapter_path: None for the seed model.
        unquantized_path: The weights before quantization, which training quantizes itself; None where the
            policy is not quantized.
        seed_path: The seed model's weights where `model_path` has others; None where it has these.
    """

    model_path: str
    revision: str | None
    tokenizer_path: str
    dtype: str
    max_model_len: int
    adapter_path: Path | None
    unquantized_path: str | None = None
    seed_path: str | None = None


def load_policy_reference(config: dict[str, Any], inputs: Mapping[str, Artifact]) -> Policy:
    """Return the policy that a step's config and inputs describe."""
    model = inputs["model"]
    adapter = inputs.get("adapter")
    weights = str(model.path / "model") if model.metrics["is_embedded"] else model.metrics["name"]
    is_quantized = model.metrics["is_quantized"]
    trained = adapter.path / f"epoch-{config['epoch']}" if adapter else None
    policy = Policy(
        model_path=str(model.path / "quantized") if is_quantized else weights,
        revision=model.metrics["revision"],
        tokenizer_path=str(model.path / "tokenizer"),
        dtype=config["dtype"],
        max_model_len=config["max_model_len"],
        adapter_path=trained,
        unquantized_path=weights if is_quantized else None,
    )
    if trained is None or not is_whole_model(trained):
        return policy
    return replace(policy, model_path=str(trained), adapter_path=None, unquantized_path=None, seed_path=weights)


def is_whole_model(path: Path) -> bool:
    """Return whether a directory holds a model by itself, as training all weights leaves it, and not an adapter."""
    return (path / "config.json").is_file()


@dataclass(frozen=True)
class PolicyRef:
    """A policy by reference: the seed model, or an epoch of a train artifact."""

    adapter: Artifact | None = None
    epoch: int = 0


def adapter_input(policy: PolicyRef) -> dict[str, Artifact]:
    """Return the adapter among a step's inputs, if there is one."""
    return {} if policy.adapter is None else {"adapter": policy.adapter}
