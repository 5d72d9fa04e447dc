"""The checks of one response: each by its family, and together.

Strict rules check a response as it is; loose ones as its family has it. A response that is missing, blank or below the
floor passes nothing.
"""

import importlib
import inspect
import pkgutil
from collections.abc import Iterable, Sequence
from functools import cache

from tpo.checks import families
from tpo.checks.families.floor import Floor
from tpo.checks.protocol import CheckError, Constraint, Family
from tpo.store.records import Check


@cache
def _families() -> dict[str, Family]:
    """Return the families by the start of the names of their checks."""
    found: dict[str, Family] = {}
    for module in pkgutil.iter_modules(families.__path__):
        name = f"{families.__name__}.{module.name}"
        for value in vars(importlib.import_module(name)).values():
            if inspect.isclass(value) and issubclass(value, Family) and value.__module__ == name:
                family = value()
                found |= dict.fromkeys(family.prefixes, family)
    return found


def _family(check: Check) -> Family:
    prefix = check.name.partition(":")[0]
    if prefix not in _families():
        raise CheckError(f"check {check.name}: there are only those of {', '.join(sorted(_families()))}")
    return _families()[prefix]


def constraints() -> dict[str, Constraint]:
    """Return the requests that can be added to an instruction, by type, in alphabetical order."""
    found = {kind: item for family in set(_families().values()) for kind, item in family.constraints.items()}
    return dict(sorted(found.items()))


def check_type(check: Check) -> str:
    """Return what a check is called in tables, such as "no_comma"."""
    return _family(check).type_of(check)


def require_checks(checks: Iterable[Check]) -> None:
    """Make sure that all of these checks can be made here, before anything is sampled.

    Raises:
        CheckError: Saying which cannot, and why.
    """
    for check in checks:
        _family(check).require(check)


def passes(response: str | None, check: Check, *, rule: str = "strict") -> bool:
    """Return whether a response passes one check; a missing or blank one does not."""
    return bool(response and response.strip()) and _family(check).passes(response or "", check, rule=rule)


def passes_each(response: str | None, checks: Sequence[Check], *, rule: str = "strict") -> list[bool]:
    """Return for each check, floors left out, whether the response passes it and every floor."""
    floors = [check for check in checks if is_floor(check)]
    is_enough = all(passes(response, floor, rule=rule) for floor in floors)
    return [is_enough and passes(response, check, rule=rule) for check in without_floors(checks)]


def passes_all(response: str | None, checks: Sequence[Check], *, rule: str = "strict") -> bool:
    """Return whether a response passes all checks."""
    return all(passes_each(response, checks, rule=rule))


def share_passed(response: str | None, checks: Sequence[Check]) -> float:
    """Return the share of the checks that a response passes strictly, in [0, 1]; 0 where it is below the floor.

    Raises:
        ValueError: If there is no check but floors.
    """
    passed = passes_each(response, checks)
    if not passed:
        raise ValueError("an instruction without checks")
    return sum(passed) / len(passed)


def without_floors(checks: Iterable[Check]) -> list[Check]:
    """Return the checks that an instruction asks for."""
    return [check for check in checks if not is_floor(check)]


def is_floor(check: Check) -> bool:
    """Return whether a check is the least that a response has to be, which no instruction asks for."""
    return isinstance(_family(check), Floor)
