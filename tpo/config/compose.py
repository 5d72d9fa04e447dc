"""The configuration of an entry point, composed without its command: for a plan, for help, and for tests."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathElement
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from tpo.config.build import to_config
from tpo.config.check import check_composed, check_words
from tpo.config.fields import ConfigError, Settings
from tpo.config.hardware import resolve_hardware
from tpo.config.schema import Entry, register
from tpo.config.under import FindUnder, lay_over, loosened
from tpo.store.environment import REPOSITORY

CONF = REPOSITORY / "conf"

E = TypeVar("E", bound=Entry)


def check_config_dir(config_dir: Path) -> None:
    """Check a directory with the user's own YAML files, of which Hydra would ignore some and report others at length.

    Raises:
        ConfigError: If it does not exist, or a file in it is no YAML or has the name of an option that there is.
    """
    if not config_dir.is_dir():
        raise ConfigError(f"--config-dir {config_dir}: there is no such directory")
    for path in sorted(config_dir.rglob("*.yaml")):
        if (CONF / path.relative_to(config_dir)).exists():
            raise ConfigError(f"{path}: conf/ has an option of this name, which would be taken; rename the file")
        try:
            OmegaConf.load(path)
        except (YAMLError, OSError, ValueError) as error:  # the last: not UTF-8
            raise ConfigError(f"{path}: this is no YAML mapping: {' '.join(str(error).split())}") from error


def check_choices(overrides: Sequence[str]) -> None:
    """Check that no group is given a number or nothing, of which Hydra does not say which group it was.

    Raises:
        ConfigError: Naming the group and its options.
    """
    for override in overrides:
        name, is_given, value = override.lstrip("+").partition("=")
        group, _, place = name.partition("@")
        options = (
            sorted(path.stem for path in (CONF / group).glob("*.yaml")) if is_given and group.isidentifier() else []
        )
        if options and (value in {"", "null", "true", "false"} or value.replace(".", "", 1).lstrip("-").isdigit()):
            none = f"; {place}=null leaves it out" if place else ""
            raise ConfigError(f"{override}: expected one of {', '.join(options)}{none}")


@contextmanager
def composing(config_dir: Path | None = None) -> Iterator[ConfigLoader]:
    """Let Hydra compose from conf/ and, where one is given, from a directory with the user's own YAML files.

    Raises:
        ConfigError: If the directory does not exist.
    """
    register()
    with initialize_config_dir(str(CONF), version_base="1.3", job_name="tpo"):
        loader = GlobalHydra.instance().config_loader()
        if config_dir is not None:  # as Hydra's own --config-dir, which this way of composing does not have
            check_config_dir(config_dir)
            assert isinstance(loader, ConfigLoaderImpl)
            own = SearchPathElement("command-line", f"file://{config_dir.absolute()}")
            loader.config_search_path.get_path().insert(-1, own)  # the schemas come last
            loader.repository = ConfigRepository(config_search_path=loader.config_search_path)
        yield loader


def compose_config(
    entry: type[E], overrides: Sequence[str], *, config_dir: Path | None = None, find_under: FindUnder | None = None
) -> E:
    """Return what the entry point would be configured with, not checked.

    Args:
        entry: The entry point.
        overrides: As on the command line.
        config_dir: A directory with YAML files of the user's own.
        find_under: Finds what lies under the command line's settings, for entry points that ask something else.

    Raises:
        HydraException: If the overrides do not compose.
        ConfigError: As `to_config`.
    """
    check_words(overrides)
    with composing(config_dir):
        words = resolve_hardware(overrides)
        given = words if find_under is None else loosened(words, find_under)
        composed = compose(entry.config_name, overrides=given, return_hydra_config=True)
        return complete(entry, composed, hydra=composed.hydra, find_under=find_under)


def complete(entry: type[E], composed: DictConfig, *, hydra: Any, find_under: FindUnder | None) -> E:
    """Return a composed config as the dataclass of its entry point, with what lies under it where something does.

    Args:
        entry: The entry point.
        composed: By Hydra; changed in place.
        hydra: What Hydra says of the job, its node of this name.
        find_under: As for `compose_config`.

    Raises:
        ConfigError: As `to_config`; if Hydra's node holds a secret; and if an interpolation cannot be resolved.
    """
    check_composed(hydra, at="hydra.")  # also of a sweep's job, which has presets of its own
    try:
        return _complete(entry, composed, hydra=hydra, find_under=find_under)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{error.full_key or 'a setting'}: {str(error).partition(chr(10))[0]}") from error


def _complete(entry: type[E], composed: DictConfig, *, hydra: Any, find_under: FindUnder | None) -> E:
    given = {
        key: composed[key] for key in _plain_keys(entry) if key in composed and not OmegaConf.is_missing(composed, key)
    }
    given["model.name"] = OmegaConf.select(composed, "model.name", throw_on_missing=False)
    under = None if find_under is None else find_under(given)
    if under is None:
        return to_config(entry, composed)
    choices: Mapping[str, str] = hydra.runtime.choices
    chosen = {group: choices[group] for group, option in _start(entry).items() if choices.get(group, option) != option}
    lay_over(composed, under, entry=entry, overrides=list(hydra.overrides.task), chosen=chosen)
    try:
        return to_config(entry, composed)
    except ConfigError as error:
        raise ConfigError(
            f"{error} (settings as in {under.name}; <group>=<option> takes the place of a group)"
        ) from error


def _plain_keys(entry: type[Entry]) -> list[str]:
    """Return the entry point's keys that stand for no group."""
    hints = get_type_hints(entry)
    names = [field.name for field in dataclasses.fields(entry)]
    return [name for name in names if not (isinstance(hints[name], type) and issubclass(hints[name], Settings))]


def _start(entry: type[Entry]) -> dict[str, str]:
    """Return the option of each group that conf/ starts from."""
    composed = OmegaConf.to_container(OmegaConf.load(CONF / f"{entry.config_name}.yaml"))
    assert isinstance(composed, dict)
    named = [item for item in composed["defaults"] if isinstance(item, dict)]
    return {str(group): str(option) for item in named for group, option in item.items()}
