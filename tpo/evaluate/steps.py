"""The steps of one evaluation: like `tpo.pipeline`, but for policies that are named, and for benchmarks.

Here named policies and the group `eval` turn into the identities of steps; what a run of `tpo.run` computed already is
shared where all that it depends on is the same.
"""

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import tpo.evaluate.categories
import tpo.evaluate.interventions
import tpo.sample.completions
import tpo.sample.preflight
from tpo.config.fields import how, identity
from tpo.config.groups import ModelConfig
from tpo.config.schema import EvaluateConfig
from tpo.evaluate.kinds import CategoriesEval
from tpo.evaluate.policies import ADAPTER_CONFIG, NamedPolicy, PolicyError, resolve
from tpo.judge.stages import MODEL_VERSION, Judging, model_settings
from tpo.model.policy import PolicyRef, adapter_input, is_whole_model
from tpo.pipeline import answer_settings, request_comparison, request_prompts
from tpo.sample.thought import DIRECT, ThoughtFormat, make_format
from tpo.store.artifacts import MANIFEST, Artifact, Store, open_artifact
from tpo.store.files import file_digest
from tpo.store.seeds import derive_seed

ADAPTER_VERSION = BENCHMARK_VERSION = REFERENCE_VERSION = CHECK_VERSION = 1


class Player(NamedTuple):
    """A policy that is ready to answer."""

    spec: NamedPolicy
    model: Artifact
    ref: PolicyRef


class Evaluation:
    """Builds the steps of an evaluation and runs them through a store."""

    def __init__(self, config: EvaluateConfig, store: Store) -> None:
        """Prepare the policies, so that one that does not exist fails before anything is sampled."""
        self.config, self.store = config, store
        self._engine, self._engine_how = identity(config.engine), {"engine": how(config.engine)}
        self.judging = Judging(
            config.judge, config.rating, model=config.model, run=store.request, seed=self.seed("rate")
        )
        self.policy = self._player(config.policy, form=make_format(config.thought))

    def baseline(self) -> Player:
        """The configured baseline policy; by default the policy's own model without adapter, direct."""
        if self.config.baseline is None:
            return self.seed_model(self.policy, form=DIRECT)
        return self._player(self.config.baseline, form=DIRECT)

    def seed_model(self, player: Player, *, form: ThoughtFormat) -> Player:
        """The model of a policy without its adapter."""
        how = "direct" if form == DIRECT else "with a thought"
        spec = replace(player.spec, name=f"{player.spec.model.name}, {how}", adapter=None, form=form)
        return Player(spec, player.model, PolicyRef())

    def prompts(self) -> Artifact:
        """The instructions of the group `prompts`, of which the test split counts; classified where asked for."""
        prompts = request_prompts(
            self.store.request,
            self.config.prompts,
            engine=self.config.engine,
            model=self.policy.model,
            policy_settings=self._policy_settings(self.policy.spec.model),
            seed=self.config.seed,
        )
        evaluation = self.config.eval
        if not isinstance(evaluation, CategoriesEval):
            return prompts
        choice = {
            "categories": evaluation.categories,
            "per_category": evaluation.per_category,
            "classifier": identity(evaluation.classifier) if evaluation.classify else None,
        }
        return self.store.request(
            "classify",
            tpo.evaluate.categories.VERSION,
            choice,
            {"prompts": prompts},
            seed=self.seed("classify"),
            how=how(evaluation.classifier),
        )

    def benchmark(self, settings: Mapping[str, Any]) -> Artifact:
        """The instructions of a benchmark, with what it brings besides (`tpo.evaluate.benchmarks`).

        Args:
            settings: `name` and what the benchmark's loader takes; values of keys that end in "path" are local files.
        """
        paths = {key: value for key, value in settings.items() if key.endswith("path") and value is not None}
        config = {key: value for key, value in settings.items() if not key.endswith("path")}
        config |= {f"{key}_sha256": file_digest(Path(value)) for key, value in paths.items()}
        return self.store.request("benchmark", BENCHMARK_VERSION, config, seed=self.seed("benchmark"), how=paths)

    def reference(self, benchmark: Artifact) -> Artifact:
        """The answers that a benchmark compares with, as completions."""
        return self.store.request("reference", REFERENCE_VERSION, {}, {"benchmark": benchmark})

    def answers(self, player: Player, prompts: Artifact, *, role: str = "answer", **changes: Any) -> Artifact:
        """A policy's answers to the test instructions; `changes` replace settings of `sample`."""
        spec = player.spec
        settings = answer_settings(spec.sample, self.config.eval) | changes
        self._preflight(player, prompts, settings)
        config = {"split": "test", "thought": asdict(spec.form), "settings": settings, **self._how(player)}
        return self.store.request(
            "sample",
            tpo.sample.completions.VERSION,
            config,
            self._inputs(player, prompts),
            seed=self.seed("sample", role),
            how=self._engine_how,
        )

    def intervene(
        self, player: Player, prompts: Artifact, thoughts: Artifact, intervention: dict[str, Any]
    ) -> Artifact:
        """A policy's answers after given thoughts (`tpo.evaluate.interventions`): those of the completions `thoughts`, altered."""
        settings = answer_settings(player.spec.sample, self.config.eval)
        config = {
            "thought": asdict(player.spec.form),
            "settings": {key: settings[key] for key in ("temperature", "top_p", "max_response_tokens")},
            "intervention": intervention,
            **self._how(player),
        }
        inputs = {**self._inputs(player, prompts), "thoughts": thoughts}
        return self.store.request(
            "intervene",
            tpo.evaluate.interventions.VERSION,
            config,
            inputs,
            seed=self.seed("intervene"),
            how=self._engine_how,
        )

    def compare(self, prompts: Artifact, answers: Artifact, baseline: Artifact) -> Artifact:
        """Win rates of one set of answers against another."""
        return request_comparison(
            self.judging, prompts, answers, baseline, settings=self.config.eval, seed=self.seed("compare")
        )

    def check(self, benchmark: Artifact, answers: Artifact) -> Artifact:
        """What a program can tell of the answers to a benchmark that needs no judge."""
        config = {"benchmark": self.config.eval.kind, "confidence": self.config.eval.confidence}
        return self.store.request("check", CHECK_VERSION, config, {"benchmark": benchmark, "completions": answers})

    def seed(self, *parts: str | int) -> int:
        """Return the seed of a step."""
        return derive_seed(self.config.seed, *parts)

    def _player(self, text: str, *, form: ThoughtFormat) -> Player:
        config = self.config
        spec = resolve(
            text, model=config.model, form=form, sample=config.sample, artifacts_dir=Path(config.artifacts_dir)
        )
        model = self.store.request("model", MODEL_VERSION, model_settings(spec.model))
        return Player(spec, model, PolicyRef() if spec.adapter is None else self._adapter(spec.adapter))

    def _adapter(self, path: Path) -> PolicyRef:
        """The adapter as an epoch of the artifact that it lies in, or imported into one where it lies in none."""
        home = path.resolve().parent
        if (home / MANIFEST).exists() and home.parent == self.store.root.resolve():
            return PolicyRef(
                open_artifact(self.store.root / home.name), int(path.resolve().name.removeprefix("epoch-"))
            )
        if is_whole_model(path):
            raise PolicyError(
                f"policy {path}: this is a whole model, which is not copied from one directory of artifacts to "
                f"another: set artifacts_dir={home.parent}"
            )
        digests = {file.name: file_digest(file) for file in sorted(path.glob("adapter_*")) if file.is_file()}
        if not any(name.startswith("adapter_model.") for name in digests):
            raise PolicyError(
                f"policy {path}: there is {ADAPTER_CONFIG}, but no weights (adapter_model.safetensors): copy or save "
                "the adapter again"
            )
        imported = self.store.request("adapter", ADAPTER_VERSION, {"files": digests}, how={"path": str(path)})
        return PolicyRef(imported, 1)

    def _how(self, player: Player) -> dict[str, Any]:
        return {
            "engine": self._engine,
            **self._policy_settings(player.spec.model),
            "epoch": player.ref.epoch,
        }

    def _inputs(self, player: Player, prompts: Artifact) -> dict[str, Artifact]:
        return {"model": player.model, "prompts": prompts, **adapter_input(player.ref)}

    def _preflight(self, player: Player, prompts: Artifact, settings: dict[str, Any]) -> None:
        config = {
            "forms": [asdict(player.spec.form)],
            "sample": settings,
            "judge": asdict(self.judging.judge),
            **self._policy_settings(player.spec.model),
        }
        self.store.request(
            "preflight", tpo.sample.preflight.VERSION, config, {"model": player.model, "prompts": prompts}
        )

    @staticmethod
    def _policy_settings(model: ModelConfig) -> dict[str, Any]:
        return {"dtype": model.dtype, "max_model_len": model.max_model_len, "epoch": 0}
