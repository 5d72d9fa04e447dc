"""How an entry point ends other than well: in one sentence on stderr, with the exit code that shells expect."""

import os
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from tpo.store.errors import TpoError
from tpo.store.files import os_error

CONTINUES = "the same command continues"
CLEAR = "\r\x1b[2K"  # the line of a terminal, on which a bar may be drawn


class Terminated(KeyboardInterrupt):
    """SIGTERM, which a scheduler sends: ended like Ctrl-C, so that children and drawn lines do not stay."""


@contextmanager
def _announced() -> Iterator[None]:
    """Have the first signal that ends the command say so at once: what is under way may take a minute to end."""
    process = os.getpid()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    is_drawn = os.isatty(2)
    user = -1  # where standard error is closed
    with suppress(OSError):
        user = os.dup(2)  # while work is done, descriptor 2 may lead to a log (`tpo.config.streams`)

    def end(number: int, _: object) -> NoReturn:
        is_terminated = number == signal.SIGTERM
        # A second one of these ends the process at once.
        signal.signal(number, signal.SIG_DFL if is_terminated else signal.default_int_handler)
        if os.getpid() == process:  # a forked worker is ended by its parent
            said = f"{'terminated' if is_terminated else 'interrupted'}: ending, which may take a minute\n"
            with suppress(OSError):  # written to the descriptor, since the stream's lock may be held here already
                os.write(user, f"{CLEAR if is_drawn else ''}{said}".encode())
        raise Terminated if is_terminated else KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)
    if before[signal.SIGINT] is signal.default_int_handler:  # in the background of some shells it is ignored
        signal.signal(signal.SIGINT, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before[signal.SIGINT])
        with suppress(OSError):
            os.close(user)


@contextmanager
def one_sentence(kept: str, *, then: str = CONTINUES) -> Iterator[None]:
    """End the process with a sentence after an error of the user's or the operating system's, Ctrl-C or SIGTERM.

    Args:
        kept: What an interruption does not lose, perhaps nothing; notes of the `KeyboardInterrupt` are added.
        then: What else is true after an interruption.
    """
    try:
        with _announced():
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
        parts = [part for part in (kept, *getattr(error, "__notes__", ())) if part]
        said = f"{' and '.join(parts)} are kept; {then}" if parts else then
        print(f"{'terminated' if is_terminated else 'interrupted'}: {said}", file=sys.stderr)
        sys.exit(128 + (signal.SIGTERM if is_terminated else signal.SIGINT))
