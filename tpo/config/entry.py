"""The beginning and the end of every entry point: compose, check, do the work, print the folder that holds the result.

Errors that are the user's to mend become one sentence without a traceback.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from omegaconf import DictConfig

from tpo.config.build import to_config
from tpo.config.compose import CONF, check_choices, check_config_dir
from tpo.config.help import experiments_text, help_text, meant
from tpo.config.schema import Entry, register
from tpo.store.errors import TpoError

E = TypeVar("E", bound=Entry)


class Outcome(NamedTuple):
    """What an entry point's work left: the folder to print, and what a search is to maximize, if it is one."""

    path: Path
    objective: float | None = None


def run_entry(entry: type[E], *, about: str, check: Callable[[E], None], work: Callable[[E, Any], Outcome]) -> None:
    """Be the command of an entry point, with the command line as it is.

    Args:
        entry: What the config is composed to.
        about: Help: what the command does, with examples.
        check: Raises a ConfigError on settings that could only fail later.
        work: Called with the config and what Hydra says of the job (`HydraConfig`), once for each job of a sweep.
    """
    register()

    def job(composed: DictConfig) -> float | None:
        try:
            config = to_config(entry, composed)
            check(config)
            path, objective = work(config, HydraConfig.get())
        except TpoError as error:
            raise CompactHydraException(f"error: {error}") from error
        print(path)
        return objective

    given = get_args_parser().parse_args()
    config_dir = None if given.config_dir is None else Path(given.config_dir)
    if given.help:
        _say(lambda: help_text(entry, about, given.overrides, config_dir=config_dir))
    if entry.has_experiments and not (given.overrides or given.cfg or given.info or given.hydra_help):
        _say(lambda: experiments_text(config_dir=config_dir))
    try:
        if config_dir is not None:
            check_config_dir(config_dir)
        check_choices(given.overrides)
    except TpoError as error:
        sys.exit(f"error: {error}")
    try:
        hydra.main(config_path=str(CONF), config_name=entry.config_name, version_base="1.3")(job)()
    except SystemExit as end:
        for sentence in meant(entry, given.overrides) if end.code else []:
            print(sentence, file=sys.stderr)
        raise


def _say(text: Callable[[], str]) -> NoReturn:
    """Print a text in place of doing the work."""
    try:
        print(text(), flush=True)
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (HydraException, TpoError) as error:
        sys.exit(f"error: {error}")
    sys.exit(0)
