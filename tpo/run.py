"""The entry point: `python -m tpo.run experiment=quickstart` composes a config and runs the TPO loop.

Writes `runs/<experiment>-<hash>/`: the composed config, `summary.json` and `figures/`. The artifacts of the
stages lie in `artifacts/` and are shared between runs.
"""

import json
import logging
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from tpo.config.build import to_config
from tpo.config.check import check
from tpo.config.help import asks_for_help
from tpo.config.schema import Config, register
from tpo.results.tracking.labels import Launch, read_launch
from tpo.store.errors import TpoError

if TYPE_CHECKING:
    from tpo.pipeline import Pipeline

log = logging.getLogger(__name__)
register()


def run_tpo(config: Config, *, experiment: str, launch: Launch | None = None) -> Path:
    """Run Thought Preference Optimization ("Thinking LLMs", section 2) and return the run's folder.

    Every stage that is already in the store is reused, so a killed run continues where it stopped.
    """
    from tpo.pipeline import Pipeline
    from tpo.results.folder import run_name
    from tpo.results.run import Run
    from tpo.store.open import open_store

    name = run_name(experiment, asdict(config))
    with open_store(Path(config.artifacts_dir), isolate=config.isolate_stages, run=name) as store:
        tpo = Pipeline(config, store)
        with Run(config, experiment=experiment, launch=launch) as run:
            iterate(tpo, run.record, num_iterations=config.num_iterations)
            return run.finish(store.asked)


def iterate(tpo: "Pipeline", record: Callable[..., None], *, num_iterations: int) -> None:
    """Go through the loop of the paper and hand the results of each iteration to `record` (see `Run.record`)."""
    policy = tpo.seed_policy  # iteration 0: with the thought prompt and untrained
    baseline = tpo.baseline()
    answers = tpo.answer(policy)
    record(0, answers, comparison=tpo.compare(answers, baseline))

    for iteration in range(1, num_iterations + 1):
        completions = tpo.sample(policy, iteration)
        scores = tpo.judge(completions)
        pairs = tpo.pairs(completions, scores)
        checkpoints = tpo.train(policy, pairs, iteration)
        policy, selection = tpo.select(checkpoints)
        answers = tpo.answer(policy)
        record(
            iteration,
            answers,
            comparison=tpo.compare(answers, baseline),
            completions=completions,
            scores=scores,
            pairs=pairs,
            checkpoints=checkpoints,
            selection=selection,
        )


@hydra.main(config_path="../conf", config_name="config", version_base="1.3")
def main(composed: DictConfig) -> float | None:
    """Compose, check and run; errors that are the user's to mend come without a traceback. Returns the `objective`."""
    try:
        config = to_config(Config, composed)
        check(config)
        launch = read_launch(HydraConfig.get())
        path = run_tpo(config, experiment=launch.choices.get("experiment", "custom"), launch=launch)
    except TpoError as error:
        raise CompactHydraException(f"error: {error}") from error
    print(path)
    return objective(json.loads((path / "summary.json").read_text()))


def objective(summary: dict[str, Any]) -> float | None:
    """Return what a search maximizes: the selected policy's mean judge score on the validation instructions.

    Of the last iteration; None where no epochs were compared (`train.select=last`, a single epoch, no training).
    """
    scores = summary["iterations"][-1]["validation_scores"]
    return max(scores.values()) if scores else None


if __name__ == "__main__" and not asks_for_help():
    main()
