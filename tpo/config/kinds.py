"""The kinds of a conf group, found by path: each module of the group's package holds the dataclass of one.

So a new judge is a file in `tpo/judge/judges` and a YAML file in `conf/judge`, and nothing keeps a list.
"""

import dataclasses
import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any, TypeVar

from tpo.config.custom import load_class, require_same_source, target_of
from tpo.config.fields import MISSING, Kind, restore

K = TypeVar("K", bound=Kind)


def kinds(base: type[K]) -> dict[str, tuple[type[K], ...]]:
    """Return the dataclasses of each kind of a group, by the kind's name.

    Several share a name where what a stage is told differs from what the YAML file says; the first is the latter.
    """
    place = importlib.import_module(base.found_in)
    names = [base.found_in]
    if hasattr(place, "__path__"):
        names = [f"{base.found_in}.{module.name}" for module in pkgutil.iter_modules(place.__path__)]
    found: dict[str, tuple[type[K], ...]] = {}
    for name in sorted(names):
        for value in vars(importlib.import_module(name)).values():
            if not (inspect.isclass(value) and issubclass(value, base) and value.__module__ == name):
                continue
            default = {field.name: field.default for field in dataclasses.fields(value)}.get(base.named_by, MISSING)
            if default != MISSING:
                found[str(default)] = (*found.get(str(default), ()), value)
    return found


def load_settings(base: type[K], identity: Mapping[str, Any], how: Mapping[str, Any] | None = None) -> K:
    """Return the settings whose `identity` and `how` these are (`tpo.config.fields`).

    Args:
        base: What is expected: a group's base class, or one of its subclasses that several kinds have in common.
        identity: As the identity of a stage holds it; its kind says which dataclass it is of.
        how: What else the work needs.

    Raises:
        ValueError: If there is no such kind below `base`, or it has not exactly these fields, but for defaults.
    """
    found, target = kinds(base), target_of(identity)
    if not found:  # the base class is the only kind, or what a class of the user's own is derived from
        return restore(_derived(base, target, identity), identity, how)
    name = identity[base.named_by]
    keys, candidates = {*identity, *(how or {})}, found.get(name, ())
    for kind in candidates:
        defaults = {field.name: field.default for field in dataclasses.fields(kind)}
        if {key for key, default in defaults.items() if default == MISSING} <= keys <= defaults.keys():
            return restore(kind, identity, how)
    if candidates:
        raise ValueError(f"{base.group_name}={name} has other settings than {', '.join(sorted(keys))}")
    raise ValueError(f"{base.group_name}.{base.named_by}={name}: expected one of {sorted(found)}")


def _derived(base: type[K], target: str | None, identity: Mapping[str, Any]) -> type[K]:
    if target is None:
        return base
    kind = load_class(target)
    require_same_source(kind, identity["source_sha256"])
    return kind
