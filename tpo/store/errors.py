"""The base class of all errors whose message is for the user: what is wrong, where, and what to do."""


class TpoError(Exception):
    """An error that needs no traceback to be understood."""


def describe(error: Exception) -> str:
    """Return the message of a `TpoError`, and of any other error its class and message."""
    return str(error) if isinstance(error, TpoError) else f"{type(error).__name__}: {error}"


class ArtifactError(TpoError):
    """An artifact that cannot be computed, or whose files differ from its manifest."""
