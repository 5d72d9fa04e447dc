"""What the loop asks for: each method requests one artifact of the method, a line of the loop in `tpo.run`.

What an artifact depends on stands in its step's `stages.py`; runs share whatever they agree on.
"""

from collections.abc import Iterable, Sequence

from tpo.config.groups import JudgeConfig
from tpo.config.schema import Config
from tpo.evaluate.collapse import find_collapse
from tpo.evaluate.kinds.held_out import HeldOutEval
from tpo.evaluate.lineage import leave_unseen, log_unknown, trace
from tpo.evaluate.seeds import check_continued, find_seed, seed_policy
from tpo.evaluate.stages import answer_settings, checked, compare
from tpo.judge.responses import take_apart
from tpo.judge.select import Selection, best_epoch, only_epoch
from tpo.judge.stages import Judging
from tpo.model.policy import PolicyRef
from tpo.model.stages import require_askable
from tpo.pairs.stages import make_pairs
from tpo.sample.prompts import PromptError
from tpo.sample.stages import make_prompts, preflight, sample
from tpo.store.artifacts import Artifact
from tpo.store.records import Completion, Score
from tpo.store.seeds import derive_seed
from tpo.store.store import Store
from tpo.train.stages import train


class Pipeline:
    """The steps of one experiment, run through a store.

    Attributes:
        seed_policy: The seed model with the thought prompt, untrained: the policy of iteration 0.
        judging: The judge, which teaches and compares.
        second_judging: The judge that only compares (`eval.judge`), where there is one.
    """

    def __init__(self, config: Config, store: Store) -> None:
        """Prepare seed model and instructions, so that bad ones fail before anything is sampled."""
        self.config, self.store = config, store
        form = config.thought
        self.seed_policy = seed_policy(store, config.model, form=form, sampling=config.sample)
        check_continued(self.seed_policy, config.train)
        require_askable(self.seed_policy.model, [form, config.model.direct_form])
        assert isinstance(config.eval, HeldOutEval)  # checked by tpo.config.check
        self.eval = config.eval
        judges = [config.judge, *([] if self.eval.judge is None else [self.eval.judge])]
        self.judging, *second = [self._judging_by(judge) for judge in judges]
        self.second_judging = second[0] if second else None
        self.prompts = self._make_prompts()
        if self.prompts.metrics:  # nothing in a plan, which computes nothing; a model may have been trained here
            seen, name = trace(self.seed_policy.model, self.seed_policy.weights, store), f"model {config.model.name}"
            log_unknown(name, self.seed_policy, seen, is_from_elsewhere=False)
            leave_unseen(store, self.prompts, [name], [seen], seen="refuse")
        for judge in judges:
            self.prompts = preflight(
                store,
                self.seed_policy,
                self.prompts,
                forms=[form, config.model.direct_form],
                settings=config.sample,
                engine=config.engine,
                judge=judge,
                leaves_out=True,
                lora_targets=config.train.named_targets,
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
        """Chosen against rejected of each instruction."""
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
            return policies[epochs[-1]], only_epoch(epochs[-1])
        answers = {epoch: self._answer(policy, "validation") for epoch, policy in policies.items()}
        scores = dict(zip(epochs, self._scores(list(answers.values())), strict=True))
        selection = best_epoch(scores, {epoch: artifact.rows(Completion) for epoch, artifact in answers.items()})
        return policies[selection.epoch], selection

    def baseline(self) -> Artifact:
        """The seed model's direct answers, without a thought prompt, to the test instructions."""
        return self._answer(self._direct, "test", role="baseline", is_baseline=True)

    def answer(self, policy: PolicyRef) -> Artifact:
        """The policy's answers to the test instructions."""
        return self._answer(policy, "test")

    def measure(self, answers: Artifact, baseline: Artifact) -> dict[str, Artifact]:
        """What is found of answers to the test instructions, by role: the arguments of `Run.record`.

        Always "comparison", with the baseline by the run's judge; "second_comparison" where `eval.judge` is another;
        "checked" and, with the baseline's, "baseline_checked" where instructions have checks of their own.
        """
        found = {"comparison": self._compare(self.judging, answers, baseline)}
        if self.second_judging is not None:
            found["second_comparison"] = self._compare(self.second_judging, answers, baseline)
        if self.config.prompts.has_checks:
            found["checked"] = checked(self.store, self.prompts, answers, self.eval)
            found["baseline_checked"] = checked(self.store, self.prompts, baseline, self.eval)
        return found

    def control(self) -> Artifact | None:
        """The untrained direct policy's further draws, where asked for.

        Without thoughts the policy of iteration 0 is that already, and nothing is sampled for it.
        """
        if not self.eval.null_control:
            return None
        is_direct = self.seed_policy.form == self._direct.form
        return self.answer(self.seed_policy) if is_direct else self._answer(self._direct, "test", role="null_control")

    def null_control(self, control: Artifact | None, baseline: Artifact) -> Artifact | None:
        """The control's draws against the baseline's, where there are any: one half is right."""
        return None if control is None else self._compare(self.judging, control, baseline)

    def _judging_by(self, judge: JudgeConfig) -> Judging:
        base = find_seed(self.config.model, self.store).model
        return Judging(self.store, judge, self.config.rating, model=base, seed=self._seed("rate"))

    @property
    def _direct(self) -> PolicyRef:
        return self.seed_policy.seed_model(form=self.config.model.direct_form)

    def _compare(self, judging: Judging, answers: Artifact, baseline: Artifact) -> Artifact:
        return compare(judging, self.prompts, answers, baseline, settings=self.eval, seed=self._seed("compare"))

    def collapse(self, answers: Artifact, untrained: Artifact) -> str | None:
        """Say how training has broken the policy, if it has; `untrained` are the answers of iteration 0."""
        return find_collapse(answers.rows(Completion), untrained.rows(Completion))

    def _scores(self, answers: Sequence[Artifact]) -> Sequence[Iterable[Score]]:
        """The scores of several policies' answers, by policy."""
        if not self.judging.is_comparative:
            # All are requested first: a plan stops at the first rows that are read, and would miss the others.
            judged = [self.judge(artifact) for artifact in answers]
            return [artifact.rows(Score) for artifact in judged]
        return take_apart(self.judge(*answers).rows(Score), answers)

    def _answer(self, policy: PolicyRef, split: str, *, role: str = "answer", is_baseline: bool = False) -> Artifact:
        return sample(
            self.store,
            policy,
            self.prompts,
            split=split,
            settings=answer_settings(policy.sampling, self.eval, is_baseline=is_baseline),
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
