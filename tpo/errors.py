"""The one base of all errors whose message is meant for the user: what is wrong, where, and what to do."""


class TpoError(Exception):
    """An error that needs no traceback to be understood."""
