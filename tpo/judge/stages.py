"""The steps that turn responses into scores, for a run of TPO and for measuring a judge.

Most judges are one step ("judge"), a pairwise judge is two ("verdicts", "rate": another rating asks nothing again), an
ensemble the steps of its members and one that adds them up ("combine").
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import tpo.judge.rating
import tpo.judge.score
from tpo.config.fields import how, identity
from tpo.config.groups import JudgeConfig, ModelConfig, RatingConfig
from tpo.judge.judges.ensemble import EnsembleJudge
from tpo.judge.judges.likelihood import LikelihoodJudge
from tpo.model.load import fingerprint
from tpo.store.artifacts import Artifact

MODEL_VERSION = 1

RunStep = Callable[..., Artifact]  # (stage, version, config, inputs, *, seed, how) -> artifact


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
        self.judge, self.rating, self.model = judge, rating, model
        self.run, self._seed = run, seed

    @property
    def is_comparative(self) -> bool:
        """Whether a score means something only beside the scores of the responses judged with it."""
        return self.judge.is_comparative

    def score(self, inputs: Mapping[str, Artifact]) -> Artifact:
        """Return the scores of all responses that `inputs` hold."""
        return self._score(self.judge, inputs)

    @property
    def gives_verdicts(self) -> bool:
        """Whether the judge compares two responses at a time."""
        return self.judge.gives_verdicts

    def verdicts(self, inputs: Mapping[str, Artifact], *, against: int | None = None) -> Artifact:
        """Return a pairwise judge's verdicts on the responses that `inputs` hold.

        Args:
            inputs: Instructions and completions, or labelled pairs.
            against: Sample index of a response that all others are compared with; None compares all pairs.
        """
        return self._ask("verdicts", self.judge, inputs, **({} if against is None else {"against": against}))

    def _score(self, judge: JudgeConfig, inputs: Mapping[str, Artifact]) -> Artifact:
        if isinstance(judge, EnsembleJudge):
            members = {f"member_{name}": self._score(member, inputs) for name, member in judge.members.items()}
            return self.run("combine", tpo.judge.score.VERSION, {"weights": judge.weights}, members)
        if isinstance(judge, LikelihoodJudge):
            parts = {role: self._ask("judge", side, inputs) for role, side in judge.sides().items()}
            per_token = judge.normalization == "mean"
            return self.run("normalize", tpo.judge.score.VERSION, {"per_token": per_token}, parts)
        if not judge.gives_verdicts:
            return self._ask("judge", judge, inputs)
        verdicts = self._ask("verdicts", judge, inputs)
        config = {"rating": identity(self.rating)}
        return self.run("rate", tpo.judge.rating.VERSION, config, {**inputs, "verdicts": verdicts}, seed=self._seed)

    def _ask(self, stage: str, judge: JudgeConfig, inputs: Mapping[str, Artifact], **settings: Any) -> Artifact:
        config: dict[str, Any] = {"judge": identity(judge), **settings, **judge.depends_on()}
        inputs = dict(inputs)
        if judge.uses_seed_model:
            inputs["model"] = self.run("model", MODEL_VERSION, model_settings(self.model))
            config |= {"dtype": self.model.dtype, "max_model_len": self.model.max_model_len, "epoch": 0}
        return self.run(stage, tpo.judge.score.VERSION, config, inputs, how=how(judge))
