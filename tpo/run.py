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

from tpo.config.check import check
from tpo.config.entry import Outcome, run_entry
from tpo.config.schema import Config
from tpo.evaluate.inherit import settings_of_seed
from tpo.results.tracking.labels import Launch, read_launch

if TYPE_CHECKING:
    from tpo.pipeline import Pipeline

log = logging.getLogger(__name__)
ABOUT = """\
Thought Preference Optimization ("Thinking LLMs", arXiv 2410.10630): teach an instruct model to think before it answers.

python -m tpo.run                                    which experiments there are
python -m tpo.run experiment=quickstart              the whole loop on the embedded model
python -m tpo.run experiment=quickstart seed=1       override any key
python -m tpo.run -m thought=generic,none            sweep
python -m tpo.run model.name=runs/<run>@2            go on from what another run, or an export, left
python -m tpo.run experiment=tpo_llama3_8b           the paper's setting on one GPU
"""


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
    """Go through the loop of the paper and hand the results of each iteration to `record` (see `Run.record`).

    It ends early, unless `on_collapse` says otherwise, with the iteration whose policy has collapsed.
    """
    policy = tpo.seed_policy  # iteration 0: with the thought prompt and untrained
    baseline = tpo.baseline()
    untrained = answers = tpo.answer(policy)
    record(0, answers, **tpo.measure(answers, baseline), null_control=tpo.null_control(baseline))

    for iteration in range(1, num_iterations + 1):
        completions = tpo.sample(policy, iteration)
        scores = tpo.judge(completions)
        pairs = tpo.pairs(completions, scores)
        checkpoints = tpo.train(policy, pairs, iteration)
        policy, selection = tpo.select(checkpoints)
        answers = tpo.answer(policy)
        collapse = tpo.collapse(answers, untrained)
        record(
            iteration,
            answers,
            **tpo.measure(answers, baseline),
            completions=completions,
            scores=scores,
            pairs=pairs,
            checkpoints=checkpoints,
            selection=selection,
            collapse=collapse,
        )
        if collapse is not None and tpo.config.on_collapse == "stop":
            return


def work(config: Config, hydra: Any) -> Outcome:
    """Run what a job was started with; a search maximizes the `objective`."""
    launch = read_launch(hydra)
    path = run_tpo(config, experiment=launch.choices.get("experiment", "custom"), launch=launch)
    return Outcome(path, objective(json.loads((path / "summary.json").read_text())))


def objective(summary: dict[str, Any]) -> float | None:
    """Return what a search maximizes: the selected policy's mean judge score on the validation instructions.

    Of the last iteration; None where no epochs were compared (`train.select=last`, a single epoch, no training).
    """
    scores = summary["iterations"][-1]["validation_scores"]
    return max(scores.values()) if scores else None


if __name__ == "__main__":
    run_entry(Config, about=ABOUT, check=check, work=work, find_under=settings_of_seed)
