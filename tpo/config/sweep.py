"""What becomes of a sweep's jobs: which failed, why, and the command that repeats only these.

A Hydra callback, because every launcher passes it on to the process that runs a job. Gives each sweep a folder,
`<hydra.sweep.dir>/sweep-<hash of the sweep>/`, with the logs of its jobs and a record of each, `jobs/<job>.json`; the
command reads them at its end, however it ends. Also here: which jobs a sweep has, what must not be written down, and
what is said of a search without an objective and of a sweep that is run as one job.
"""

import atexit
import json
import logging
import shlex
import sys
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, ValueType
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from tpo.config.build import to_config
from tpo.config.check import check_search, check_secrets
from tpo.config.fields import ConfigError
from tpo.config.schema import Config, flatten
from tpo.store.artifacts import LOCK
from tpo.store.files import content_hash, write_json
from tpo.store.locks import hold

log = logging.getLogger(__name__)
NOT_COMPLETED = {
    "failed": "failed",
    "started": "did not end (killed, or still running elsewhere)",
    "waiting": "never started",
}
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


@dataclass(frozen=True)
class Job:
    """A job of a sweep. `status` is waiting, started, completed or failed; a killed job stays started."""

    num: int
    overrides: list[str]
    status: str = "waiting"
    reason: str = ""
    output_dir: str = ""


class JobFailedError(CompactHydraException):
    """A job's failure in words, which come back from another process whatever was raised there."""


class SearchCheck(Callback):
    """Ends a search before its first trial where it would have nothing to compare trials by (`check_search`).

    In the trials it would be too late: a search goes on after failures. What the search itself varies is not known yet.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Check the config that trials start from, if the sweeper proposes them one after the other."""
        if config.hydra.sweeper._target_ != BASIC_SWEEPER:
            try:
                check_search(to_config(Config, config))
            except ConfigError as error:
                sys.exit(f"error: {error}")  # of a callback's errors Hydra only warns


class SweepReport(Callback):
    """Records every job of a sweep and reports at its end. Outside of sweeps it only warns."""

    def __init__(self) -> None:
        self._folder: Path | None = None
        self._planned: list[list[str]] = []
        self._hydra_overrides: list[str] = []
        self._is_grid = False

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Warn where a sweep was meant: outside of sweeps, Hydra says nothing of `hydra.sweeper.params`."""
        warn_of_params(config)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Take the sweep's folder, forget what the same sweep recorded in it before, and see to a report in any case.

        Ends a sweep whose settings hold a secret before Hydra, a launcher or this class writes any of them.
        """
        self._is_grid = config.hydra.sweeper._target_ == BASIC_SWEEPER
        loader = GlobalHydra.instance().config_loader()
        self._planned = grid_jobs(config, config_loader=loader) if self._is_grid else []
        given = [str(override) for override in config.hydra.overrides.hydra]
        self._hydra_overrides = [override for override in given if not override.startswith("hydra.mode=")]
        tasks = [str(override) for override in config.hydra.overrides.task]
        try:
            refuse_secrets(config, self._planned)
        except ConfigError as error:
            sys.exit(f"error: {error}")  # of a callback's errors Hydra only warns
        identity = content_hash({"jobs": self._planned, "hydra": self._hydra_overrides, "task": tasks})
        folder = (Path(config.hydra.sweep.dir) / f"sweep-{identity}").absolute()  # workers may be elsewhere
        self._folder = folder / "jobs"
        self._folder.mkdir(parents=True, exist_ok=True)
        alone = ExitStack()  # the same sweep, started twice, would forget what the other records
        alone.enter_context(hold(folder / LOCK, purpose=f"sweep {folder}"))
        atexit.register(alone.close)
        # For Hydra and the launcher, then for the jobs, which are composed anew from the overrides.
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={QuotedString(str(folder), Quote.single).with_quotes()}")
        for path in self._folder.glob("*.json"):
            path.unlink()
        atexit.register(self._report)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Record that the job runs: one that is killed can no longer say so."""
        if self._folder is not None:
            self._record(_job(config, "started"))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Record how the job ended, and make what it raised fit to travel.

        An exception that cannot be unpickled would end a pool of workers, and with it the other jobs.
        """
        if self._folder is None:
            return
        try:
            _ = job_return.return_value
        except Exception as error:
            log.error("job %d failed:\n%s", config.hydra.job.num, _told(error))
            reason = str(error) if isinstance(error, CompactHydraException) else f"{type(error).__name__}: {error}"
            job_return.return_value = JobFailedError(reason)
            self._record(_job(config, "failed", reason))
        else:
            self._record(_job(config, "completed"))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report, and fail if a job did: a search goes on after failures and would end well."""
        if any(job.status != "completed" for job in self._report()):
            sys.exit(1)

    def jobs(self) -> list[Job]:
        """Return the jobs in order: those planned, as far as the sweeper plans ahead, and those that left a record."""
        if self._folder is None:
            return []
        recorded = [Job(**json.loads(path.read_text())) for path in self._folder.glob("*.json")]
        jobs = {num: Job(num, overrides) for num, overrides in enumerate(self._planned)}
        jobs |= {job.num: job for job in recorded}
        return [jobs[num] for num in sorted(jobs)]

    def _record(self, job: Job) -> None:
        assert self._folder is not None
        write_json(self._folder / f"{job.num}.json", asdict(job))

    def _report(self) -> list[Job]:
        atexit.unregister(self._report)
        jobs = self.jobs()
        if jobs:
            text = summary(jobs, program=_program(), hydra_overrides=self._hydra_overrides, is_grid=self._is_grid)
            print(text, file=sys.stderr)
        return jobs


def grid_jobs(config: DictConfig, *, config_loader: ConfigLoader | None = None) -> list[list[str]]:
    """Return the overrides of each job of a sweep with Hydra's basic sweeper, in the order of their numbers.

    Args:
        config: As composed for the sweep, with its node `hydra`: `hydra.sweeper.params`, then the command line's.
        config_loader: Hydra's; knows the options of a group, without which `judge=glob(*)` cannot be expanded.
    """
    # The sweeper's own: another idea of what jobs there are would be worse than none.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    texts = [*_params(config), *(str(override) for override in config.hydra.overrides.task)]
    parser = OverridesParser.create(config_loader=config_loader)
    [batch] = BasicSweeper.split_arguments(parser.parse_overrides(texts), max_batch_size=None)
    return [list(job) for job in batch]


def refuse_secrets(config: DictConfig, jobs: Sequence[Sequence[str]]) -> None:
    """Raise on what a job would refuse to write down (`check_secrets`), in the settings and in what is swept.

    Hydra writes the settings of a sweep to `multirun.yaml`, and some launchers write the overrides of each job.

    Args:
        config: As composed for the sweep, with its node `hydra`.
        jobs: The overrides of each, as far as the sweeper plans ahead.

    Raises:
        ConfigError: Naming the key, not the value.
    """
    settings = OmegaConf.to_container(config, resolve=False)
    assert isinstance(settings, dict)
    check_secrets(flatten({str(key): value for key, value in settings.items() if key != "hydra"}))
    hydra = config.hydra
    texts = [*hydra.overrides.hydra, *hydra.overrides.task, *_params(config), *(text for job in jobs for text in job)]
    for override in OverridesParser.create().parse_overrides([str(text) for text in texts]):
        is_listed = override.is_choice_sweep() and override.value_type != ValueType.GLOB_CHOICE_SWEEP
        for value in override.sweep_iterator(transformer=_plain) if is_listed else [override.value()]:
            check_secrets(flatten({override.key_or_group: value}))


def _plain(value: Any) -> Any:
    match value:
        case QuotedString():
            return value.text
        case list():
            return [_plain(item) for item in value]
        case dict():
            return {str(_plain(key)): _plain(item) for key, item in value.items()}
    return value


def _params(config: DictConfig) -> list[str]:
    """Return what a preset sweeps, as overrides."""
    return [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]


def warn_of_params(config: DictConfig) -> None:
    """Warn that what a preset sweeps is not swept without `-m`, but for keys that the command line has a value for.

    Args:
        config: As composed for a single run, with its node `hydra`.
    """
    given = {str(override).partition("=")[0].lstrip("+") for override in config.hydra.overrides.task}
    params = [key for key in config.hydra.sweeper.get("params") or {} if key not in given]
    if params:
        log.warning("one job, without %s being swept: add -m for the sweep", ", ".join(params))


def summary(jobs: Sequence[Job], *, program: str, hydra_overrides: Sequence[str], is_grid: bool) -> str:
    """Return what is said at the end of a sweep.

    Args:
        jobs: All of them.
        program: How the entry point was called, without arguments.
        hydra_overrides: What was overridden of Hydra itself, such as the launcher.
        is_grid: Whether jobs can be repeated as a sweep: not where a sweeper proposes them one after the other.
    """
    left = [job for job in jobs if job.status != "completed"]
    counts = [(status, sum(job.status == status for job in jobs)) for status in ("completed", *NOT_COMPLETED)]
    said = ", ".join(f"{count} {NOT_COMPLETED.get(status, status)}" for status, count in counts if count)
    lines = [f"sweep of {len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}: {said}"]
    for job in left:
        lines.append(f"  #{job.num} {NOT_COMPLETED[job.status]}: {' '.join(job.overrides)}")
        lines += [f"     {line}" for line in job.reason.strip().splitlines()[:5]]
        lines += [f"     log in {job.output_dir}"] if job.output_dir else []
    if left:
        lines.append("only these again:")
        overrides = [job.overrides for job in left]
        sweeps = grids(overrides) if is_grid else overrides
        flags = ["-m", *hydra_overrides] if is_grid else []
        lines += [f"  {program} {shlex.join([*flags, *sweep])}" for sweep in sweeps]
    return "\n".join(lines)


def grids(jobs: Sequence[Sequence[str]]) -> list[list[str]]:
    """Return sweeps that together have exactly these jobs, each a list of overrides with values between commas.

    One sweep where the jobs are all combinations of their values, as is any set that differs in one key; else the jobs
    are split by the value of the first key in which they differ.

    Args:
        jobs: Overrides `key=value` of each job, all with the same keys in the same order.
    """
    values: dict[str, list[str]] = {}
    for job in jobs:
        for override in job:
            key, value = override.split("=", 1)
            if value not in values.setdefault(key, []):
                values[key].append(value)
    size = 1
    for found in values.values():
        size *= len(found)
    if size == len({tuple(job) for job in jobs}):
        return [[f"{key}={','.join(found)}" for key, found in values.items()]]
    key, found = next((key, found) for key, found in values.items() if len(found) > 1)
    return [grid for value in found for grid in grids([job for job in jobs if f"{key}={value}" in job])]


def _job(config: DictConfig, status: str, reason: str = "") -> Job:
    overrides = [str(override) for override in config.hydra.overrides.task]
    return Job(int(config.hydra.job.num), overrides, status, reason, str(config.hydra.runtime.output_dir))


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, CompactHydraException) else "".join(traceback.format_exception(error))


def _program() -> str:
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    return f"python -m {spec.name}" if spec is not None else f"python {shlex.quote(sys.argv[0])}"
