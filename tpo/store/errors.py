"""The base class of all errors whose message is for the user: what is wrong, where, and what to do."""

import traceback
from textwrap import shorten

from tpo.store.secrets import hidden
from tpo.store.text import printable


class TpoError(Exception):
    """An error that needs no traceback to be understood; its message shows no secret and steers no terminal."""

    def __str__(self) -> str:
        """Return the message, fit to be shown."""
        return printable(hidden(super().__str__()))


def describe(error: Exception) -> str:
    """Return the message of a `TpoError`, and of any other error its class and message."""
    return str(error) if isinstance(error, TpoError) else f"{type(error).__name__}: {shown(error)}"


def shown(error: BaseException) -> str:
    """Return the message of any error, fit to be shown."""
    return printable(hidden(str(error)))


def hide(error: BaseException | None) -> None:
    """Take secrets out of an error and of those that it came from, which a traceback will show."""
    while error is not None:
        error.args = tuple(hidden(part) if isinstance(part, str) else part for part in error.args)
        error = error.__cause__ or error.__context__


def traced(error: BaseException) -> str:
    """Return the traceback of an error and of those that it came from, fit to be shown."""
    return printable(hidden("".join(traceback.format_exception(error))))


def why(error: Exception) -> str:
    """Return an error of another library in a few words and one line."""
    return f"{type(error).__name__}: {shorten(shown(error), 100, placeholder=' ...')}"


class ArtifactError(TpoError):
    """An artifact that cannot be computed, or whose files differ from its manifest."""
