"""What an instruction's checks are called on the page, and which of them a response passes."""

from collections.abc import Sequence

from tpo.store.records import Check


def describe(check: Check) -> str:
    """Return a check in words: its type, and what it checks with, such as "keyword (keyword: tea)"."""
    from tpo.checks import check_type  # imports what checks need, for which a page without them does not wait

    told = ", ".join(f"{name.replace('_', ' ')}: {_words(value)}" for name, value in check.arguments.items())
    return check_type(check).replace("_", " ") + (f" ({told})" if told else "")


def passed(checks: Sequence[Check], response: str | None) -> list[bool]:
    """Return for each check whether a response passes it by the strict rules; one that is missing passes none."""
    if not checks:
        return []
    from tpo.checks import passes

    return [passes(response, check) for check in checks]


def _words(value: object) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
