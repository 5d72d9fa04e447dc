"""The base class of all errors whose message is for the user: what is wrong, where, and what to do."""

from textwrap import shorten


class TpoError(Exception):
    """An error that needs no traceback to be understood."""


def describe(error: Exception) -> str:
    """Return the message of a `TpoError`, and of any other error its class and message."""
    return str(error) if isinstance(error, TpoError) else f"{type(error).__name__}: {error}"


def why(error: Exception) -> str:
    """Return an error of another library in a few words and one line."""
    return f"{type(error).__name__}: {shorten(str(error), 100, placeholder=' ...')}"


class ArtifactError(TpoError):
    """An artifact that cannot be computed, or whose files differ from its manifest."""
