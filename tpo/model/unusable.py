"""Answers of a server that are there, and are not what was asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

SMALL_BODY = 2**20  # bytes: of an answer without what it was asked to hold
#: Most bytes of the body of the answer that a task is reading.
BODY_LIMIT: ContextVar[int] = ContextVar("BODY_LIMIT", default=SMALL_BODY)


class UnusableError(Exception):
    """An answer of a server that cannot be used; its message says why, with "it" for the answer.

    Attributes:
        instead: What is returned in place of an answer when the attempts are spent; None ends the run.
        may_change: Whether another attempt may get another answer.
        is_fault: Whether it counts among those in a row that end the run early; not where a setting accepts it, or
            where the server has decided so and is well.
    """

    def __init__(self, why: str, *, instead: Any = None, may_change: bool = True, is_fault: bool = True) -> None:
        """Say why."""
        super().__init__(why)
        self.instead, self.may_change, self.is_fault = instead, may_change, is_fault


@contextmanager
def reading(*, max_bytes: int = SMALL_BODY) -> Iterator[None]:
    """Turn what a body that is damaged, cut or of another form makes libraries raise into an `UnusableError`.

    Args:
        max_bytes: The largest body of an answer that is requested within.
    """
    before = BODY_LIMIT.set(max_bytes)
    try:
        yield
    except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
        raise UnusableError(f"{type(error).__name__}: {error}") from error
    finally:
        BODY_LIMIT.reset(before)
