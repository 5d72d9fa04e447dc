"""What an evaluation asks for: answers of policies that are named, to instructions or benchmarks, judged or checked.

What a run of `tpo.run` computed already is shared where all that it depends on is the same. Instructions that a policy
has seen in its training are refused, or left out and counted (`tpo.evaluate.lineage`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tpo.config.groups import JudgeConfig
from tpo.config.schema import EvaluateConfig
from tpo.config.thought import ThoughtFormat
from tpo.evaluate import stages
from tpo.evaluate.lineage import leave_unseen, log_unknown, trace
from tpo.evaluate.policies import find_policy
from tpo.evaluate.seeds import find_seed
from tpo.judge.stages import Judging
from tpo.model.policy import PolicyRef
from tpo.model.stages import require_askable
from tpo.sample.stages import make_prompts, preflight, sample
from tpo.store.artifacts import Artifact
from tpo.store.seeds import derive_seed
from tpo.store.store import Store


class Evaluation:
    """The steps of one evaluation, requested one method at a time.

    Attributes:
        num_left_out: Test instructions that were left out because a policy has seen them.
    """

    def __init__(self, config: EvaluateConfig, store: Store) -> None:
        """Prepare the policies, so that one that does not exist fails before anything is sampled."""
        self.config, self.store = config, store
        self.judging = self.judging_by(config.judge)
        self.policy = self._find(config.policy, form=config.thought, has_own_settings=False)
        require_askable(self.policy.model, [self.policy.form])
        self.num_left_out = 0

    def baseline(self) -> PolicyRef:
        """The configured baseline policy; by default the policy's own model without adapter, direct."""
        if self.config.baseline is None:
            return self.policy.seed_model(form=self.policy.settings.direct_form)
        return self._find(self.config.baseline, form=self.config.model.direct_form, has_own_settings=True)

    def prompts(self) -> Artifact:
        """The instructions of the group `prompts`, of which the test split counts; those that are too long left out."""
        config = self.config
        prompts = make_prompts(self.store, config.prompts, policy=self.policy, engine=config.engine, seed=config.seed)
        return self._unseen(self._fitting(prompts, self.policy, leaves_out=True))

    def benchmark(self, settings: Mapping[str, Any]) -> Artifact:
        """The instructions of a benchmark (see `stages.benchmark`)."""
        return self._unseen(stages.benchmark(self.store, settings, seed=self.seed("benchmark")))

    def answers(self, policy: PolicyRef, prompts: Artifact, *, role: str = "answer", **changes: Any) -> Artifact:
        """A policy's answers to the test instructions; `changes` replace settings of `sample`."""
        settings = replace(stages.answer_settings(policy.sampling, self.config.eval), **changes)
        budgets = {name: value for name, value in changes.items() if name.startswith("max_")}
        self._fitting(prompts, policy, leaves_out=False, **budgets)
        return sample(
            self.store,
            policy,
            prompts,
            split="test",
            settings=settings,
            engine=self.config.engine,
            seed=self.seed("sample", role),
        )

    def reference(self, prompts: Artifact) -> Artifact:
        """The baseline's answers, of which each instruction has `eval.baseline_samples`."""
        num_samples = self.config.eval.baseline_samples
        return self.answers(self.baseline(), prompts, role="baseline", num_samples=num_samples)

    def intervene(
        self, policy: PolicyRef, prompts: Artifact, thoughts: Artifact, intervention: dict[str, Any]
    ) -> Artifact:
        """A policy's answers after given thoughts: those of the completions `thoughts`, altered."""
        return stages.intervene(
            self.store,
            policy,
            prompts,
            thoughts,
            intervention=intervention,
            settings=stages.answer_settings(policy.sampling, self.config.eval),
            engine=self.config.engine,
            seed=self.seed("intervene"),
        )

    def compare(
        self, prompts: Artifact, answers: Artifact, baseline: Artifact | None, *, judging: Judging | None = None
    ) -> Artifact:
        """Win rates of one set of answers against another; None: against a benchmark's own, or by the judge."""
        return stages.compare(
            judging or self.judging, prompts, answers, baseline, settings=self.config.eval, seed=self.seed("compare")
        )

    def judging_by(self, judge: JudgeConfig) -> Judging:
        """What judges with a judge."""
        config = self.config
        base = find_seed(config.model, self.store).model
        return Judging(self.store, judge, config.rating, model=base, seed=self.seed("rate"))

    def check(self, benchmark: Artifact, answers: Artifact) -> Artifact:
        """What a program can tell of the answers to a benchmark that needs no judge."""
        return stages.check(self.store, benchmark, answers, self.config.eval)

    def checked(self, prompts: Artifact, answers: Artifact) -> Artifact:
        """Which test instructions' own checks the answers pass."""
        return stages.checked(self.store, prompts, answers, self.config.eval)

    def seed(self, *parts: str | int) -> int:
        """Return the seed of a step."""
        return derive_seed(self.config.seed, *parts)

    def _judges(self) -> list[JudgeConfig | None]:
        """The judges that are asked; None where a program checks."""
        evaluation = self.config.eval
        if not evaluation.asks_judge:
            return [None]
        second = getattr(evaluation, "judge", None)
        return [self.config.judge, *([] if second is None else [second])]

    def _find(self, text: str, *, form: ThoughtFormat, has_own_settings: bool) -> PolicyRef:
        config = self.config
        return find_policy(
            text,
            self.store,
            model=config.model,
            form=form,
            sample=config.sample,
            has_own_settings=has_own_settings,
        )

    def _fitting(self, prompts: Artifact, policy: PolicyRef, *, leaves_out: bool, **budgets: Any) -> Artifact:
        """Return the instructions that fit, checked as a run does, so that the check of its instructions is its own."""
        forms = [self.policy.form, policy.settings.direct_form]
        for judge in self._judges():
            prompts = preflight(
                self.store,
                policy,
                prompts,
                forms=forms if policy.form in forms else [*forms, policy.form],
                settings=replace(policy.sampling, **budgets),
                engine=self.config.engine,
                judge=judge,
                leaves_out=leaves_out,
            )
        return prompts

    def _unseen(self, prompts: Artifact) -> Artifact:
        """Return the instructions that policy and baseline have not seen."""
        policies = {self.config.policy: self.policy}
        if self.config.baseline is not None:
            policies[self.config.baseline] = self.baseline()
        lineages = [trace(policy.model, policy.weights, self.store) for policy in policies.values()]
        for (text, policy), lineage in zip(policies.items(), lineages, strict=True):
            log_unknown(f"policy {text}", policy, lineage, is_from_elsewhere=policy.settings.name == text)
        kept = leave_unseen(self.store, prompts, list(policies), lineages, seen=self.config.eval.seen)
        self.num_left_out = kept.metrics.get("num_left_out", 0)
        return kept
