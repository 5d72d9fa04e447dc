"""What is said of errors of the operating system, and of those that libraries raise as if they were some."""

import errno
import os
import socket
from pathlib import Path

import pytest
import requests

from tpo.store.ending import one_sentence
from tpo.store.files import os_error

SECRET = "hunter2-31b7"


def raised_from(error: OSError, cause: Exception) -> OSError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        requests.exceptions.ProxyError(f"HTTPSConnectionPool: http://me:{SECRET}@proxy:3128\nCannot connect"),
        requests.exceptions.ReadTimeout("timed out"),
        TimeoutError("timed out"),
        ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused"),
        *(OSError(code, os.strerror(code)) for code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ETIMEDOUT)),
        socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
        raised_from(OSError("We couldn't connect to the hub."), requests.exceptions.ConnectionError("no way")),
    ],
    ids=str,
)
def test_a_connection_is_no_disk(error: OSError) -> None:
    said = os_error(error)
    assert said.endswith(". See to the network") and "disk" not in said and "file" not in said
    assert SECRET not in said and "\n" not in said and ".." not in said


def test_a_disk_is_blamed_only_where_there_is_one() -> None:
    text = f"We couldn't find https://h/x?token={SECRET}"
    assert os_error(OSError(text)) == "We couldn't find https://h/x?token=<hidden>"
    assert os_error(OSError(text), Path("here")).startswith("here cannot be read or written (We couldn't")
    assert os_error(OSError(errno.EIO, "Input/output error")).endswith("See to the disk and the permissions")
    assert os_error(OSError(errno.EROFS, "Read-only", "a/b")).startswith("a/b cannot be read or written (Read-only)")


def test_an_end_shows_no_secret_and_steers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    with pytest.raises(SystemExit) as ended, one_sentence("all"):
        raise OSError(errno.EACCES, "Permission denied", f"a/{SECRET}\x1b[0m")
    assert SECRET not in str(ended.value.code) and "a/<hidden>\\x1b[0m" in str(ended.value.code)
