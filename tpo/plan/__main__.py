"""What a run or a sweep would compute and cost: `python -m tpo.plan -m experiment=quickstart thought=generic,none`.

Takes the arguments of `python -m tpo.run`, composes every job and prints the distinct stages, which of them exist
already, which are shared, and the tokens and the time that the others will take, judged by past stages of their kind.
Runs nothing, loads no model, and writes only the file of `--json FILE`.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tpo.config import help
from tpo.config.check import check, check_words
from tpo.config.compose import check_choices, compose_config, composing
from tpo.config.explained import explained
from tpo.config.hardware import resolve_hardware
from tpo.config.schema import Config
from tpo.config.streams import warn
from tpo.config.sweep import BASIC_SWEEPER, grid_jobs, unswept, warning_of_sweep
from tpo.evaluate.inherit import settings_of_seed
from tpo.plan.estimate import Plan, estimate, to_dict
from tpo.plan.stages import plan_job
from tpo.plan.tables import print_plan
from tpo.store.ending import one_sentence
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
            swept = [str(key) for key in settings.sweeper.get("params") or {}]
            if said := warning_of_sweep(unswept(swept, overrides)):
                warn(said)
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
    overrides = resolve_hardware(overrides)
    try:
        jobs = expand(overrides, is_sweep=is_sweep, config_dir=config_dir)
    except (HydraException, OmegaConfBaseException) as error:
        raise PlanError(explained(error)) from error
    found = []
    for job in jobs:
        try:
            config = compose_config(Config, job, config_dir=config_dir, find_under=settings_of_seed)
            check(config, with_packages=False)  # it runs elsewhere: a login node, a laptop
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
    return estimate(jobs, Path(roots[0]))


def _in_job(overrides: Sequence[str], error: Exception) -> PlanError:
    return PlanError(f"job {' '.join(overrides) or '(no overrides)'}: {explained(error)}")


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
        check_words(given.overrides)
        if given.help:
            print(help.help_text(Config, ABOUT, given.overrides, config_dir=given.config_dir, options=OPTIONS))
            return
        summary = to_dict(make_plan(given.overrides, is_sweep=given.multirun, config_dir=given.config_dir))
    except (TpoError, HydraException) as error:
        sys.exit(help.refusal(error, Config, given.overrides))
    print_plan(summary, with_stages=given.stages)
    if given.json is not None:
        write_json(given.json, summary)


if __name__ == "__main__":
    with one_sentence("", then="nothing was computed"):
        main()
