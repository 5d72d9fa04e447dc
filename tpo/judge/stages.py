"""The stages that turn responses into scores, for a run of TPO and for measuring a judge.

Most judges are one step ("judge"), a pairwise judge is two ("verdicts", "rate": another rating asks nothing again), an
ensemble the steps of its members and one that adds them up ("combine").
"""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tpo.config.judge import JudgeConfig, RatingConfig
from tpo.config.schema import ModelConfig
from tpo.judge.judges.alpaca_eval import template_path
from tpo.judge.protocol import COMPARATIVE_KINDS, PAIRWISE_KINDS
from tpo.model.load import fingerprint
from tpo.model.stages import prepare_model
from tpo.store.artifacts import Artifact, Store
from tpo.store.files import file_digest
from tpo.store.stage import Budget, RunsOn, Stage

JUDGE = Stage("judge", version=3, work="tpo.judge.score:judge_work", runs_on=RunsOn.DEVICE)
VERDICTS = Stage("verdicts", version=3, work="tpo.judge.score:verdicts_work", runs_on=RunsOn.DEVICE)
RATE = Stage("rate", version=1, work="tpo.judge.score:rate_work")
COMBINE = Stage("combine", version=3, work="tpo.judge.score:combine_work")
NORMALIZE = Stage("normalize", version=3, work="tpo.judge.score:normalize_work")

# Where and how fast a language model answers; what it answers does not depend on it.
_HOW = ("server", "max_calls", "vllm")


class Judging:
    """Scores responses with the configured judge."""

    def __init__(
        self, store: Store, judge: JudgeConfig, rating: RatingConfig, *, model: ModelConfig, seed: int
    ) -> None:
        """Prepare the requests.

        Args:
            store: Of all artifacts.
            judge: The judge.
            rating: How a pairwise judge's verdicts become scores.
            model: The seed model, for judges that use it.
            seed: Of the rating.
        """
        self.store = store
        self.judge, self.rating, self.model = asdict(judge), asdict(rating), model
        self._seed = seed

    @property
    def is_comparative(self) -> bool:
        """Whether a score means something only beside the scores of the responses judged with it."""
        return self.judge["kind"] in COMPARATIVE_KINDS

    @property
    def gives_verdicts(self) -> bool:
        """Whether the judge compares two responses at a time."""
        return self.judge["kind"] in PAIRWISE_KINDS

    def score(self, inputs: Mapping[str, Artifact]) -> Artifact:
        """Return the scores of all responses that `inputs` hold."""
        return self._score(self.judge, inputs)

    def verdicts(self, inputs: Mapping[str, Artifact], *, against: int | None = None) -> Artifact:
        """Return a pairwise judge's verdicts on the responses that `inputs` hold.

        Args:
            inputs: Instructions and completions, or labelled pairs.
            against: Sample index of a response that all others are compared with; None compares all pairs.
        """
        return self._ask(VERDICTS, self.judge, inputs, **({} if against is None else {"against": against}))

    def _score(self, judge: dict[str, Any], inputs: Mapping[str, Artifact]) -> Artifact:
        match judge["kind"]:
            case "ensemble":
                members = {
                    f"member_{name}": self._score(settings, inputs) for name, settings in judge["members"].items()
                }
                return self.store.request(COMBINE, {"weights": judge["weights"]}, members)
            case kind if kind in PAIRWISE_KINDS:
                verdicts = self._ask(VERDICTS, judge, inputs)
                inputs = {**inputs, "verdicts": verdicts}
                return self.store.request(RATE, {"rating": self.rating}, inputs, seed=self._seed)
            case "likelihood":  # its variants share the passes over the model
                sides = {"likelihoods": True} | ({"priors": False} if judge["subtract_prior"] else {})
                parts = {
                    role: self._ask(JUDGE, _likelihood(judge, with_instruction=with_instruction), inputs)
                    for role, with_instruction in sides.items()
                }
                return self.store.request(NORMALIZE, {"per_token": judge["normalization"] == "mean"}, parts)
            case _:
                return self._ask(JUDGE, judge, inputs)

    def _ask(self, stage: Stage, judge: dict[str, Any], inputs: Mapping[str, Artifact], **settings: Any) -> Artifact:
        config: dict[str, Any] = {"judge": {key: value for key, value in judge.items() if key not in _HOW}, **settings}
        if judge.get("backend") == "vllm":
            config["vllm_dtype"] = judge["vllm"]["dtype"]
        if judge["kind"] == "alpaca_eval":
            config["template_sha256"] = file_digest(template_path())
        how = {key: value for key, value in judge.items() if key in _HOW}
        inputs = dict(inputs)
        if judge["kind"] in {"likelihood", "self_rating"} or (judge.get("name") is None and "backend" in judge):
            inputs["model"] = prepare_model(self.store, self.model)
            config |= {"dtype": self.model.dtype, "max_model_len": self.model.max_model_len, "epoch": 0}
        elif judge.get("name") is not None:
            config["fingerprint"] = fingerprint(judge["name"])
        runs_on = {"vllm": RunsOn.VLLM, "server": RunsOn.HOST}.get(judge.get("backend", ""))
        budget = _budget(stage, judge, inputs, is_against_one="against" in settings)
        return self.store.request(stage, config, inputs, how=how, runs_on=runs_on, budget=budget)


def _likelihood(judge: dict[str, Any], *, with_instruction: bool) -> dict[str, Any]:
    return {"kind": "likelihood", "with_instruction": with_instruction, "batch_tokens": judge["batch_tokens"]}


def _budget(
    stage: Stage, judge: dict[str, Any], inputs: Mapping[str, Artifact], *, is_against_one: bool
) -> Budget | None:
    """The tokens of responses that a judge reads, and of what it may write about them."""
    sets = [artifact.budget for role, artifact in inputs.items() if role.startswith("completions_")]
    if not sets or None in sets:  # labelled pairs, a benchmark's references
        return None
    if judge["kind"] in {"length", "random"}:
        return Budget(0)
    sampled = [budget for budget in sets if budget is not None]
    written = judge.get("max_tokens", 0) if "backend" in judge else 0  # a reward model's is a limit on what it reads
    if stage is JUDGE:
        return Budget(sum(item.num_prompts * item.num_samples * (item.response_tokens + written) for item in sampled))
    num_samples = sum(item.num_samples for item in sampled)
    games = num_samples - 1 if is_against_one else num_samples * (num_samples - 1) // 2
    orders = 2 if judge["orders"] == "both" else 1
    read = 2 * max(item.response_tokens for item in sampled)
    return Budget(sampled[0].num_prompts * games * orders * (read + written))
