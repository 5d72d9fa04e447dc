"""Contenders in processes of their own: started, their memory watched, their measurements read.

A part's module is the process: `python -m experiments.bench.<part> <request.json>`, whose main guard calls `serve`. So
a contender has its own memory, allocator and threads, whatever another one did to them. It can run beside a process
that spins, or beside another contender; however it ends, what was started beside it ends too.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from experiments.bench.parts import Timed
from tpo.store.processes.cores import usable_cores

REPOSITORY = Path(__file__).parents[2]
POLL_S = 0.5
# What limits the threads of torch, numpy and scipy: contenders choose theirs.
THREAD_LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
# It ends by itself where its parent was killed, and asks for that seldom enough to spend its time in the loop.
SPIN = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(10**5):
        pass
"""
WARM, GO = "warm", "go"  # files in the folder of a contender that waits for another
WAIT_S = 900.0  # at most, for the other


class Request(NamedTuple):
    """What a contender's process is asked to do."""

    contender: str
    work: dict[str, Any]  # `workload.Work` as a dictionary
    seed: int
    folder: Path  # empty, the contender's own
    launched: float = 0.0  # `time.time()` when its process was started
    waits: bool = False  # before the timed work, until all that run beside it are warm


def environment() -> dict[str, str]:
    """Return the environment of contenders: all cores for each, no network."""
    return {
        **{name: value for name, value in os.environ.items() if name not in THREAD_LIMITS},
        # By default, vLLM leaves a core to its front end.
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, usable_cores())),
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "TOKENIZERS_PARALLELISM": "false",
    }


@dataclass
class Child:
    """A contender's process and the most memory (MiB, resident) that it and its children had together."""

    request: Request
    launched: float
    process: "subprocess.Popen[bytes]"
    peak_mib: float = 0.0
    is_late: bool = False  # ended for having taken too long

    @property
    def is_alive(self) -> bool:
        """Whether it runs."""
        return self.process.poll() is None

    def end(self) -> None:
        """End it and all that it started: what lives on would slow whatever comes next."""
        for member in _tree(self.process.pid) if self.is_alive else ():
            with suppress(psutil.NoSuchProcess):
                member.kill()
        self.process.wait()

    def measurement(self) -> dict[str, Any]:
        """Return what it wrote, with start-up and memory, or why there is nothing."""
        result = self.request.folder / "result.json"
        if self.is_late:
            return {"status": "took too long"}
        if self.process.returncode != 0 or not result.exists():
            lines = (self.request.folder / "log.txt").read_text(errors="replace").split("\n")
            last = next(filter(None, reversed(lines)), "no output")[:200]
            return {"status": f"failed with {self.process.returncode}: {last}"}
        found: dict[str, Any] = json.loads(result.read_text())
        if found["status"] != "ok":
            return found
        own = found.pop("own_peak_memory_mib")
        found["startup_s"] = found["began"] - self.launched
        # Between two looks a peak may be missed; the process itself knows its own, but not its children's.
        found["peak_memory_mib"] = {**own, "host": round(max(self.peak_mib, own["host"]), 1)}
        return found


def run_contenders(
    module: str, requests: Sequence[Request], *, is_busy: bool = False, limit_s: float = float("inf")
) -> list[dict[str, Any]]:
    """Return the measurements of contenders that run at the same time; one request runs alone.

    Each has "status" and, where it is "ok", the fields of `Timed`, the start-up and the memory. "status" is
    "not installed: <package>" where it lacks one, or the last line that a failed one wrote to `log.txt` in its folder.
    Several begin their timed work together and have "overlap", the part of the longest of them in which all ran.

    Args:
        module: Of the part.
        requests: The contenders'.
        is_busy: Whether a process spins beside them, from before they start until after they end. How much of a core it
            got is then "beside_cores".
        limit_s: Seconds after which they are ended.
    """
    with ExitStack() as stack:
        beside = stack.enter_context(spinning()) if is_busy else None
        asked = [request._replace(waits=len(requests) > 1) for request in requests]
        children = [stack.enter_context(started(module, request)) for request in asked]
        launched = time.monotonic()
        watch(children, limit_s=limit_s)
        shared: dict[str, float] = {}
        if beside is not None:
            shared["beside_cores"] = beside.cpu_times().user / (time.monotonic() - launched)
        found = [child.measurement() for child in children]
    if len(found) > 1 and all(one["status"] == "ok" for one in found):
        shared["overlap"] = overlap([(one["began"], one["began"] + one["seconds"]) for one in found])
    return [{key: value for key, value in one.items() if key != "began"} | shared for one in found]


def overlap(spans: Sequence[tuple[float, float]]) -> float:
    """Return for how much of the longest of some spans of time all of them last, in [0, 1]."""
    together = min(end for _, end in spans) - max(start for start, _ in spans)
    return max(0.0, together) / max(end - start for start, end in spans)


@contextmanager
def spinning() -> Iterator[psutil.Process]:
    """Keep a process busy with a loop in Python, on whichever core the system gives it, while the context lasts."""
    process = subprocess.Popen([sys.executable, "-S", "-c", SPIN, str(os.getpid())])
    try:
        yield psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()


@contextmanager
def started(module: str, request: Request) -> Iterator[Child]:
    """Start a contender; it has ended when the context does."""
    request.folder.mkdir(parents=True, exist_ok=True)
    (request.folder / "result.json").unlink(missing_ok=True)
    launched = time.time()
    told = {**request._asdict(), "folder": str(request.folder), "launched": launched}
    (request.folder / "request.json").write_text(json.dumps(told))
    command = [sys.executable, "-m", module, str(request.folder / "request.json")]
    with (request.folder / "log.txt").open("w") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=file, stderr=subprocess.STDOUT)
    child = Child(request, launched, process)
    try:
        yield child
    finally:
        child.end()


def watch(children: Sequence[Child], *, limit_s: float) -> None:
    """Wait until all have ended, look at their memory, and let those that wait begin once all are warm."""
    late = time.monotonic() + limit_s
    is_open = False
    while alive := [child for child in children if child.is_alive]:
        for child in alive:
            child.peak_mib = max(child.peak_mib, _tree_memory(child.process.pid))
        if time.monotonic() > late:
            for child in alive:
                child.is_late = True
                child.end()
        if not is_open and all((child.request.folder / WARM).exists() for child in alive):
            is_open = True
            for child in alive:
                (child.request.folder / GO).touch()
        with suppress(subprocess.TimeoutExpired):
            alive[0].process.wait(POLL_S)


def _tree_memory(pid: int) -> float:
    """Return the resident MiB of a process and its children, at most.

    Mapped files and shared memory count once, as those of the process that has the most. Other pages that forked
    processes have in common count for each: to ask the system for shares (PSS) takes 50 ms for 2 GiB, which would slow
    what is timed.
    """
    own = shared = 0
    for member in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            found = member.memory_info()
            can_share = getattr(found, "shared", 0)  # Linux: mapped files and shared memory
            own, shared = own + found.rss - can_share, max(shared, can_share)
    return float(own + shared) / 2**20


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


class Clock(NamedTuple):
    """When timed work began."""

    began: float  # `time.time()`
    started: float  # `time.perf_counter()`

    @property
    def seconds(self) -> float:
        """Since then."""
        return time.perf_counter() - self.started


def start_clock(request: Request) -> Clock:
    """Return the clock of a contender that is warm, in its process; one that waits for another waits here.

    Raises:
        TimeoutError: If the other is not warm in time.
    """
    if request.waits:
        (request.folder / WARM).touch()
        late = time.monotonic() + WAIT_S
        while not (request.folder / GO).exists():
            if time.monotonic() > late:
                raise TimeoutError(f"the contender beside this one was not warm within {WAIT_S:g} s")
            time.sleep(0.005)
    return Clock(time.time(), time.perf_counter())


def serve(measure: Callable[[Request], Timed]) -> None:
    """Do what the request on the command line asks for and write the result beside it.

    Args:
        measure: Runs a contender.
    """
    path = Path(sys.argv[1])
    told = json.loads(path.read_text())
    request = Request(**{**told, "folder": Path(told["folder"])})
    if "ours" not in request.contender:
        # Importing tpo has set it. The others wait as they do in a script of their own.
        assert "torch" not in sys.modules
        os.environ.pop("OMP_WAIT_POLICY", None)
    result: dict[str, Any]
    try:
        timed = measure(request)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.split(".")[0] in {"tpo", "experiments"}:
            raise
        result = {"status": f"not installed: {error.name}"}
    else:
        from tpo.store.environment import peak_memory_mib

        result = {"status": "ok", **asdict(timed), "own_peak_memory_mib": peak_memory_mib()}
    (path.parent / "result.json").write_text(json.dumps(result))
