"""A contender in a process of its own: started, its memory watched, its measurement read.

A part's module is the process: `python -m experiments.bench.<part> <request.json>`, whose main guard calls `serve`. So
a contender has its own memory, allocator and threads, whatever another one did to them.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from experiments.bench.parts import Timed

REPOSITORY = Path(__file__).parents[2]
POLL_S = 0.5
# Limit the threads of torch and numpy.
LIMITS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Request(NamedTuple):
    """What a contender's process is asked to do."""

    contender: str
    work: dict[str, Any]  # `workload.Work` as a dictionary
    seed: int
    folder: Path  # empty, the contender's own
    launched: float = 0.0  # `time.time()` when its process was started


def environment() -> dict[str, str]:
    """Return the environment of contenders: all cores for each, no network."""
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    return {
        **{name: value for name, value in os.environ.items() if name not in LIMITS},
        "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cores)),  # by default, vLLM leaves a core to its front end
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "TOKENIZERS_PARALLELISM": "false",
    }


def run_contender(module: str, request: Request) -> dict[str, Any]:
    """Return the measurement of a contender: "status" and, where it is "ok", the fields of `Timed` and the memory.

    "status" is "not installed: <package>" where it lacks one, or the last line that a failed one wrote to `log.txt` in
    its folder.

    Args:
        module: Of the part.
        request: The contender's.
    """
    request.folder.mkdir(parents=True, exist_ok=True)
    log, result = request.folder / "log.txt", request.folder / "result.json"
    result.unlink(missing_ok=True)
    launched = time.time()
    told = {**request._asdict(), "folder": str(request.folder), "launched": launched}
    (request.folder / "request.json").write_text(json.dumps(told))
    command = [sys.executable, "-m", module, str(request.folder / "request.json")]
    with log.open("w") as file:
        process = subprocess.Popen(command, cwd=REPOSITORY, env=environment(), stdout=file, stderr=subprocess.STDOUT)
        try:
            peak = watch_memory(process)
        except BaseException:
            end_tree(process.pid)  # what lives on would slow whatever comes next
            process.wait()
            raise
    if process.returncode != 0 or not result.exists():
        lines = log.read_text(errors="replace").split("\n")
        return {"status": f"failed with {process.returncode}: {next(filter(None, reversed(lines)), 'no output')[:200]}"}
    found: dict[str, Any] = json.loads(result.read_text())
    if found["status"] != "ok":
        return found
    own = found.pop("own_peak_memory_mib")
    found["startup_s"] = found.pop("began") - launched
    # Between two looks a peak may be missed; the process itself knows its own, but not its children's.
    found["peak_memory_mib"] = {**own, "host": round(max(peak, own["host"]), 1)}
    return found


def watch_memory(process: "subprocess.Popen[Any]") -> float:
    """Wait for a process to end; return the most memory (MiB, resident) that it and its children had together."""
    peak = 0.0
    while process.poll() is None:
        peak = max(peak, _tree_memory(process.pid))
        try:
            process.wait(POLL_S)
        except subprocess.TimeoutExpired:
            continue
    return peak


def end_tree(pid: int) -> None:
    """End a process and all that it started."""
    for member in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            member.kill()


def _tree_memory(pid: int) -> float:
    total = 0
    for member in _tree(pid):
        with suppress(psutil.NoSuchProcess):
            total += member.memory_info().rss
    return float(total) / 2**20


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def serve(measure: Callable[[Request], Timed]) -> None:
    """Do what the request on the command line asks for and write the result beside it.

    Args:
        measure: Runs a contender.
    """
    path = Path(sys.argv[1])
    told = json.loads(path.read_text())
    request = Request(**{**told, "folder": Path(told["folder"])})
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
