"""The entry point: `python -m tpo.run experiment=quickstart` composes a config and runs the TPO loop.

Writes `runs/<experiment>-<hash>/`: the composed config, `summary.json` and `figures/`. The artifacts of the
stages lie in `artifacts/` and are shared between runs.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tpo.config.check import check
from tpo.config.entry import Outcome, run_entry
from tpo.config.schema import Config
from tpo.config.sweep import unswept, warning_of_sweep
from tpo.evaluate.inherit import settings_of_seed
from tpo.results.tracking.labels import Launch, read_launch
from tpo.store.progress import counted

if TYPE_CHECKING:
    from tpo.results.tracking.tracker import Tracker
    from tpo.store.artifacts import Artifact

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
    from tpo.loop import iterate
    from tpo.model.disk import warn_of_full_disk
    from tpo.pipeline import Pipeline
    from tpo.results.folder import own_folder, run_name
    from tpo.results.run import Run
    from tpo.results.terminal import Terminal
    from tpo.store.in_use import noting
    from tpo.store.open import open_store

    launch = launch or Launch()
    plain, root = asdict(config), Path(config.artifacts_dir)
    name = run_name(experiment, plain)
    with Terminal(is_short=launch.is_sweep) as terminal:
        terminal.rows(header(config, name=name, launch=launch))
        warn_of_full_disk(config)
        with (
            open_store(root, isolate=config.isolate_stages, run=name, listeners=[terminal]) as store,
            own_folder(experiment, plain) as path,
            noting(store, path / "summary.json"),  # before the first stage, which a kill must not leave to tpo.gc
        ):
            tpo = Pipeline(config, store)
            terminal.rows({"conventions": conventions(tpo.seed_policy.model)})
            with Run(config, path, experiment=experiment, launch=launch) as run:
                terminal.rows({"W&B": run.tracker.where})
                store.listeners.append(run.tracker)
                terminal.enter(f"iteration 0/{config.num_iterations}")

                def record(iteration: int, *measured: Any, **more: Any) -> None:
                    run.record(iteration, *measured, **more)
                    terminal.line(run.told())
                    terminal.enter(f"iteration {iteration + 1}/{config.num_iterations}")

                iterate(tpo, record, num_iterations=config.num_iterations)
                run.finish(store.asked)
        terminal.enter("")
        end = farewell(path, has_thought=config.thought.has_thought, tracker=run.tracker)
        terminal.rows(end | {"warning": _unswept(launch)})
    return path


def header(config: Config, *, name: str, launch: Launch) -> dict[str, str | None]:
    """Return what is said of a run before it begins, by the name of the line.

    Raises:
        TpoError: If the run would fail before its first stage that takes time.
    """
    from tpo.plan.estimate import estimate, total
    from tpo.plan.machine import require_gpus
    from tpo.plan.stages import plan_job
    from tpo.plan.tables import forecast
    from tpo.store.gpus import visible_gpus

    require_gpus(config, visible_gpus())
    model, prompts, sample, second = config.model, config.prompts, config.sample, getattr(config.eval, "judge", None)
    expected = total(estimate([plan_job(config)], Path(config.artifacts_dir)))
    return {
        "run": name,
        "model": f"{model.name}, {model.dtype if model.quantization == 'none' else model.quantization}",
        "thought": config.thought.name,
        "judge": config.judge.title + ("" if second is None else f"; a second one compares: {second.title}"),
        "sizes": f"{counted(config.num_iterations, 'iteration')} of {prompts.num_train:,} instructions x "
        f"{counted(sample.num_samples, 'sample')}, {counted(config.train.num_epochs, 'epoch')}; "
        f"{prompts.num_validation:,} validation, {prompts.num_test:,} test",
        "stages": forecast(expected),
        "folder": str(Path(config.runs_dir) / name),
        "log": launch.log,
        "warning": _unswept(launch),
    }


def _unswept(launch: Launch) -> str | None:
    return None if launch.is_sweep else warning_of_sweep(unswept(launch.preset_keys, launch.overrides))


def conventions(model: "Artifact") -> str | None:
    """Return what was found of the seed model's chat template, in one line."""
    from tpo.model.conventions import Conventions

    if not model.metrics:
        return None
    return Conventions.from_metrics(model.metrics).describe()


def farewell(path: Path, *, has_thought: bool, tracker: "Tracker") -> dict[str, str | None]:
    """Return what is said at the end of a run, by the name of the line: where its page is, and what comes next."""
    from tpo.results.next import following

    first, *others = following(str(path), has_thought=has_thought)
    commands = {" " * place: command for place, command in enumerate(others)}
    return {"page": str(path / "report.html"), "next": first, **commands, "W&B": tracker.sync_command}


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
