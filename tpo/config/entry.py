"""The beginning and the end of every entry point: compose, check, do the work, print the folder that holds the result.

Errors that are the user's to mend become one sentence without a traceback, and so does an interruption. While the work
is done, what libraries write goes to the job's log (`tpo.config.streams`).
"""

import logging
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

import hydra
from hydra._internal.utils import get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, HydraException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from tpo.config.check import check_words
from tpo.config.compose import CONF, check_choices, check_config_dir, complete
from tpo.config.explained import explained
from tpo.config.fields import ConfigError
from tpo.config.hardware import AUTO, resolve_hardware
from tpo.config.help import check_shown, config_text, experiments_text, help_text, meant, refusal
from tpo.config.schema import Entry, register
from tpo.config.streams import ToUser, diverted, log_path
from tpo.config.under import FindUnder, lies_under, loosened
from tpo.store.ending import CONTINUES, one_sentence
from tpo.store.errors import TpoError, traced
from tpo.store.files import os_error, translate_disk_errors
from tpo.store.logs import filter_handlers
from tpo.store.text import printable

E = TypeVar("E", bound=Entry)


class Outcome(NamedTuple):
    """What an entry point's work left: the folder to print, if any, and what a search is to maximize, if it is one."""

    path: Path | None
    objective: float | None = None


def run_entry(
    entry: type[E],
    *,
    about: str,
    check: Callable[[E], None],
    work: Callable[[E, Any], Outcome],
    find_under: FindUnder | None = None,
    kept: str = "all finished stages",
    then: str = CONTINUES,
) -> None:
    """Be the command of an entry point, with the command line as it is.

    Args:
        entry: What the config is composed to.
        about: Help: what the command does, with examples.
        check: Raises a ConfigError on settings that could only fail later.
        work: Called with the config and what Hydra says of the job (`HydraConfig`), once for each job of a sweep.
        find_under: Finds the settings that lie under the command line's (`tpo.config.under`).
        kept: What an interruption does not lose (`one_sentence`).
        then: What else is true after one.
    """
    register()

    def job(composed: DictConfig) -> float | None:
        try:
            with _logged(HydraConfig.get()), translate_disk_errors(Path(HydraConfig.get().runtime.output_dir)):
                config = complete(entry, composed, hydra=HydraConfig.get(), find_under=find_under)
                check(config)
                path, objective = work(config, HydraConfig.get())
        except (TpoError, OSError) as error:
            sentence = f"error: {os_error(error) if isinstance(error, OSError) else error}"
            if HydraConfig.get().mode != RunMode.MULTIRUN:
                sys.exit(sentence)  # Hydra would add a line on how to see a traceback
            raise CompactHydraException(sentence) from error
        if path is not None:
            print(printable(str(path)))
        return objective

    try:
        check_words(sys.argv[1:])
    except TpoError as error:
        sys.exit(f"error: {error}")
    given = get_args_parser().parse_args()
    if given.config_path is not None or given.config_name is not None:
        sys.exit("error: --config-path and --config-name: commands compose from conf/; --config-dir adds files to it")
    config_dir = None if given.config_dir is None else Path(given.config_dir)
    if given.help:
        _say(lambda: help_text(entry, about, given.overrides, config_dir=config_dir))
    if entry.has_experiments and not (given.overrides or given.cfg or given.info or given.hydra_help):
        _say(lambda: experiments_text(config_dir=config_dir))
    if given.cfg == "job" and find_under is not None and lies_under(given.overrides, find_under):
        _say(lambda: config_text(entry, given.overrides, config_dir=config_dir, find_under=find_under))
    try:
        if config_dir is not None:
            check_config_dir(config_dir)
        check_choices(given.overrides)
        if AUTO in given.overrides:
            _replace_auto(given.overrides)
        if find_under is not None:
            loose = dict(zip(given.overrides, loosened(given.overrides, find_under), strict=True))
            sys.argv = [loose.get(word, word) for word in sys.argv]
    except TpoError as error:
        sys.exit(f"error: {error}")
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra's errors are raised, not printed with the secrets that they quote
    with one_sentence(kept, then=then):
        try:
            if given.cfg or given.info or given.hydra_help:
                words = resolve_hardware(get_args_parser().parse_args().overrides)
                check_shown(entry, words, config_dir=config_dir)
            hydra.main(config_path=str(CONF), config_name=entry.config_name, version_base="1.3")(job)()
        except SystemExit as end:
            for sentence in meant(entry, given.overrides) if end.code else []:
                print(sentence, file=sys.stderr)
            raise
        except (HydraException, OmegaConfBaseException) as error:
            sys.exit(refusal(error, entry, given.overrides))
        except (TpoError, OSError):
            raise
        except Exception as error:  # a fault
            sys.exit(traced(error))


@contextmanager
def _logged(hydra: Any) -> Iterator[None]:
    """Send what is not for the user to the job's log, and the package's warnings to the user too."""
    if hydra.job.chdir:
        raise ConfigError(
            "hydra.job.chdir=true would change the folder that artifacts_dir, runs_dir and files are relative to: "
            "leave it false"
        )
    shown = ToUser()
    with diverted(log_path(hydra)):
        filter_handlers()
        logging.getLogger().addHandler(shown)
        try:
            yield
        except KeyboardInterrupt:
            logging.getLogger(__name__).info("interrupted\n%s", traceback.format_exc())
            raise
        except OSError:  # of which the user reads one sentence
            logging.getLogger(__name__).info("an error of the operating system\n%s", traceback.format_exc())
            raise
        finally:
            logging.getLogger().removeHandler(shown)


def _say(text: Callable[[], str]) -> NoReturn:
    """Print a text in place of doing the work."""
    try:
        print(text(), flush=True)
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (HydraException, OmegaConfBaseException, TpoError) as error:
        sys.exit(f"error: {explained(error)}")
    sys.exit(0)


def _replace_auto(overrides: list[str]) -> None:
    """Put what `hardware=auto` stands for into the command line."""
    chosen = [word for word in resolve_hardware(overrides) if word.startswith("hardware=")]
    place = sys.argv.index(AUTO)
    sys.argv[place : place + 1] = chosen
