"""Evaluate a policy: `python -m tpo.evaluate policy=runs/<run> eval=alpaca_eval`.

`policy=` names a run, an adapter or a model (`tpo.evaluate.policies`), `eval=` what is measured. Thoughts are removed
before anything is judged or measured. Writes `runs/evaluate-<eval>-<hash>/`: config, `summary.json`, figures, and the
files that a benchmark's official tool reads. All steps are artifacts, so a killed evaluation continues.
"""

import logging
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tpo.config.check import check_evaluate
from tpo.config.entry import Outcome, run_entry
from tpo.config.schema import EvaluateConfig
from tpo.evaluate.inherit import settings_of_run
from tpo.evaluate.measure import EvaluationConfig
from tpo.results.tracking.labels import Launch, evaluation_labels, read_launch
from tpo.store.files import translate_disk_errors, write_sealed

log = logging.getLogger(__name__)
ABOUT = """\
What is a policy worth? Win rates on held-out instructions, benchmarks, and what its thoughts are worth.

python -m tpo.evaluate policy=seed                                the seed model with the thought prompt, untrained
python -m tpo.evaluate policy=runs/<run>                          a run's last policy, measured as the run did; @1
python -m tpo.evaluate policy=runs/<run> eval=thought_value       what its thoughts are worth
python -m tpo.evaluate policy=runs/<run> eval=alpaca_eval         a benchmark, with the judge that it names
python -m tpo.evaluate policy=Qwen/Qwen3-0.6B judge=reward_model  any other model, any judge
"""


def run_evaluation(config: EvaluateConfig, *, launch: Launch | None = None) -> Path:
    """Evaluate and return the folder that holds what came out.

    Another process that is started on the same evaluation waits, then finds all steps computed and the result tracked.
    """
    from tpo.evaluate.steps import Evaluation
    from tpo.results.figures import write_evaluation_figures
    from tpo.results.folder import own_folder, run_name, settings_of, stage_list
    from tpo.results.run_tables import evaluation_table
    from tpo.results.terminal import Terminal
    from tpo.results.text_table import print_tables
    from tpo.results.tracking import log_evaluation
    from tpo.store.in_use import noting
    from tpo.store.open import open_store

    assert isinstance(config.eval, EvaluationConfig)
    launch, plain, root = launch or Launch(), asdict(config), Path(config.artifacts_dir)
    title = f"evaluate-{config.eval.kind}"
    name = run_name(title, plain)
    with (
        Terminal(is_short=launch.is_sweep) as terminal,
        open_store(root, isolate=config.isolate_stages, run=name, listeners=[terminal]) as store,
    ):
        terminal.rows(header(config, launch))
        with own_folder(title, plain) as path, noting(store, path / "summary.json"):
            steps = Evaluation(config, store)
            found = config.eval.measure(steps, path)
            summary = {
                "evaluation": config.eval.kind,
                "policy": steps.policy.name,
                "judge": config.judge.title if config.eval.asks_judge else None,  # a program checked
                "settings": settings_of(plain),
                "seed": config.seed,
                "confidence": config.eval.confidence,
                "num_left_out": steps.num_left_out,
                **found,
                "stages": stage_list(store.asked, run=name),
            }
            with translate_disk_errors(path):
                write_sealed(path / "summary.json", summary)
                write_evaluation_figures(summary, path / "figures")
            print_tables(evaluation_table(summary))
            labels = evaluation_labels(launch)
            log_evaluation(config.tracking, run_path=path, config=plain, summary=summary, labels=labels)
    return path


def header(config: EvaluateConfig, launch: Launch) -> dict[str, str | None]:
    """Return what is said of an evaluation before it begins, by the name of the line."""
    return {
        "evaluation": config.eval.kind,
        "policy": config.policy,
        "baseline": config.baseline,
        "model": config.model.name,
        "judge": config.judge.title if config.eval.asks_judge else None,
        "log": launch.log,
    }


def work(config: EvaluateConfig, hydra: Any) -> Outcome:
    """Evaluate what a job was started with."""
    launch = read_launch(hydra)
    if settings_of_run({"policy": config.policy, "baseline": config.baseline}) is not None:
        # Hydra knows the options of conf/, not what the run has in their place.
        found = {"eval": config.eval.kind, "judge": config.judge.title}
        launch = replace(launch, choices={**launch.choices, **found})
    return Outcome(run_evaluation(config, launch=launch))


if __name__ == "__main__":
    run_entry(EvaluateConfig, about=ABOUT, check=check_evaluate, work=work, find_under=settings_of_run)
