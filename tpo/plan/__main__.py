"""What a run or a sweep would compute and cost: `python -m tpo.plan -m experiment=quickstart thought=generic,none`.

Takes the arguments of `python -m tpo.run`, composes every job and prints the distinct stages, which of them exist
already, which are shared, and the tokens and the time that the others will take, judged by past stages of their kind.
Runs nothing, loads no model, and writes only the file of `--json FILE`.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tpo.config import help
from tpo.config.check import check
from tpo.config.compose import check_choices, compose_config, composing
from tpo.config.schema import Config
from tpo.config.sweep import BASIC_SWEEPER, grid_jobs, warn_of_params
from tpo.evaluate.inherit import settings_of_seed
from tpo.plan.cost import Estimate, Past, token_budget
from tpo.plan.stages import PlannedRun, PlannedStep, distinct_steps, plan_job, stage_kind
from tpo.plan.tables import print_plan
from tpo.store.errors import TpoError
from tpo.store.files import write_json

ABOUT = """\
What a run or a sweep would compute and cost, before anything is computed: it runs nothing and loads no model.

python -m tpo.plan experiment=quickstart                         its stages, tokens and expected time
python -m tpo.plan -m experiment=quickstart thought=generic,none what two runs share
python -m tpo.plan -m experiment=main_results_small              a preset that is a sweep
"""
OPTIONS = f"""\
{help.OPTIONS}--stages           list every stage
--json FILE        write the plan there too
"""


class PlanError(TpoError):
    """A sweep that cannot be planned; names the job."""


@dataclass(frozen=True)
class Plan:
    """The stages of all jobs with what they cost; `budgets` and `estimates` are by stage id."""

    jobs: tuple[PlannedRun, ...]
    stages: dict[str, PlannedStep]
    budgets: dict[str, int]
    estimates: dict[str, Estimate]
    devices: tuple[str, ...]  # that the estimates come from


def expand(overrides: Sequence[str], *, is_sweep: bool, config_dir: Path | None = None) -> list[list[str]]:
    """Return the overrides of every job that `python -m tpo.run` would start with these.

    Args:
        overrides: As on the command line. In a sweep those of `hydra.sweeper.params` come before them.
        is_sweep: Whether there was `-m`; a preset with `hydra.mode=MULTIRUN` needs none.
        config_dir: A directory with YAML files of the user's own.

    Raises:
        PlanError: If the sweeper chooses jobs by the results of others, as a search does.
    """
    with composing(config_dir) as loader:
        composed: DictConfig = loader.load_configuration(
            "config", list(overrides), run_mode=RunMode.MULTIRUN, validate_sweep_overrides=False
        )
        settings = composed.hydra
        if not is_sweep and settings.mode != RunMode.MULTIRUN:
            warn_of_params(composed)
            return [list(overrides)]
        target = settings.sweeper._target_
        if target != BASIC_SWEEPER:
            raise PlanError(f"hydra/sweeper: {target} chooses jobs as results come in; plan one of them, without -m")
        return [[*settings.overrides.hydra, *job] for job in grid_jobs(composed, config_loader=loader)]


def compose_jobs(
    overrides: Sequence[str], *, is_sweep: bool, config_dir: Path | None = None
) -> list[tuple[list[str], Config]]:
    """Return overrides and checked config of every job (see `expand`).

    Raises:
        PlanError: If one does not compose or breaks a rule; names its overrides.
    """
    check_choices(overrides)
    try:
        jobs = expand(overrides, is_sweep=is_sweep, config_dir=config_dir)
    except (HydraException, OmegaConfBaseException) as error:
        raise PlanError(_explain(error)) from error
    found = []
    for job in jobs:
        try:
            config = compose_config(Config, job, config_dir=config_dir, find_under=settings_of_seed)
            check(config)
        except (HydraException, OmegaConfBaseException, TpoError) as error:
            raise _in_job(job, error) from error
        found.append((job, config))
    return found


def make_plan(overrides: Sequence[str], *, is_sweep: bool, config_dir: Path | None = None) -> Plan:
    """Return the plan of what `python -m tpo.run` would do.

    Raises:
        PlanError: If a job would fail before its first stage that takes time, or jobs have different `artifacts_dir`s.
    """
    composed = compose_jobs(overrides, is_sweep=is_sweep, config_dir=config_dir)
    roots = sorted({config.artifacts_dir for _, config in composed})
    if len(roots) > 1:
        raise PlanError(f"artifacts_dir differs between jobs, which then share nothing ({', '.join(roots)}): plan each")
    jobs = []
    for job, config in composed:
        try:
            jobs.append(plan_job(config, overrides=job))
        except TpoError as error:
            raise _in_job(job, error) from error
    stages = distinct_steps(jobs)
    asked = {name: stage.artifact.manifest for name, stage in stages.items()}
    budgets = {name: token_budget(request) for name, request in asked.items()}
    past = Past(Path(roots[0]), [stage_kind(stage.artifact) for stage in stages.values()])
    missing = {name: asked[name] for name, stage in stages.items() if not stage.is_there}
    return Plan(
        jobs=tuple(jobs),
        stages=stages,
        budgets=budgets,
        estimates={name: past.expect(request, budget=budgets[name]) for name, request in missing.items()},
        devices=tuple(past.devices(list(missing.values()))),
    )


def _in_job(overrides: Sequence[str], error: Exception) -> PlanError:
    return PlanError(f"job {' '.join(overrides) or '(no overrides)'}: {_explain(error)}")


def _explain(error: Exception) -> str:
    """Return Hydra's message, which names the override, with that of its cause, which says what is wrong with it."""
    why = str(error.__cause__).splitlines()[0] if isinstance(error, HydraException) and error.__cause__ else ""
    return f"{error}: {why}" if why and why not in str(error) else str(error)


def to_dict(plan: Plan) -> dict[str, Any]:
    """Return the plan in plain JSON types; null stands for unknown values."""
    kinds = list(dict.fromkeys(stage_kind(stage.artifact) for stage in plan.stages.values()))
    return {
        "jobs": [
            {"overrides": list(job.overrides), "stages": [artifact.artifact_id for artifact in job.stages]}
            for job in plan.jobs
        ],
        "stages": [_describe(plan, name) for name in plan.stages],
        "kinds": [_sum_up(plan, kind) for kind in kinds],
        "total": _sum_up(plan, None),
        "devices": list(plan.devices),
    }


def _describe(plan: Plan, name: str) -> dict[str, Any]:
    stage = plan.stages[name]
    expected = plan.estimates.get(name, Estimate(None, None, 0))
    return {
        "artifact_id": name,
        "stage": stage_kind(stage.artifact),
        "jobs": list(stage.jobs),
        "is_there": stage.is_there,
        "depends_on_selection": stage.is_open,
        "token_budget": plan.budgets[name],
        "expected_tokens": expected.tokens,
        "expected_seconds": expected.seconds,
        "num_past": expected.num_past,
    }


def _sum_up(plan: Plan, kind: str | None) -> dict[str, Any]:
    """Return counts of one kind of stage, or of all; costs are those of the stages to compute."""
    rows = [_describe(plan, name) for name in plan.stages]
    rows = [row for row in rows if kind in (None, row["stage"])]
    missing = [row for row in rows if not row["is_there"]]
    costly = [row for row in missing if row["token_budget"]]
    return {
        "stage": kind,
        "num_asked": sum(len(row["jobs"]) for row in rows),
        "num_distinct": len(rows),
        "num_there": len(rows) - len(missing),
        "num_missing": len(missing),
        "num_shared": sum(len(row["jobs"]) > 1 for row in rows),
        "token_budget": sum(row["token_budget"] for row in missing),
        "expected_tokens": _total([row["expected_tokens"] for row in costly]),
        "expected_seconds": _total([row["expected_seconds"] for row in missing]),
        "num_without_tokens": sum(row["expected_tokens"] is None for row in costly),
        "num_without_estimate": sum(row["expected_seconds"] is None for row in missing),
    }


def _total(values: Sequence[float | None]) -> float | None:
    """Return the sum of the known values; None if there are values but all are unknown."""
    known = [value for value in values if value is not None]
    return sum(known) if known or not values else None


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the plan of the command line's run or sweep."""
    parser = argparse.ArgumentParser(prog="python -m tpo.plan", add_help=False)
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("-h", "--help", action="store_true")
    parser.add_argument("-m", "--multirun", action="store_true")
    parser.add_argument("--config-dir", type=Path, metavar="DIR")
    parser.add_argument("--stages", action="store_true")
    parser.add_argument("--json", type=Path, metavar="FILE")
    given = parser.parse_intermixed_args(arguments)
    try:
        if given.help:
            print(help.help_text(Config, ABOUT, given.overrides, config_dir=given.config_dir, options=OPTIONS))
            return
        summary = to_dict(make_plan(given.overrides, is_sweep=given.multirun, config_dir=given.config_dir))
    except (TpoError, HydraException) as error:
        sys.exit("\n".join([f"error: {error}", *help.meant(Config, given.overrides)]))
    print_plan(summary, with_stages=given.stages)
    if given.json is not None:
        write_json(given.json, summary)


if __name__ == "__main__":
    main()
