"""What reaches the user: standard output has results, standard error has progress, warnings and errors.

While a job runs (`diverted`), the descriptors of both lead to the job's log, for this process and for its children: so
whatever libraries print, log or draw lands there, and what is for the user goes through `console`.
"""

import logging
import os
import pdb
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from tpo.store.secrets import hidden
from tpo.store.text import printable

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 100  # characters, where there is no terminal

_consoles: dict[tuple[str, int], "Console"] = {}
_kept: dict[str, TextIO] = {}  # the user's streams by name, while the descriptors lead to a log
_DESCRIPTORS = {"stdout": 1, "stderr": 2}


def log_path(hydra: Any) -> Path:
    """Return the file that Hydra logs a job to, relative to the working directory where it lies below it."""
    path = Path(hydra.runtime.output_dir) / f"{hydra.job.name}.log"
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def stream(name: str) -> TextIO:
    """Return the user's "stdout" or "stderr"."""
    found: TextIO = _kept.get(name) or getattr(sys, name)
    return found


def console(name: str = "stdout", *, width: int = WIDTH) -> "Console":
    """Return the `plain_console` on the user's "stdout" or "stderr".

    The same one as long as the stream is the same, since what is drawn at its bottom has to know what is printed.

    Args:
        name: Of the stream.
        width: In characters, where the stream is no terminal.
    """
    file = stream(name)
    found = _consoles.get((name, width))
    if found is None or found.file is not file:
        is_drawn = is_terminal(name)
        found = _consoles[name, width] = plain_console(
            file=file, width=None if is_drawn else width, force_terminal=is_drawn
        )
    return found


def plain_console(**settings: Any) -> "Console":
    """Return a console of rich's for which no text is markup, an emoji's name or a command to the terminal.

    That holds for cells of tables too. `settings` are rich's.
    """
    from rich.console import Console
    from rich.text import Text

    class Plain(Console):
        def render_str(self, text: str, **given: Any) -> Text:
            return super().render_str(printable(text), **given)

    return Plain(highlight=False, markup=False, emoji=False, **settings)


def is_terminal(name: str) -> bool:
    """Return whether a person may be looking at "stdout" or "stderr", with what can draw over a line."""
    return stream(name).isatty() and os.environ.get("TERM") != "dumb"


@contextmanager
def diverted(log: Path) -> Iterator[None]:
    """Send what this process and its children write to a log, but for what goes through this module.

    A debugger that `breakpoint()` starts talks to the user all the same.
    """
    with ExitStack() as stack:
        file = stack.enter_context(log.open("ab"))
        for name, descriptor in _DESCRIPTORS.items():
            flush = getattr(sys, name).flush
            flush()
            saved = os.dup(descriptor)  # not inheritable
            _kept[name] = stack.enter_context(open(saved, "w", encoding="utf-8", errors="backslashreplace"))
            stack.callback(os.dup2, saved, descriptor)
            stack.callback(flush)
            os.dup2(file.fileno(), descriptor)
        stack.callback(_kept.clear)
        stack.callback(setattr, sys, "breakpointhook", sys.breakpointhook)
        sys.breakpointhook = _debug
        yield


def read_line(prompt: str) -> str:
    """Return a line that the user types at the terminal, where it can be edited.

    Raises:
        EOFError: At the end of the input.
    """
    diverted_to = {name: os.dup(_DESCRIPTORS[name]) for name in _kept}
    for name in _kept:  # what edits lines writes to the descriptor
        getattr(sys, name).flush()
        os.dup2(stream(name).fileno(), _DESCRIPTORS[name])
    try:
        return input(prompt)
    finally:
        for name, descriptor in diverted_to.items():
            getattr(sys, name).flush()
            os.dup2(descriptor, _DESCRIPTORS[name])
            os.close(descriptor)


def _debug(*_: Any, **__: Any) -> None:
    pdb.Pdb(stdout=stream("stdout")).set_trace(sys._getframe().f_back)


class ToUser(logging.Handler):
    """Shows warnings of this package, of which the log has a line as well, as a plain line each."""

    def __init__(self) -> None:
        """Take warnings and errors."""
        super().__init__(logging.WARNING)
        self.addFilter(logging.Filter("tpo"))

    def emit(self, record: logging.LogRecord) -> None:
        """Print a warning, above what is drawn."""
        warn(record.getMessage())


def warn(text: str) -> None:
    """Print a warning for the user."""
    say(f"warning: {text}")


def tell(text: str) -> None:
    """Print a line of a result on the user's standard output."""
    print(text, file=stream("stdout"), flush=True)


def say(text: str, *, style: str | None = None) -> None:
    """Print a line of progress, above what is drawn below; characters that steer a terminal are shown, not obeyed."""
    from rich.text import Text

    console("stderr").print(Text(printable(hidden(text)), style=style or ""), soft_wrap=True)
