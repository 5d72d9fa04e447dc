"""Fields of the conf groups' dataclasses: a default, the rule that its values obey, and whether it is part of the identity.

A group's dataclass is Hydra's schema and the stage's settings at once. What a stage computes depends on every field but
those marked `how`: a server's address, a number of processes. `identity` and `how` take a group's settings apart, and
`restore` puts them together where the work is done.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, TypeVar, get_type_hints

from omegaconf import MISSING

S = TypeVar("S")


def setting(
    default: Any = MISSING,
    *,
    minimum: float | None = None,
    maximum: float | None = None,
    above: float | None = None,
    choices: tuple[Any, ...] | None = None,
    is_file: bool = False,
    how: bool = False,
) -> Any:
    """Return a dataclass field.

    Args:
        default: Lists and dictionaries are copied for each instance; without one the YAML file gives the value.
        minimum: Least number allowed.
        maximum: Greatest number allowed.
        above: The number must be greater than this one.
        choices: The values allowed.
        is_file: The value is the path of a file that must exist, or None.
        how: The result does not depend on it: no part of the identity.
    """
    metadata = {
        "minimum": minimum,
        "maximum": maximum,
        "above": above,
        "choices": choices,
        "is_file": is_file,
        "how": how,
    }
    if isinstance(default, list | dict):
        return dataclasses.field(default_factory=lambda: type(default)(default), metadata=metadata)
    if isinstance(default, type):  # a group within the group
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def identity(settings: Any) -> dict[str, Any]:
    """Return the settings that a result depends on, in plain types."""
    return _part(settings, how=False)


def how(settings: Any) -> dict[str, Any]:
    """Return the settings that a result does not depend on; groups within the group only where they hold any."""
    return _part(settings, how=True)


def _part(settings: Any, *, how: bool) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for field in dataclasses.fields(settings):
        value, is_how = getattr(settings, field.name), field.metadata.get("how", False)
        if dataclasses.is_dataclass(value) and not is_how:
            part = _part(value, how=how)
            if part or not how:
                found[field.name] = part
        elif is_how is how:
            found[field.name] = dataclasses.asdict(value) if dataclasses.is_dataclass(value) else value  # type: ignore[arg-type]
    return found


def restore(kind: type[S], identity: Mapping[str, Any], how: Mapping[str, Any] | None = None) -> S:
    """Return the settings that `identity` and `how` are the parts of; what neither has keeps its default."""
    values: dict[str, Any] = {}
    hints = get_type_hints(kind)
    how = how or {}
    for field in dataclasses.fields(kind):  # type: ignore[arg-type]
        name, hint = field.name, hints[field.name]
        if name not in identity and name not in how:
            continue
        if dataclasses.is_dataclass(hint):
            values[name] = restore(hint, identity.get(name, {}), how.get(name, {}))  # type: ignore[arg-type]
        else:
            values[name] = how[name] if name in how else identity[name]
    return kind(**values)
