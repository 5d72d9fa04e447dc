"""`python warm.py`: a process that has imported everything, and forks to execute a command of tpo with a fault in it.

To start Python and import torch, trl and matplotlib takes ten seconds, a fork none. Reads a request in JSON from each
line of its standard input (see `main`), and answers with a line: how the child ended. It is started with shim.c
preloaded, which stays without effect until a child says where the fault is.
"""

import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import openai._base_client

import tpo.model.connection
import tpo.run
import tpo.store.digests
from tpo.config.check import check
from tpo.config.entry import run_entry
from tpo.config.schema import Config
from tpo.evaluate.inherit import settings_of_seed


def end_with_parent() -> None:
    """Have the kernel kill this process when its parent is gone: nothing of a harness that was stopped stays behind."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG; not inherited by a fork


def shorten_delays() -> None:
    """A server that failed is asked again at once."""
    tpo.model.connection.POLL_S = 0.02
    openai._base_client.INITIAL_RETRY_DELAY = 0.002
    openai._base_client.MAX_RETRY_DELAY = 0.02


def run(overrides: list[str]) -> None:
    """Be `python -m tpo.run`."""
    sys.argv = ["tpo.run", *overrides]
    run_entry(Config, about=tpo.run.ABOUT, check=check, work=tpo.run.work, find_under=settings_of_seed)


def warm_up(folder: str, overrides: list[str]) -> None:
    """Run the command once, for all that is imported, compiled or cached at the first time."""
    before = Path.cwd()
    os.chdir(folder)
    run(overrides)
    os.chdir(before)
    tpo.store.digests._computed.clear()
    gc.collect()
    gc.freeze()  # collections in the forks would look at all that was imported


def execute(request: dict[str, Any]) -> int:
    """Do what a request says, in the child, and return the exit status, as Python would give it."""
    end_with_parent()
    os.setsid()
    os.chdir(request["folder"])
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, descriptor)
        os.close(file)
    log = -1 if request["record"] is None else os.open(request["record"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    fault = request["fault"]
    ctypes.CDLL(None).fault_begin(
        *(request["root"].encode(), log, fault["name"].encode(), fault["nth"], fault["action"]),
        *(fault["error"], ctypes.c_uint(fault["later"])),
    )
    try:
        run(request["overrides"])
    except SystemExit as end:
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    else:
        status = 0
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    if request["reached"] is not None and ctypes.CDLL(None).fault_reached():
        ctypes.CDLL(None).fault_begin(b"/nowhere", -1, b"", 0, 0, 0, 0)
        Path(request["reached"]).touch()
    return status


def await_end(child: int, *, seconds: float) -> dict[str, float | None]:
    """Return a child's wait status, None for one that had to be killed, and the seconds that it computed."""
    end = time.monotonic() + seconds
    ended, status, usage = os.wait4(child, os.WNOHANG)
    while not ended and time.monotonic() < end:
        time.sleep(0.01)
        ended, status, usage = os.wait4(child, os.WNOHANG)
    if not ended:
        os.killpg(child, signal.SIGKILL)
        usage = os.wait4(child, 0)[2]
    return {"status": status if ended else None, "seconds": usage.ru_utime + usage.ru_stime}


def main() -> None:
    """Answer requests until standard input ends.

    The first is a dictionary with `folder` and `overrides`: the command that warms up. Each further one has besides:
    `root`, below which calls count; `fault`, the arguments of shim.c's `fault_begin`; `record`, a file for the names of
    all points, or null; `reached`, a file that is made where the fault came; `stdout` and `stderr`, files; `seconds`,
    after which the child is killed.
    """
    end_with_parent()
    answers = os.fdopen(os.dup(1), "w")
    os.set_inheritable(answers.fileno(), False)
    os.dup2(2, 1)
    shorten_delays()
    first = json.loads(sys.stdin.readline())
    warm_up(first["folder"], first["overrides"])
    print(json.dumps({"threads": len(os.listdir("/proc/self/task"))}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os._exit(execute(request))
        print(json.dumps(await_end(child, seconds=request["seconds"])), file=answers, flush=True)


if __name__ == "__main__":
    main()
