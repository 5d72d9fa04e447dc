"""What the loop asks for: each method requests one artifact of the method, a line of the loop in `tpo.run`.

What an artifact depends on stands in its step's `stages.py`; runs share whatever they agree on.
"""

from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from tpo.config.schema import Config
from tpo.config.thought import DIRECT
from tpo.evaluate.lineage import leave_unseen, trace
from tpo.evaluate.stages import answer_settings, compare
from tpo.judge.select import Selection, best_epoch
from tpo.judge.stages import Judging
from tpo.model.policy import PolicyRef
from tpo.model.stages import prepare_model
from tpo.pairs import make_pairs
from tpo.sample.prompts import PromptError
from tpo.sample.stages import make_prompts, preflight, sample
from tpo.store.artifacts import Artifact, Store
from tpo.store.records import Score
from tpo.store.seeds import derive_seed
from tpo.train.stages import train


class Pipeline:
    """The steps of one experiment, run through a store.

    Attributes:
        seed_policy: The seed model with the thought prompt, untrained: the policy of iteration 0.
    """

    def __init__(self, config: Config, store: Store) -> None:
        """Prepare seed model and instructions, so that bad ones fail before anything is sampled."""
        self.config, self.store = config, store
        form = config.thought
        model = prepare_model(store, config.model)
        self.seed_policy = PolicyRef.untrained(model, config.model, form=form, sampling=config.sample)
        self.judging = Judging(store, config.judge, config.rating, model=config.model, seed=self._seed("rate"))
        self.prompts = self._make_prompts()
        if self.prompts.metrics:  # nothing in a plan, which computes nothing; a model may have been trained here
            seen = trace(model, None, store)
            leave_unseen(store, self.prompts, [f"model {config.model.name}"], [seen], seen="refuse")
        preflight(
            store,
            self.seed_policy,
            self.prompts,
            forms=[form, DIRECT],
            settings=config.sample,
            judge=config.judge,
        )

    def sample(self, policy: PolicyRef, iteration: int) -> Artifact:
        """K completions of each of the iteration's instructions."""
        return sample(
            self.store,
            policy,
            self.prompts,
            split=f"train-{iteration}",
            settings=policy.sampling,
            engine=self.config.engine,
            seed=self._seed("sample", f"iteration-{iteration}"),
        )

    def judge(self, *completions: Artifact) -> Artifact:
        """A score for each response; those of several sets are judged together, sample indices numbered on."""
        sets = {f"completions_{position}": artifact for position, artifact in enumerate(completions)}
        return self.judging.score({"prompts": self.prompts, **sets})

    def pairs(self, completions: Artifact, scores: Artifact) -> Artifact:
        """Best against worst of each instruction."""
        return make_pairs(self.store, completions, scores, settings=self.config.pairs)

    def train(self, policy: PolicyRef, pairs: Artifact, iteration: int) -> Artifact:
        """What DPO leaves after each epoch, adapters or whole models, starting from `policy`."""
        return train(
            self.store,
            policy,
            pairs,
            settings=self.config.train,
            accelerate=self.config.accelerate,
            seed=self._seed("train", iteration),
        )

    def select(self, checkpoints: Artifact) -> tuple[PolicyRef, Selection]:
        """The next policy: the epoch that the judge prefers on the validation instructions."""
        epochs = range(1, self.config.train.num_epochs + 1)
        policies = {epoch: self.seed_policy.trained(checkpoints, epoch) for epoch in epochs}
        if self.config.train.select == "last" or len(epochs) == 1:
            return policies[epochs[-1]], Selection(epochs[-1], {}, 0)
        scores = self._scores([self._answer(policy, "validation") for policy in policies.values()])
        selection = best_epoch(dict(zip(epochs, scores, strict=True)))
        return policies[selection.epoch], selection

    def baseline(self) -> Artifact:
        """The seed model's direct answers, without a thought prompt, to the test instructions."""
        return self._answer(self.seed_policy.seed_model(form=DIRECT), "test", role="baseline")

    def answer(self, policy: PolicyRef) -> Artifact:
        """The policy's answers to the test instructions."""
        return self._answer(policy, "test")

    def compare(self, answers: Artifact, baseline: Artifact) -> Artifact:
        """Win rates of the policy against the baseline."""
        return compare(
            self.judging, self.prompts, answers, baseline, settings=self.config.eval, seed=self._seed("compare")
        )

    def _scores(self, answers: Sequence[Artifact]) -> Sequence[Iterable[Score]]:
        """The scores of several policies' answers, by policy."""
        if not self.judging.is_comparative:
            # All are requested first: a plan stops at the first rows that are read, and would miss the others.
            judged = [self.judge(artifact) for artifact in answers]
            return [artifact.rows(Score) for artifact in judged]
        scores: list[list[Score]] = [[] for _ in answers]
        for row in self.judge(*answers).rows(Score):  # samples are numbered on from one policy to the next
            position, index = divmod(row.sample_index, self.config.eval.num_samples)
            scores[position].append(replace(row, sample_index=index))
        return scores

    def _answer(self, policy: PolicyRef, split: str, *, role: str = "answer") -> Artifact:
        return sample(
            self.store,
            policy,
            self.prompts,
            split=split,
            settings=answer_settings(policy.sampling, self.config.eval),
            engine=self.config.engine,
            seed=self._seed("sample", role),
        )

    def _make_prompts(self) -> Artifact:
        config = self.config
        prompts = make_prompts(
            self.store, config.prompts, policy=self.seed_policy, engine=config.engine, seed=config.seed
        )
        available = prompts.metrics.get("num_iterations")  # nothing in a plan, which computes nothing
        if available is not None and available < config.num_iterations:
            raise PromptError(
                f"num_iterations={config.num_iterations}, but the instructions last for "
                f"{available} iterations of prompts.num_train={config.prompts.num_train} "
                "fresh ones: lower either, or use a larger source"
            )
        return prompts

    def _seed(self, *parts: str | int) -> int:
        return derive_seed(self.config.seed, *parts)
