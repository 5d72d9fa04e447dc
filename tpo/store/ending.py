"""How an entry point ends other than well: in one sentence on stderr, with the exit code that shells expect."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

from tpo.store.errors import TpoError
from tpo.store.files import os_error


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a scheduler sends: ended like Ctrl-C, so that children and drawn lines do not stay."""


def _terminate(*_: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends the process at once
    raise Terminated


@contextmanager
def one_sentence(kept: str) -> Iterator[None]:
    """End the process with a sentence after an error of the user's or the operating system's, Ctrl-C or SIGTERM.

    Args:
        kept: What an interruption does not lose; notes of the `KeyboardInterrupt` are added.
    """
    signal.signal(signal.SIGTERM, _terminate)
    try:
        yield
    except TpoError as error:
        sys.exit(f"error: {error}")
    except BrokenPipeError:  # of `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(128 + signal.SIGPIPE)
    except OSError as error:
        sys.exit(f"error: {os_error(error)}")
    except KeyboardInterrupt as error:
        is_terminated = isinstance(error, Terminated)
        parts = [kept, *getattr(error, "__notes__", ())]
        print(
            f"{'terminated' if is_terminated else 'interrupted'}: {' and '.join(parts)} are kept; the same command "
            "continues",
            file=sys.stderr,
        )
        sys.exit(128 + (signal.SIGTERM if is_terminated else signal.SIGINT))
