"""What an instruction's checks are called on the page, and which of them a response passes."""

from collections.abc import Sequence

from tpo.store.records import Check


def asked(checks: Sequence[Check]) -> list[Check]:
    """Return the checks that an instruction asks for, which floors are not."""
    if not checks:
        return []
    from tpo.checks import without_floors

    return without_floors(checks)


def name(check: Check) -> str:
    """Return the type of a check in words, such as "no comma"."""
    from tpo.checks import check_type  # imports what checks need, for which a page without them does not wait

    return check_type(check).replace("_", " ")


def describe(check: Check) -> str:
    """Return a check in words: its type, and what it checks with, such as "keyword (keyword: tea)"."""
    told = ", ".join(f"{key.replace('_', ' ')}: {_words(value)}" for key, value in check.arguments.items())
    return name(check) + (f" ({told})" if told else "")


def passed(checks: Sequence[Check], response: str | None) -> list[bool]:
    """Return whether a response passes each check that is asked for, strictly; below a floor it passes none."""
    if not checks:
        return []
    from tpo.checks import passes_each

    return passes_each(response, checks)


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
