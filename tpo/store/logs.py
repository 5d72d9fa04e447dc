"""Log lines that can be shown: without secrets, and without what steers the terminal in which a log is read."""

import logging

from tpo.store.secrets import hidden
from tpo.store.text import printable


class Shown(logging.Filter):
    """Lets all records through, and makes their text and their traceback fit to be shown."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record in place."""
        record.msg, record.args = printable(hidden(record.getMessage())), None
        if record.exc_info:
            record.exc_text = printable(hidden(logging.Formatter().formatException(record.exc_info)))
        return True


def filter_handlers() -> None:
    """Make all handlers of this process show what is fit to be shown."""
    for handler in logging.getLogger().handlers:
        handler.addFilter(Shown())


def start_log(level: int = logging.INFO) -> None:
    """Log to standard error, as a child process does."""
    logging.basicConfig(level=level, format="[%(asctime)s] %(message)s", datefmt="%H:%M:%S")
    filter_handlers()
