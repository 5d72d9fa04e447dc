"""Evaluate a policy: `python -m tpo.evaluate policy=runs/<run> eval=alpaca_eval`.

`policy=` names a run, an adapter or a model (`tpo.evaluate.policies`), `eval=` what is measured. Thoughts are removed
before anything is judged or measured. Writes `runs/evaluate-<eval>-<hash>/`: config, `summary.json`, figures, and the
files that a benchmark's official tool reads. All steps are artifacts, so a killed evaluation continues.
"""

import logging
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from omegaconf import DictConfig

from tpo.config.build import to_config
from tpo.config.check import check_evaluate
from tpo.config.schema import EvaluateConfig, register
from tpo.evaluate.kinds import (
    AlpacaEvalEval,
    ArenaHardEval,
    CategoriesEval,
    Gsm8kEval,
    IfevalEval,
    ThoughtBudgetEval,
    ThoughtValueEval,
)
from tpo.results.tracking.labels import Launch, evaluation_labels, read_launch
from tpo.store.errors import TpoError
from tpo.store.files import translate_disk_errors, write_json

if TYPE_CHECKING:
    from tpo.evaluate.steps import Evaluation

log = logging.getLogger(__name__)
register()


def run_evaluation(config: EvaluateConfig, *, launch: Launch | None = None) -> Path:
    """Evaluate and return the folder that holds what came out.

    Another process that is started on the same evaluation waits, then finds all steps computed and the result tracked.
    """
    from tpo.evaluate.steps import Evaluation
    from tpo.results.figures import write_evaluation_figures
    from tpo.results.folder import own_folder
    from tpo.results.run_tables import evaluation_table
    from tpo.results.text_table import print_tables
    from tpo.results.tracking import log_evaluation
    from tpo.store.open import open_store

    with open_store(Path(config.artifacts_dir), isolate=config.isolate_stages) as store:
        steps = Evaluation(config, store)
        plain = asdict(config)
        with own_folder(f"evaluate-{config.eval.kind}", plain) as path:
            summary = {
                "evaluation": config.eval.kind,
                "policy": steps.policy.name,
                "judge": config.judge.kind,
                "seed": config.seed,
                "confidence": config.eval.confidence,
                **measured(steps, path),
            }
            with translate_disk_errors(path):
                write_json(path / "summary.json", summary)
                write_evaluation_figures(summary, path / "figures")
            print_tables(evaluation_table(summary))
            labels = evaluation_labels(launch or Launch())
            log_evaluation(config.tracking, run_path=path, config=plain, summary=summary, labels=labels)
    return path


def measured(steps: "Evaluation", path: Path) -> dict[str, Any]:
    """Return what this kind of evaluation adds to the summary; `path` is for the files of a benchmark's own tool."""
    from tpo.evaluate import measurements as measure

    match settings := steps.config.eval:
        case AlpacaEvalEval():
            return measure.alpaca_eval(steps, path, settings)
        case ArenaHardEval():
            return measure.arena_hard(steps, path, settings)
        case CategoriesEval():
            return measure.categories(steps)
        case Gsm8kEval() | IfevalEval():
            return measure.checked(steps, settings)
        case ThoughtValueEval():
            return measure.thought_value(steps, settings)
        case ThoughtBudgetEval():
            return measure.thought_budget(steps, settings)
        case _:
            return measure.held_out(steps)


@hydra.main(config_path="../../conf", config_name="evaluate", version_base="1.3")
def main(composed: DictConfig) -> None:
    """Compose, check and evaluate; errors that are the user's to mend come without a traceback."""
    try:
        config = to_config(EvaluateConfig, composed)
        check_evaluate(config)
        path = run_evaluation(config, launch=read_launch(HydraConfig.get()))
    except TpoError as error:
        raise CompactHydraException(f"error: {error}") from error
    print(path)


if __name__ == "__main__":
    main()
