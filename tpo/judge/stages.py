"""The stages that turn responses into scores, for a run of TPO and for measuring a judge.

Most judges are one step ("judge"). A pairwise judge is two ("verdicts", "rate"), so that another rating uses the same
verdicts. An ensemble has the steps of its members and one that adds up their scores ("combine").
"""

from collections.abc import Mapping
from typing import Any

from tpo.config.fields import how, identity
from tpo.config.groups import JudgeConfig, ModelConfig, RatingConfig
from tpo.judge.judges.ensemble import EnsembleJudge
from tpo.judge.judges.likelihood import LikelihoodJudge
from tpo.judge.protocol import PairwiseJudgeConfig
from tpo.model.stages import prepare_model
from tpo.store.artifacts import Artifact
from tpo.store.stage import Budget, RunsOn, Stage
from tpo.store.store import Store

JUDGE = Stage("judge", version=5, work="tpo.judge.score:judge_work", runs_on=RunsOn.DEVICE)
VERDICTS = Stage("verdicts", version=4, work="tpo.judge.score:verdicts_work", runs_on=RunsOn.DEVICE)
RATE = Stage("rate", version=1, work="tpo.judge.score:rate_work")
COMBINE = Stage("combine", version=3, work="tpo.judge.score:combine_work")
NORMALIZE = Stage("normalize", version=3, work="tpo.judge.score:normalize_work")


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
        self.judge, self.rating, self.model = judge, rating, model
        self._seed = seed

    @property
    def is_comparative(self) -> bool:
        """Whether a score means something only beside the scores of the responses judged with it."""
        return self.judge.is_comparative

    @property
    def gives_verdicts(self) -> bool:
        """Whether the judge compares two responses at a time."""
        return self.judge.gives_verdicts

    def score(self, inputs: Mapping[str, Artifact], *, is_versus: bool = False) -> Artifact:
        """Return the scores of all responses that `inputs` hold.

        Args:
            inputs: `prompts` with `completions_0`, `completions_1`, ... and perhaps `references` (a benchmark), whose
                samples are numbered on in this order; or `labelled`.
            is_versus: Whether only the first set against the second matters: a judge that gives verdicts is then not
                asked about the samples of one set among themselves.
        """
        return self._score(self.judge, inputs, pairs="all" if is_versus else None)

    def verdicts(self, inputs: Mapping[str, Artifact], *, pairs: str | None = None) -> Artifact:
        """Return a pairwise judge's verdicts on the responses that `inputs` hold.

        Args:
            inputs: As for `score`.
            pairs: Which samples of the first set meet which of the second: "matched" (`responses.matched_pairs`) or
                "all"; None compares all pairs of all samples.
        """
        return self._ask(VERDICTS, self.judge, inputs, pairs=pairs)

    def _score(self, judge: JudgeConfig, inputs: Mapping[str, Artifact], *, pairs: str | None) -> Artifact:
        if isinstance(judge, EnsembleJudge):
            members = {
                f"member_{name}": self._score(member, inputs, pairs=pairs) for name, member in judge.members.items()
            }
            return self.store.request(COMBINE, {"weights": judge.weights}, members)
        if isinstance(judge, LikelihoodJudge):
            parts = {role: self._ask(JUDGE, side, inputs) for role, side in judge.sides().items()}
            return self.store.request(NORMALIZE, {"per_token": judge.normalization == "mean"}, parts)
        if not judge.gives_verdicts:
            return self._ask(JUDGE, judge, inputs)
        inputs = {**inputs, "verdicts": self._ask(VERDICTS, judge, inputs, pairs=pairs)}
        return self.store.request(RATE, {"rating": identity(self.rating)}, inputs, seed=self._seed)

    def _ask(
        self, stage: Stage, judge: JudgeConfig, inputs: Mapping[str, Artifact], *, pairs: str | None = None
    ) -> Artifact:
        # No seed: runs with other seeds share the judgements of equal completions.
        config: dict[str, Any] = {"judge": identity(judge), **judge.depends_on()}
        config |= {} if pairs is None else {"pairs": pairs}
        inputs = dict(inputs)
        if judge.uses_seed_model:
            inputs["model"] = prepare_model(self.store, self.model)
            config |= {"dtype": self.model.dtype, "max_model_len": self.model.max_model_len, "epoch": 0}
        budget = _budget(judge, inputs, pairs=pairs)
        return self.store.request(stage, config, inputs, how=how(judge), runs_on=judge.runs_on, budget=budget)


def _budget(judge: JudgeConfig, inputs: Mapping[str, Artifact], *, pairs: str | None) -> Budget | None:
    """The tokens of responses that a judge reads, and of what it may write about them."""
    sets = [artifact.budget for role, artifact in inputs.items() if role.startswith("completions_")]
    if not sets or None in sets or "references" in inputs:  # labelled pairs, a benchmark
        return None
    if not judge.reads_tokens:
        return Budget(0)
    sampled, written = [budget for budget in sets if budget is not None], judge.written_tokens
    if not isinstance(judge, PairwiseJudgeConfig):
        return Budget(sum(item.num_prompts * item.num_samples * (item.response_tokens + written) for item in sampled))
    num_samples = sum(item.num_samples for item in sampled)
    games = num_samples * (num_samples - 1) // 2
    if pairs is not None:
        first, second = (item.num_samples for item in sampled)
        games = first if pairs == "matched" else first * second
    orders = 2 if judge.orders == "both" else 1
    read = 2 * max(item.response_tokens for item in sampled)
    return Budget(sampled[0].num_prompts * games * orders * (read + written))
