"""The steps that turn responses into scores, for a run of TPO and for measuring a judge.

Most judges are one step ("judge"), a pairwise judge is two ("verdicts", "rate": another rating asks nothing again), an
ensemble the steps of its members and one that adds them up ("combine").
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import tpo.judge.rating
import tpo.judge.score
from tpo.config.judge import JudgeConfig, RatingConfig
from tpo.config.schema import ModelConfig
from tpo.judge.judges.alpaca_eval import template_path
from tpo.judge.protocol import COMPARATIVE_KINDS, PAIRWISE_KINDS
from tpo.model.load import fingerprint
from tpo.store.artifacts import Artifact
from tpo.store.files import file_digest

MODEL_VERSION = 1

RunStep = Callable[..., Artifact]  # (stage, version, config, inputs, *, seed, how) -> artifact

# Where and how fast a language model answers; what it answers does not depend on it.
_HOW = ("server", "max_calls", "vllm")


def model_settings(model: ModelConfig) -> dict[str, Any]:
    """Return what the step "model" depends on."""
    template = Path(model.chat_template).read_text() if model.chat_template else None
    return {
        "source": model.source,
        "name": model.name,
        "revision": model.revision,
        "quantization": model.quantization,
        "dtype": model.dtype,
        "chat_template": template,
        "fingerprint": fingerprint(model.name) if model.source == "pretrained" else None,
    }


class Judging:
    """Scores responses with the configured judge."""

    def __init__(
        self, judge: JudgeConfig, rating: RatingConfig, *, model: ModelConfig, run: RunStep, seed: int
    ) -> None:
        """Prepare the steps.

        Args:
            judge: The judge.
            rating: How a pairwise judge's verdicts become scores.
            model: The seed model, for judges that use it.
            run: Runs a step.
            seed: Of the rating.
        """
        self.judge, self.rating, self.model = asdict(judge), asdict(rating), model
        self.run, self._seed = run, seed

    @property
    def is_comparative(self) -> bool:
        """Whether a score means something only beside the scores of the responses judged with it."""
        return self.judge["kind"] in COMPARATIVE_KINDS

    def score(self, inputs: Mapping[str, Artifact]) -> Artifact:
        """Return the scores of all responses that `inputs` hold."""
        return self._score(self.judge, inputs)

    @property
    def gives_verdicts(self) -> bool:
        """Whether the judge compares two responses at a time."""
        return self.judge["kind"] in PAIRWISE_KINDS

    def verdicts(self, inputs: Mapping[str, Artifact], *, against: int | None = None) -> Artifact:
        """Return a pairwise judge's verdicts on the responses that `inputs` hold.

        Args:
            inputs: Instructions and completions, or labelled pairs.
            against: Sample index of a response that all others are compared with; None compares all pairs.
        """
        return self._ask("verdicts", self.judge, inputs, **({} if against is None else {"against": against}))

    def _score(self, judge: dict[str, Any], inputs: Mapping[str, Artifact]) -> Artifact:
        match judge["kind"]:
            case "ensemble":
                members = {
                    f"member_{name}": self._score(settings, inputs) for name, settings in judge["members"].items()
                }
                return self.run("combine", tpo.judge.score.VERSION, {"weights": judge["weights"]}, members)
            case kind if kind in PAIRWISE_KINDS:
                verdicts = self._ask("verdicts", judge, inputs)
                config = {"rating": self.rating}
                return self.run(
                    "rate", tpo.judge.rating.VERSION, config, {**inputs, "verdicts": verdicts}, seed=self._seed
                )
            case "likelihood":  # its variants share the passes over the model
                sides = {"likelihoods": True} | ({"priors": False} if judge["subtract_prior"] else {})
                parts = {
                    role: self._ask("judge", _likelihood(judge, with_instruction=with_instruction), inputs)
                    for role, with_instruction in sides.items()
                }
                per_token = judge["normalization"] == "mean"
                return self.run("normalize", tpo.judge.score.VERSION, {"per_token": per_token}, parts)
            case _:
                return self._ask("judge", judge, inputs)

    def _ask(self, stage: str, judge: dict[str, Any], inputs: Mapping[str, Artifact], **settings: Any) -> Artifact:
        config: dict[str, Any] = {"judge": {key: value for key, value in judge.items() if key not in _HOW}, **settings}
        if judge.get("backend") == "vllm":
            config["vllm_dtype"] = judge["vllm"]["dtype"]
        if judge["kind"] == "alpaca_eval":
            config["template_sha256"] = file_digest(template_path())
        how = {key: value for key, value in judge.items() if key in _HOW}
        inputs = dict(inputs)
        if judge["kind"] in {"likelihood", "self_rating"} or (judge.get("name") is None and "backend" in judge):
            inputs["model"] = self.run("model", MODEL_VERSION, model_settings(self.model))
            config |= {"dtype": self.model.dtype, "max_model_len": self.model.max_model_len, "epoch": 0}
        elif judge.get("name") is not None:
            config["fingerprint"] = fingerprint(judge["name"])
        return self.run(stage, tpo.judge.score.VERSION, config, inputs, how=how)


def _likelihood(judge: dict[str, Any], *, with_instruction: bool) -> dict[str, Any]:
    return {"kind": "likelihood", "with_instruction": with_instruction, "batch_tokens": judge["batch_tokens"]}
