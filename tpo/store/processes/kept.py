"""What a process keeps loaded from one step to the next: a vLLM engine, several of them, or a judge's model.

All of these take long to load and hold the device's memory. So a process keeps at most one, with the arguments that it
was made with. A model in plain torch is let go for another; vLLM gives its memory back only when its process ends, so a
step that wants something else needs another process (`tpo.store.resident`).
"""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

from tpo.store.memory import give_back

T = TypeVar("T")


class OccupiedError(Exception):
    """What this process keeps was made with other arguments: the step needs another process."""


class Kept(NamedTuple):
    """What a process keeps, the arguments that it was made with, and whether it is a model in plain torch."""

    arguments: object
    engine: Any
    is_torch: bool


_kept: Kept | None = None
_is_keeper = False


def kept_engine(arguments: object, start: Callable[[], T], *, is_torch: bool = False) -> T:
    """Return what this process keeps; where there is nothing, `start` it and keep it.

    Args:
        arguments: What it is made with; compared with those of what is kept.
        start: Makes it.
        is_torch: Whether it is a model in plain torch: it takes the place of another such.

    Raises:
        OccupiedError: If something else is kept.
    """
    global _kept
    if _kept is not None and _kept.arguments != arguments and not (is_torch and let_go()):
        raise OccupiedError
    if _kept is None:
        _kept = Kept(arguments, start(), is_torch)
    engine: T = _kept.engine
    return engine


def let_go() -> bool:
    """Let a model in plain torch go and give its memory back; return whether nothing is kept now."""
    global _kept
    if _kept is not None and _kept.is_torch:
        _kept = None
        give_back()
    return _kept is None


def kept() -> Any:
    """Return what this process keeps, None where that is nothing."""
    return None if _kept is None else _kept.engine


def kept_arguments() -> object:
    """Return what that was made with, None where nothing is kept."""
    return None if _kept is None else _kept.arguments


def become_keeper() -> None:
    """Say that this process executes one step after the other and ends when one wants something else."""
    global _is_keeper
    _is_keeper = True


def is_keeper() -> bool:
    """Return whether a model in plain torch may be kept here; elsewhere nobody would let it go."""
    return _is_keeper
