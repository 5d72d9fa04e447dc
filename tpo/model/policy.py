"""Policies: what is sampled from (`Policy`), and which artifact holds it (`PolicyRef`)."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tpo.config.groups import ModelConfig, SampleConfig
from tpo.config.thought import DIRECT, STRIPPED, TAKEN_OFF, ThoughtFormat
from tpo.model.conventions import Conventions
from tpo.model.load import require_unchanged
from tpo.store.artifacts import Artifact


@dataclass(frozen=True)
class Policy:
    """A model to sample from: the seed model, from iteration 1 on with a LoRA adapter, which is never merged.

    Where all weights are trained, it is another model from iteration 1 on.

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
        seed_path: The seed model's weights where `model_path` holds trained ones; None where it holds the seed model's.
        conventions: Of its chat template.
        seed_name: The seed model's, as the user named it; None where it is not known.
    """

    model_path: str
    revision: str | None
    tokenizer_path: str
    dtype: str
    max_model_len: int
    adapter_path: Path | None
    unquantized_path: str | None = None
    seed_path: str | None = None
    conventions: Conventions = Conventions()
    seed_name: str | None = None


@dataclass(frozen=True)
class PolicyRef:
    """Which policy, and how it is asked.

    `config` and `inputs` are the part of a step's identity that all steps with a policy share; a step that samples adds
    `form` and `sampling`.

    Attributes:
        name: For people.
        model: Artifact of the stage "model".
        settings: The seed model's.
        form: The thought format that it is asked with; `DIRECT` where it answers directly.
        sampling: Its token budgets, and how completions for training are sampled.
        adapter: Artifact that holds what was trained, an adapter or whole models; None for the seed model.
        epoch: Whose weights of `adapter`; 0 for the seed model.
        seed_adapter: What the seed model is with, where it is the policy of another run; None else.
        seed_epoch: Whose weights of `seed_adapter`.
    """

    name: str
    model: Artifact
    settings: ModelConfig
    form: ThoughtFormat
    sampling: SampleConfig
    adapter: Artifact | None = None
    epoch: int = 0
    seed_adapter: Artifact | None = None
    seed_epoch: int = 0

    @property
    def config(self) -> dict[str, Any]:
        """The policy's part of a step's config."""
        return {"dtype": self.settings.dtype, "max_model_len": self.settings.max_model_len, "epoch": self.epoch}

    @property
    def inputs(self) -> dict[str, Artifact]:
        """The policy's part of a step's inputs."""
        return {"model": self.model} | ({} if self.adapter is None else {"adapter": self.adapter})

    @property
    def weights(self) -> Path | None:
        """Directory of what training left; None for a seed model that is no policy of another run."""
        return None if self.adapter is None else self.adapter.path / f"epoch-{self.epoch}"

    @classmethod
    def untrained(
        cls,
        model: Artifact,
        settings: ModelConfig,
        *,
        form: ThoughtFormat,
        sampling: SampleConfig,
        adapter: Artifact | None = None,
        epoch: int = 0,
    ) -> "PolicyRef":
        """Return the seed model as a policy; `adapter` and `epoch` where it is the policy of another run."""
        name = f"{settings.name}, {manner_of(form)}"
        return cls(name, model, settings, form, sampling, adapter, epoch, adapter, epoch)

    def trained(self, adapter: Artifact, epoch: int) -> "PolicyRef":
        """Return the policy that `adapter` holds after `epoch`.

        An adapter holds all training so far, so the policy stands on the seed model, wherever its training started.
        """
        return replace(self, adapter=adapter, epoch=epoch)

    def seed_model(self, *, form: ThoughtFormat | None = None) -> "PolicyRef":
        """Return the policy before any training, asked with another thought format if one is given."""
        return PolicyRef.untrained(
            self.model,
            self.settings,
            form=form or self.form,
            sampling=self.sampling,
            adapter=self.seed_adapter,
            epoch=self.seed_epoch,
        )


def manner_of(form: ThoughtFormat) -> str:
    """Return how a policy answers, for its name."""
    if form == STRIPPED:
        return f"direct, {TAKEN_OFF}"
    return "direct" if form == DIRECT else "with a thought"


def open_policy(config: Mapping[str, Any], inputs: Mapping[str, Artifact]) -> Policy:
    """Return the policy that a step's config and inputs describe (`PolicyRef.config`, `PolicyRef.inputs`).

    A model of the Hub is the commit that the stage "model" found, whatever its branch points to by now.

    Raises:
        ArtifactError: If its files are missing or were changed; those of other epochs are not looked at.
        ModelError: If the seed model's directory has changed since the stage "model" read it.
    """
    model = inputs["model"]
    adapter = inputs.get("adapter")
    weights = str(model.verified("model")) if model.metrics["is_embedded"] else model.metrics["name"]
    if not model.metrics["is_embedded"]:
        require_unchanged(weights, model.manifest["config"]["fingerprint"])
    is_quantized = model.metrics["is_quantized"]
    trained = adapter.verified(f"epoch-{config['epoch']}") if adapter else None
    policy = Policy(
        model_path=str(model.verified("quantized")) if is_quantized else weights,
        revision=model.metrics.get("commit") or model.metrics["revision"],
        tokenizer_path=str(model.verified("tokenizer")),
        dtype=config["dtype"],
        max_model_len=config["max_model_len"],
        adapter_path=trained,
        unquantized_path=weights if is_quantized else None,
        conventions=Conventions.from_metrics(model.metrics),
        seed_name=model.metrics["name"],
    )
    if trained is None or not is_whole_model(trained):
        return policy
    return replace(policy, model_path=str(trained), adapter_path=None, unquantized_path=None, seed_path=weights)


def is_whole_model(path: Path) -> bool:
    """Return whether a directory holds a whole model, as training all weights writes it, and not an adapter."""
    return (path / "config.json").is_file()
