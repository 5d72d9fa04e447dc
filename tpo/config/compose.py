"""The configuration of an entry point, composed without its command: for a plan, for help, and for tests."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_loader import ConfigLoader
from hydra.core.config_search_path import SearchPathElement
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf
from yaml import YAMLError

from tpo.config.build import to_config
from tpo.config.fields import ConfigError
from tpo.config.schema import Entry, register
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
        except (YAMLError, OSError) as error:
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


def compose_config(entry: type[E], overrides: Sequence[str], *, config_dir: Path | None = None) -> E:
    """Return what the entry point would be configured with, not checked.

    Raises:
        HydraException: If the overrides do not compose.
        ConfigError: As `to_config`.
    """
    with composing(config_dir):
        return to_config(entry, compose(entry.config_name, overrides=list(overrides)))
