"""The one base of all errors whose message is meant for the user: what is wrong, where, and what to do."""


class TpoError(Exception):
    """An error that needs no traceback to be understood."""


def describe(error: Exception) -> str:
    """Return what to tell the user of an error: the text of one of this package, and the kind of any other too."""
    return str(error) if isinstance(error, TpoError) else f"{type(error).__name__}: {error}"


class ArtifactError(TpoError):
    """An artifact that cannot be made, or one that is not what its manifest says."""
