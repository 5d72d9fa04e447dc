"""A class of the user's own in place of a kind: `judge=custom judge._target_=my_module.MyJudge +judge.threshold=0.5`.

The class is imported and compared with what the group asks of it before anything runs. Keys that the group does not
have are arguments of its constructor. The digest of its source is part of the identity of what it computes: of the file
that it stands in, and of those in the same folder or below that this file imports from.
"""

import hashlib
import importlib
import inspect
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar

from tpo.config.fields import ConfigError, Settings, near, setting
from tpo.store.errors import TpoError
from tpo.store.files import file_digest

TARGET = "_target_"  # Hydra's own name of the key


@dataclass
class Custom(Settings):
    """Settings of a class of the user's own: which one, and what it is made with.

    Attributes:
        needs: Names that the class has to have.
        offers: What the group gives to a constructor that has a parameter of that name.
    """

    needs: ClassVar[tuple[str, ...]]
    offers: ClassVar[tuple[str, ...]] = ()

    _target_: str = setting()
    arguments: dict[str, Any] = setting({})
    source_sha256: str = setting()

    @property
    def title(self) -> str:
        """What it is called in results: its class."""
        return self._target_

    @property
    def wants(self) -> set[str]:
        """Which of `offers` the constructor takes."""
        return set(self.offers) & set(inspect.signature(load_class(self._target_)).parameters)

    def create(self, **offered: Any) -> Any:
        """Return an instance, made with its arguments and what it wants of `offered`.

        Raises:
            TpoError: If the class's file has been edited since the settings were composed.
        """
        kind = load_class(self._target_)
        require_same_source(kind, self.source_sha256)
        return kind(**{name: offered[name] for name in self.wants}, **self.arguments)

    def check(self, at: str) -> None:
        """Check that the constructor takes the arguments, and gets all that it has to have."""
        kind = load_class(self._target_, at)
        parameters = inspect.signature(kind).parameters
        by_name = {inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY}
        named = [name for name, given in parameters.items() if given.kind in by_name]
        takes_any = any(given.kind is given.VAR_KEYWORD for given in parameters.values())
        for name in self.arguments:
            if name in self.offers:
                raise ConfigError(f"{at}.{name}: {kind.__name__} gets it from the {at} itself; give it another name")
            if name not in named and not takes_any:
                hint = near(name, [other for other in named if other not in self.offers], prefix=f"{at}.")
                raise ConfigError(f"{at}.{name}: the constructor of {kind.__name__} takes no such argument{hint}")
        for name in named:
            if parameters[name].default is inspect.Parameter.empty and name not in {*self.arguments, *self.offers}:
                raise ConfigError(f"{at}.{name}: {kind.__name__} has to have it: give +{at}.{name}=...")


def load_class(path: str, at: str = "") -> type[Any]:
    """Return the class that "module.Name" names.

    Args:
        path: Of the class.
        at: The key of the group that names it, for the error.

    Raises:
        ConfigError: If it cannot be imported, or is no class.
    """
    what = f"{at}.{TARGET}={path}" if at else path
    module, _, name = path.rpartition(".")
    if not module:
        raise ConfigError(f"{what}: expected a module and a class, such as my_module.MyClass")
    try:
        found = vars(importlib.import_module(module)).get(name)
    except ModuleNotFoundError as error:
        place = " where the command is started, or among what is installed" if str(error.name) in module else ""
        raise ConfigError(f"{what}: there is no module {error.name}{place}") from error
    except (Exception, SystemExit) as error:  # whatever a module of the user's does
        raise ConfigError(f"{what}: {module} cannot be imported: {type(error).__name__}: {error}") from error
    if not inspect.isclass(found):
        raise ConfigError(f"{what}: {module} has no class {name}{near(name, classes_of(module))}")
    return found


def classes_of(module: str) -> list[str]:
    """Return the names of the classes that an imported module has."""
    return [name for name, value in vars(importlib.import_module(module)).items() if inspect.isclass(value)]


def source_digest(kind: type[Any]) -> str:
    """Return the sha256 of a class's source: its file, and the files beside or below it that it imports from.

    Raises:
        ConfigError: If it stands in none, as one that is written in C.
    """
    try:
        path = inspect.getsourcefile(kind)
    except TypeError:
        path = None
    if path is None:
        raise ConfigError(f"{kind.__module__}.{kind.__name__}: expected a class that stands in a Python file")
    own = Path(path).resolve()
    digests = {file_digest(file) for file in _files_of(sys.modules[kind.__module__], within=own.parent)}
    if len(digests) <= 1:
        return file_digest(own)
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def _files_of(module: ModuleType, *, within: Path) -> set[Path]:
    """Return the files, in a folder or below it, of a module and of all that its names come from."""
    found: dict[Path, ModuleType] = {}
    left = [module]
    while left:
        each = left.pop()
        file = getattr(each, "__file__", None)
        path = None if file is None else Path(file).resolve()
        if path is None or path in found or not path.is_relative_to(within) or "site-packages" in path.parts:
            continue
        found[path] = each
        for value in list(vars(each).values()):
            name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
            if isinstance(name, str) and name in sys.modules:
                left.append(sys.modules[name])
    return set(found)


def require_same_source(kind: type[Any], digest: str) -> None:
    """Raise a TpoError unless a class's file is the one whose digest was composed."""
    if source_digest(kind) != digest:
        raise TpoError(
            f"the file of {kind.__module__}.{kind.__name__} was edited while the run went on: start it again"
        )


def lacking(kind: type[Any], names: Iterable[str]) -> list[str]:
    """Return which of these names a class does not have."""
    return [name for name in names if not hasattr(kind, name)]


def target_of(values: Mapping[str, Any]) -> str | None:
    """Return the class that settings name, if they name one."""
    found = values.get(TARGET)
    return None if found is None else str(found)
