"""Train a reward model: `python -m tpo.judge.reward experiment=self_taught`, or `data=my.jsonl` for your own preferences.

Without data the preferences are made from the seed model's responses (`tpo.judge.contrast`): self-taught, no label. Writes
`runs/reward-<hash>/`: config, `summary.json` with the held-out accuracy of each kind of pair, and `reward_model/`,
which `judge=self_taught judge.path=...` uses.
"""

import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import hydra
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from tpo.config.check import check_reward, to_config
from tpo.config.schema import RewardConfig, register
from tpo.sample.engines.load import split_settings
from tpo.store.artifacts import Artifact, Store
from tpo.store.errors import TpoError
from tpo.store.files import file_digest, write_json
from tpo.store.seeds import derive_seed

register()

REWARD_VERSION = 1


class RewardPipeline:
    """Builds the steps of one reward model and runs them through a store."""

    def __init__(self, config: RewardConfig, store: Store) -> None:
        """Prepare the model."""
        from tpo.judge.stages import MODEL_VERSION, model_settings

        self.config, self.store = config, store
        self.model = self.store.request("model", MODEL_VERSION, model_settings(config.model))

    def preferences(self) -> Artifact:
        """The preferences to learn from, and those held out."""
        import tpo.judge.contrast

        if self.config.data is not None:
            path = Path(self.config.data)
            settings = {"sha256": file_digest(path), "held_out_fraction": self.config.held_out_fraction}
            return self.store.request(
                "split_preferences",
                tpo.judge.contrast.VERSION,
                settings,
                seed=self._seed("split"),
                how={"path": str(path)},
            )
        return self._make_preferences()

    def train(self, preferences: Artifact) -> Artifact:
        """The reward model, measured on the held-out preferences."""
        settings = {"settings": asdict(self.config.reward), **self._policy_settings()}
        inputs = {"model": self.model, "preferences": preferences}
        return self.store.request("reward", REWARD_VERSION, settings, inputs, seed=self._seed("reward"))

    def _make_preferences(self) -> Artifact:
        import tpo.judge.contrast
        import tpo.sample.completions
        from tpo.pipeline import PROMPTS_VERSION
        from tpo.sample.thought import DIRECT

        contrast = asdict(self.config.contrast)
        prompts = self.store.request(
            "prompts", PROMPTS_VERSION, {"settings": asdict(self.config.prompts)}, seed=self._seed("prompts")
        )
        inputs: dict[str, Artifact] = {"prompts": prompts}
        decodings = {  # samples per instruction, temperature, top-p
            "plain": (2, contrast["temperature"], contrast["top_p"]),
            "greedy": (1, 0.0, contrast["top_p"]),
            "hot": (1, contrast["hot_temperature"], 1.0),
        }
        for role, (num_samples, temperature, top_p) in decodings.items():
            for split in ("train-1", "validation"):
                settings = {
                    "num_samples": num_samples,
                    "temperature": temperature,
                    "top_p": top_p,
                    "max_thought_tokens": 0,
                    "max_response_tokens": contrast["max_tokens"],
                }
                engine, how = split_settings(asdict(self.config.engine))
                config = {
                    "split": split,
                    "thought": asdict(DIRECT),
                    "settings": settings,
                    "engine": engine,
                    **self._policy_settings(),
                }
                step = {"model": self.model, "prompts": prompts}
                inputs[f"{role}_{split}"] = self.store.request(
                    "sample", tpo.sample.completions.VERSION, config, step, seed=self._seed("sample", role), how=how
                )
        return self.store.request("contrast", tpo.judge.contrast.VERSION, contrast, inputs, seed=self._seed("contrast"))

    def _policy_settings(self) -> dict[str, Any]:
        return {"dtype": self.config.model.dtype, "max_model_len": self.config.model.max_model_len, "epoch": 0}

    def _seed(self, *parts: str | int) -> int:
        return derive_seed(self.config.seed, *parts)


def run_reward(config: RewardConfig) -> Path:
    """Make or read the preferences, train, and return the run's folder."""
    from tpo.results.folder import own_folder
    from tpo.store.execute import open_store

    with open_store(Path(config.artifacts_dir), isolate=config.isolate_stages) as store:
        pipeline = RewardPipeline(config, store)
        preferences = pipeline.preferences()
        trained = pipeline.train(preferences)
    with own_folder("reward", asdict(config)) as path:
        summary = {
            "artifact": trained.artifact_id,
            "preferences": preferences.metrics,
            "training": trained.metrics,
            "weights_sha256": file_digest(trained.path / "reward_model" / "adapter_model.safetensors"),
        }
        write_json(path / "summary.json", summary)
        for target in [path / "reward_model", *([Path(config.export_dir)] if config.export_dir else [])]:
            shutil.copytree(trained.path / "reward_model", target, dirs_exist_ok=True)
    print(json.dumps(trained.metrics["held_out"], indent=2))
    return path


@hydra.main(config_path="../../conf", config_name="reward", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Compose, check and train; errors that are the user's to mend come without a traceback."""
    try:
        config: RewardConfig = to_config(composed)
        check_reward(config)
        path = run_reward(config)
    except TpoError as error:
        raise CompactHydraException(f"error: {error}") from error
    print(path)


if __name__ == "__main__":
    main()
