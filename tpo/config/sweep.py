"""What becomes of a sweep's jobs: which failed, and why.

A Hydra callback, because every launcher passes it on to the process that runs a job. Each sweep has a folder,
`<hydra.sweep.dir>/sweep-<hash of the sweep>/`, with the logs of its jobs. The process that runs a job writes how it
ended to a temporary directory there, one for each start of the sweep, which the command reads and removes at its end;
the next start removes that of a command that was killed. To repeat a sweep, start it again: finished stages are reused.
Also here: which jobs a sweep has, what must not be written down, and the warnings of a search without an objective and
of a sweep that is run as one job.
"""

import atexit
import fcntl
import functools
import json
import logging
import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.config_loader import ConfigLoader
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Quote, QuotedString, ValueType
from hydra.core.utils import JobReturn
from hydra.errors import CompactHydraException, HydraException
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tpo.config.build import to_config
from tpo.config.check import check_composed, check_search, check_secrets
from tpo.config.explained import explained
from tpo.config.fields import ConfigError
from tpo.config.schema import Config, flatten
from tpo.store.errors import TpoError, describe, shown, traced
from tpo.store.files import content_hash, write_json, writing_to
from tpo.store.logs import filter_handlers
from tpo.store.secrets import hidden
from tpo.store.text import printable

log = logging.getLogger(__name__)

PARENT_S = 1.0  # between two looks at whether the command is there
BASIC_SWEEPER = "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"


class SweepJob(NamedTuple):
    """How a job of a sweep ended.

    Attributes:
        num: Its number.
        overrides: Of the job.
        reason: Why it failed; empty if it completed, None if it left no word: it was killed, or never started.
        output_dir: Where its log is; empty where nothing is known of it.
    """

    num: int
    overrides: list[str]
    reason: str | None = None
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
    """Reports at the end of a sweep which jobs failed and why."""

    def __init__(self) -> None:
        self._ends: Path | None = None  # a file for each job that ended
        self._planned: list[list[str]] = []

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the folder of the log, for which Hydra would show a traceback where it cannot be made.

        Ends a run whose settings hold a secret before any of them is put into the environment or written.
        """
        _refuse(config, [])
        _make(Path(config.hydra.run.dir))

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Make the sweep's folder, and see to a report however the sweep ends.

        Ends a sweep whose settings hold a secret before Hydra, a launcher or this class writes any of them.
        """
        if config.hydra.sweeper._target_ == BASIC_SWEEPER:
            self._planned = grid_jobs(config, config_loader=GlobalHydra.instance().config_loader())
        _refuse(config, self._planned)
        filter_handlers()  # Hydra's, which tell the overrides of each job
        hydra, task = (_given(config, name) for name in ("hydra", "task"))
        identity = content_hash({"jobs": self._planned, "hydra": hydra, "task": task})
        folder = (Path(config.hydra.sweep.dir) / f"sweep-{identity}").absolute()  # workers may be elsewhere
        _make(folder)
        self._ends = _make_ends(folder)
        # For Hydra and the launcher, then for the jobs, which are composed anew from the overrides.
        config.hydra.sweep.dir = str(folder)
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={QuotedString(str(folder), Quote.single).with_quotes()}")
        atexit.register(self._report)

    def on_job_start(self, config: DictConfig, **kwargs: Any) -> None:
        """See to it that a worker of joblib does not outlive the command."""
        command = multiprocessing.parent_process()
        if command is not None and multiprocessing.current_process().name.startswith("LokyProcess"):
            _end_with_parent(command.pid)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        """Write how the job ended, and make what it raised fit to travel.

        An exception that cannot be unpickled would end a pool of workers, and with it the other jobs.
        """
        if self._ends is None:
            return
        hydra, reason = config.hydra, ""
        try:
            _ = job_return.return_value
        except Exception as error:
            is_plain = isinstance(error, CompactHydraException)  # an error of the user's, without a traceback
            log.error("job %d failed:\n%s", hydra.job.num, shown(error) if is_plain else traced(error))
            reason = shown(error) if is_plain else describe(error)
            job_return.return_value = JobFailedError(reason)
        job = SweepJob(int(hydra.job.num), _given(config, "task"), reason, hydra.runtime.output_dir)
        write_json(self._ends / f"{job.num}.json", job._asdict())

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report, and fail if a job did: a search goes on after failures and would end well."""
        if any(job.reason != "" for job in self._report()):
            sys.exit(1)

    def _report(self) -> list[SweepJob]:
        """Print which jobs failed, once, and return all: those planned ahead, and those that ended."""
        atexit.unregister(self._report)
        if self._ends is None:
            return []
        jobs = {num: SweepJob(num, overrides) for num, overrides in enumerate(self._planned)}
        ended = [SweepJob(**json.loads(path.read_text())) for path in self._ends.glob("*.json")]
        jobs |= {job.num: job for job in ended}
        shutil.rmtree(self._ends, ignore_errors=True)
        found = [jobs[num] for num in sorted(jobs)]
        if found:
            print(printable(hidden(summary(found))), file=sys.stderr)
        return found


@functools.cache
def _end_with_parent(parent: int | None) -> None:
    """End this process when its parent is gone: where that was killed, it would finish its job and wait for minutes.

    Args:
        parent: Which started this process, and may be gone before this is called.
    """

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(PARENT_S)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def _refuse(config: DictConfig, jobs: Sequence[Sequence[str]]) -> None:
    try:
        refuse_secrets(config, jobs)
    except (ConfigError, HydraException, OmegaConfBaseException) as error:
        sys.exit(f"error: {explained(error)}")  # of a callback's errors Hydra only warns


def _given(config: DictConfig, of: str) -> list[str]:
    """Return the overrides "hydra" or "task" as they were typed: a list that is read resolves their interpolations."""
    texts = OmegaConf.to_container(config.hydra.overrides[of], resolve=False)
    assert isinstance(texts, list)
    return [str(text) for text in texts]


def _make(folder: Path) -> None:
    try:
        with writing_to(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except TpoError as error:
        sys.exit(f"error: {error} (runs_dir)")  # of a callback's errors Hydra only warns


def _make_ends(folder: Path) -> Path:
    """Make the folder of how jobs end, locked for as long as this process lives; delete those of killed processes."""
    for old in folder.glob("ends-*"):
        if (lock := _lock(old / "lock")) is not None:
            shutil.rmtree(old, ignore_errors=True)
            os.close(lock)
    made = Path(tempfile.mkdtemp(prefix="new-", dir=folder))
    _lock(made / "lock")  # before it has a name that another start of the same sweep looks at
    return made.rename(folder / made.name.replace("new-", "ends-", 1))


def _lock(path: Path) -> int | None:
    """Return the descriptor of a lock that this process has now; None where another one has it, or locks do not work.

    A child does not inherit it, and the kernel gives it back with the process.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def grid_jobs(config: DictConfig, *, config_loader: ConfigLoader | None = None) -> list[list[str]]:
    """Return the overrides of each job of a sweep with Hydra's basic sweeper, in the order of their numbers.

    Args:
        config: As composed for the sweep, with its node `hydra`: `hydra.sweeper.params`, then the command line's.
        config_loader: Hydra's; knows the options of a group, without which `judge=glob(*)` cannot be expanded.
    """
    # The sweeper's own: another idea of what jobs there are would be worse than none.
    from hydra._internal.core_plugins.basic_sweeper import BasicSweeper

    texts = [*_params(config), *_given(config, "task")]
    parser = OverridesParser.create(config_loader=config_loader)
    [batch] = BasicSweeper.split_arguments(parser.parse_overrides(texts), max_batch_size=None)
    return [list(job) for job in batch]


def refuse_secrets(config: DictConfig, jobs: Sequence[Sequence[str]]) -> None:
    """Raise on what must not be written down (`check_secrets`), in the settings, Hydra's too, and in what is swept.

    Hydra writes the settings of a sweep to `multirun.yaml`, and some launchers write the overrides of each job.

    Args:
        config: As composed for the run or the sweep, with its node `hydra`.
        jobs: The overrides of each of a sweep's, as far as the sweeper plans ahead.

    Raises:
        ConfigError: Naming the key, not the value.
    """
    given = [text for of in ("hydra", "task") for text in _given(config, of)]
    texts = [*given, *_params(config), *(text for job in jobs for text in job)]
    for override in OverridesParser.create().parse_overrides(texts):
        is_listed = override.is_choice_sweep() and override.value_type != ValueType.GLOB_CHOICE_SWEEP
        for value in override.sweep_iterator(transformer=_plain) if is_listed else [override.value()]:
            check_secrets(flatten({override.key_or_group: value}))
    check_composed(config)  # last: Hydra repeats the overrides, under keys that say less


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
    sweeper = OmegaConf.to_container(config.hydra.sweeper, resolve=False)
    assert isinstance(sweeper, dict)
    return [f"{key!s}={value}" for key, value in (sweeper.get("params") or {}).items()]


def unswept(params: Iterable[str], overrides: Iterable[str]) -> list[str]:
    """Return what a job without `-m` does not sweep, though a preset would: of this Hydra says nothing.

    Args:
        params: Keys that the preset sweeps.
        overrides: Of the job; a key that one gives a value is not meant to be swept.
    """
    given = {override.partition("=")[0].lstrip("+") for override in overrides}
    return [key for key in params if key not in given]


def warning_of_sweep(keys: Sequence[str]) -> str | None:
    """Return what to say of keys that are not swept, None where there are none."""
    return f"this is one job, without {', '.join(keys)} being swept: add -m for the sweep" if keys else None


def summary(jobs: Sequence[SweepJob]) -> str:
    """Return what is said at the end of a sweep: how many jobs completed, and of each of the others what is known."""
    left = [job for job in jobs if job.reason != ""]
    lines = [f"sweep of {len(jobs)} {'job' if len(jobs) == 1 else 'jobs'}: {len(jobs) - len(left)} completed"]
    for job in left:
        end = "did not end (killed, or never started)" if job.reason is None else "failed"
        lines.append(f"  #{job.num} {end}: {' '.join(job.overrides)}")
        lines += [f"     {line}" for line in (job.reason or "").strip().splitlines()[:5]]
        lines += [f"     log in {job.output_dir}"] if job.output_dir else []
    if left:
        lines.append("the same command again reuses all stages that are finished")
    return "\n".join(lines)
