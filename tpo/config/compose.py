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

from tpo.config.build import to_config
from tpo.config.fields import ConfigError
from tpo.config.schema import Entry, register
from tpo.store.environment import REPOSITORY

CONF = REPOSITORY / "conf"

E = TypeVar("E", bound=Entry)


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
            if not config_dir.is_dir():
                raise ConfigError(f"--config-dir {config_dir}: there is no such directory")
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
