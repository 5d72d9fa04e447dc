"""The stages of one experiment: each method asks the store for one artifact of the method.

Here, and only here, a composed config turns into the identities of steps: what a stage's result depends on
goes into its step, what does not stays out, and runs share whatever they agree on.
"""

from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import tpo.evaluate.compare
import tpo.pairs
import tpo.sample.completions
import tpo.sample.preflight
import tpo.sample.synthetic
from tpo.config.fields import file_digests, how, identity
from tpo.config.groups import EngineConfig, EvalConfig, PromptsConfig, SampleConfig
from tpo.config.schema import Config
from tpo.judge.select import Selection, best_epoch
from tpo.judge.stages import MODEL_VERSION, Judging, RunStep, model_settings
from tpo.model.policy import PolicyRef, adapter_input
from tpo.sample.prompts import PromptError
from tpo.sample.thought import DIRECT, ThoughtFormat, make_format
from tpo.store.artifacts import Artifact, Store
from tpo.store.records import Score
from tpo.store.seeds import derive_seed

PROMPTS_VERSION = 1
TRAIN_VERSION = 2


class Pipeline:
    """Builds the steps of one experiment and runs them through a store."""

    def __init__(self, config: Config, store: Store) -> None:
        """Prepare seed model and instructions, so that bad ones fail before anything is sampled."""
        self.config, self.store = config, store
        self.stages: list[Artifact] = []
        self.form = make_format(config.thought)
        self.model = self._run("model", MODEL_VERSION, model_settings(config.model))
        self.judging = Judging(config.judge, config.rating, model=config.model, run=self._run, seed=self._seed("rate"))
        self.prompts = self._make_prompts()
        self._preflight()

    def sample(self, policy: PolicyRef, iteration: int) -> Artifact:
        """K completions of each of the iteration's instructions."""
        settings = asdict(self.config.sample)
        return self._sample(policy, f"train-{iteration}", self.form, settings, role=f"iteration-{iteration}")

    def judge(self, *completions: Artifact) -> Artifact:
        """A score for each response; those of several sets are judged together, sample indices numbered on."""
        sets = {f"completions_{position}": artifact for position, artifact in enumerate(completions)}
        return self.judging.score({"prompts": self.prompts, **sets})

    def pairs(self, completions: Artifact, scores: Artifact) -> Artifact:
        """Best against worst of each instruction."""
        inputs = {"completions": completions, "scores": scores}
        return self._run("pairs", tpo.pairs.VERSION, asdict(self.config.pairs), inputs)

    def train(self, policy: PolicyRef, pairs: Artifact, iteration: int) -> Artifact:
        """The adapters after each epoch of DPO, starting from `policy`."""
        settings = identity(self.config.train) | {"quantization": self.config.model.quantization}
        if policy.adapter is None:
            settings["reference"] = "previous"  # it is the seed model too, so both are one artifact
        inputs = {"model": self.model, "pairs": pairs, **adapter_input(policy)}
        config: dict[str, Any] = {"settings": settings, **self._policy_settings(policy)}
        num_processes = self.config.train.num_processes
        if num_processes > 1:  # what is computed is the same, but not to the last bit
            config["accelerate"] = identity(self.config.accelerate) | {"num_processes": num_processes}
        return self._run("train", TRAIN_VERSION, config, inputs, seed=self._seed("train", iteration))

    def select(self, checkpoints: Artifact) -> tuple[PolicyRef, Selection]:
        """The next policy: the epoch that the judge prefers on the validation instructions."""
        epochs = range(1, self.config.train.num_epochs + 1)
        if self.config.train.select == "last" or len(epochs) == 1:
            return PolicyRef(checkpoints, epochs[-1]), Selection(epochs[-1], {}, 0)
        policies = [PolicyRef(checkpoints, epoch) for epoch in epochs]
        scores = self._scores([self._answer(policy, "validation", self.form) for policy in policies])
        selection = best_epoch(dict(zip(epochs, scores, strict=True)))
        return PolicyRef(checkpoints, selection.epoch), selection

    def baseline(self) -> Artifact:
        """The seed model's direct answers to the test instructions."""
        return self._answer(PolicyRef(), "test", DIRECT, role="baseline")

    def answer(self, policy: PolicyRef) -> Artifact:
        """The policy's answers to the test instructions."""
        return self._answer(policy, "test", self.form)

    def compare(self, answers: Artifact, baseline: Artifact) -> Artifact:
        """Win rates of the policy against the baseline."""
        return request_comparison(
            self.judging, self.prompts, answers, baseline, settings=self.config.eval, seed=self._seed("compare")
        )

    def _scores(self, answers: Sequence[Artifact]) -> list[list[Score]]:
        """The scores of several policies' answers, one sample each."""
        if not self.judging.is_comparative:
            judged = [self.judge(artifact) for artifact in answers]  # all are asked for before one is read
            return [artifact.rows(Score) for artifact in judged]
        rows = self.judge(*answers).rows(Score)
        return [
            [replace(row, sample_index=0) for row in rows if row.sample_index == position]
            for position in range(len(answers))
        ]

    def _answer(self, policy: PolicyRef, split: str, form: ThoughtFormat, *, role: str = "answer") -> Artifact:
        settings = answer_settings(self.config.sample, self.config.eval)
        return self._sample(policy, split, form, settings, role=role)

    def _sample(
        self, policy: PolicyRef, split: str, form: ThoughtFormat, settings: dict[str, Any], *, role: str
    ) -> Artifact:
        config = {
            "split": split,
            "thought": asdict(form),
            "settings": settings,
            "engine": identity(self.config.engine),
            **self._policy_settings(policy),
        }
        inputs = {"model": self.model, "prompts": self.prompts, **adapter_input(policy)}
        return self._run(
            "sample",
            tpo.sample.completions.VERSION,
            config,
            inputs,
            seed=self._seed("sample", role),
            how={"engine": how(self.config.engine)},
        )

    def _make_prompts(self) -> Artifact:
        prompts = request_prompts(
            self._run,
            self.config.prompts,
            engine=self.config.engine,
            model=self.model,
            policy_settings=self._policy_settings(PolicyRef()),
            seed=self.config.seed,
        )
        available = prompts.metrics.get("num_iterations")  # a plan does not know it
        if available is not None and available < self.config.num_iterations:
            raise PromptError(
                f"num_iterations={self.config.num_iterations}, but the instructions last for "
                f"{available} iterations of prompts.num_train={self.config.prompts.num_train} "
                "fresh ones: lower either, or use a larger source"
            )
        return prompts

    def _preflight(self) -> None:
        config = {
            "forms": [asdict(self.form), asdict(DIRECT)],
            "sample": asdict(self.config.sample),
            "judge": asdict(self.config.judge),
            **self._policy_settings(PolicyRef()),
        }
        inputs = {"model": self.model, "prompts": self.prompts}
        self._run("preflight", tpo.sample.preflight.VERSION, config, inputs)

    def _policy_settings(self, policy: PolicyRef) -> dict[str, Any]:
        model = self.config.model
        return {"dtype": model.dtype, "max_model_len": model.max_model_len, "epoch": policy.epoch}

    def _seed(self, *parts: str | int) -> int:
        return derive_seed(self.config.seed, *parts)

    def _run(self, *parts: Any, **more: Any) -> Artifact:
        """Return the artifact that `Store.request` gives for these arguments, and list it among the run's stages."""
        artifact = self.store.request(*parts, **more)
        if artifact.artifact_id not in {done.artifact_id for done in self.stages}:
            self.stages.append(artifact)
        return artifact


def request_prompts(
    run: RunStep,
    prompts: PromptsConfig,
    *,
    engine: EngineConfig,
    model: Artifact,
    policy_settings: dict[str, Any],
    seed: int,
) -> Artifact:
    """Return the instructions of the group `prompts`; `model` and `engine` generate them where they are synthetic."""
    config: dict[str, Any] = {"settings": identity(prompts), **file_digests(prompts)}
    inputs: dict[str, Artifact] = {}
    if prompts.are_generated:
        step = config | {"engine": identity(engine), **policy_settings}
        inputs["candidates"] = run(
            "synthesize",
            tpo.sample.synthetic.VERSION,
            step,
            {"model": model},
            seed=derive_seed(seed, "synthesize"),
            how={"engine": how(engine)},
        )
    return run("prompts", PROMPTS_VERSION, config, inputs, seed=derive_seed(seed, "prompts"))


def answer_settings(sample: SampleConfig, evaluation: EvalConfig) -> dict[str, Any]:
    """Return how answers that are compared are sampled: the group `sample` as `eval` changes it."""
    return asdict(sample) | {
        "num_samples": evaluation.num_samples,
        "temperature": evaluation.temperature,
        "top_p": evaluation.top_p,
    }


def request_comparison(
    judging: Judging, prompts: Artifact, answers: Artifact, baseline: Artifact, *, settings: EvalConfig, seed: int
) -> Artifact:
    """Judge two sets of answers to the test instructions and return their comparison.

    Judged together where a score means something only beside others; a pairwise judge is asked about the policy's
    samples against the baseline's, not about the samples among themselves.
    """
    both = {"prompts": prompts, "completions_0": answers, "completions_1": baseline}
    inputs = {"prompts": prompts, "completions": answers, "baseline_completions": baseline}
    index = settings.num_samples  # of the baseline's response beside the policy's samples
    if judging.gives_verdicts:
        inputs["verdicts"] = judging.verdicts(both, against=index)
    elif judging.is_comparative:
        inputs["scores"] = inputs["baseline_scores"] = judging.score(both)
    else:
        index = 0
        inputs["scores"] = judging.score({"prompts": prompts, "completions_0": answers})
        inputs["baseline_scores"] = judging.score({"prompts": prompts, "completions_0": baseline})
    config = {
        "confidence": settings.confidence,
        "no_response": settings.no_response,
        "baseline_index": index,
    }
    return judging.run("compare", tpo.evaluate.compare.VERSION, config, inputs, seed=seed)
