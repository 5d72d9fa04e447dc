"""What an evaluation asks for: answers of policies that are named, to instructions or benchmarks, judged or checked.

What a run of `tpo.run` computed already is shared where all that it depends on is the same.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tpo.config.groups import JudgeConfig
from tpo.config.schema import EvaluateConfig
from tpo.config.thought import DIRECT, ThoughtFormat
from tpo.evaluate import stages
from tpo.evaluate.policies import find_policy
from tpo.judge.stages import Judging
from tpo.model.policy import PolicyRef
from tpo.sample.stages import make_prompts, preflight, sample
from tpo.store.artifacts import Artifact, Store
from tpo.store.seeds import derive_seed


class Evaluation:
    """The steps of one evaluation, requested one method at a time."""

    def __init__(self, config: EvaluateConfig, store: Store) -> None:
        """Prepare the policies, so that one that does not exist fails before anything is sampled."""
        self.config, self.store = config, store
        self.judging = self.judging_by(config.judge)
        self.policy = self._find(config.policy, form=config.thought)

    def baseline(self) -> PolicyRef:
        """The configured baseline policy; by default the policy's own model without adapter, direct."""
        if self.config.baseline is None:
            return self.policy.seed_model(form=DIRECT)
        return self._find(self.config.baseline, form=DIRECT)

    def prompts(self) -> Artifact:
        """The instructions of the group `prompts`, of which the test split counts."""
        config = self.config
        return make_prompts(self.store, config.prompts, policy=self.policy, engine=config.engine, seed=config.seed)

    def benchmark(self, settings: Mapping[str, Any]) -> Artifact:
        """The instructions of a benchmark (see `stages.benchmark`)."""
        return stages.benchmark(self.store, settings, seed=self.seed("benchmark"))

    def answers(self, policy: PolicyRef, prompts: Artifact, *, role: str = "answer", **changes: Any) -> Artifact:
        """A policy's answers to the test instructions; `changes` replace settings of `sample`."""
        settings = replace(stages.answer_settings(policy.sampling, self.config.eval), **changes)
        preflight(
            self.store,
            policy,
            prompts,
            forms=[policy.form],
            settings=settings,
            judge=self.config.judge,
        )
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
        return Judging(self.store, judge, config.rating, model=config.model, seed=self.seed("rate"))

    def check(self, benchmark: Artifact, answers: Artifact) -> Artifact:
        """What a program can tell of the answers to a benchmark that needs no judge."""
        return stages.check(self.store, benchmark, answers, self.config.eval)

    def checked(self, prompts: Artifact, answers: Artifact) -> Artifact:
        """Which test instructions' own checks the answers pass."""
        return stages.checked(self.store, prompts, answers, self.config.eval)

    def seed(self, *parts: str | int) -> int:
        """Return the seed of a step."""
        return derive_seed(self.config.seed, *parts)

    def _find(self, text: str, *, form: ThoughtFormat) -> PolicyRef:
        config = self.config
        return find_policy(text, self.store, model=config.model, form=form, sample=config.sample)
