"""The store of the entry points: its steps run in this process, in a child each, or in the child that keeps vLLM."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tpo.store.artifacts import Store
from tpo.store.execute import execute
from tpo.store.processes import launch
from tpo.store.processes.cores import AUTO, count_workers
from tpo.store.processes.forks import preload
from tpo.store.progress import Listener
from tpo.store.resident import Resident
from tpo.store.stage import RunsOn


@contextmanager
def open_store(
    root: Path, *, isolate: bool = False, run: str | None = None, listeners: Sequence[Listener] = ()
) -> Iterator[Store]:
    """Yield a store whose steps are executed in this process or, with `isolate`, each in a child process.

    A training by several processes always has child processes. Steps with vLLM share one child, which ends with the
    context at the latest (`tpo.store.resident`).

    Args:
        root: Of all artifacts.
        isolate: The setting `isolate_stages`.
        run: Name of the run that requests, for the manifests.
        listeners: Who is told of every step.
    """
    with closing(Resident()) as resident:

        def execute_somewhere(path: Path) -> None:
            request = json.loads((path / "request.json").read_text())
            if not isolate and count_workers(AUTO, at="") > 1:
                preload()  # imports beside the first step what the forked workers of later ones need
            if request["runs_on"] == RunsOn.VLLM:
                resident.execute(path)
                return
            if request["runs_on"] == RunsOn.DEVICE:
                resident.make_room()
            if isolate or request["processes"] is not None:
                launch.start(path, request["processes"])
            else:
                execute(path)

        yield Store(root, execute=execute_somewhere, run=run, listeners=listeners)
