"""The store of the entry points: its steps run in this process, in a child each, or in the one that keeps models."""

import json
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tpo.store.execute import execute
from tpo.store.gpus import has_gpu
from tpo.store.in_use import InUse
from tpo.store.memory import keep_few_kernels
from tpo.store.processes import launch
from tpo.store.processes.cores import AUTO, count_workers
from tpo.store.processes.forks import preload
from tpo.store.progress import Listener
from tpo.store.resident import Resident
from tpo.store.stage import RunsOn
from tpo.store.store import Store


@contextmanager
def open_store(
    root: Path, *, isolate: bool = False, run: str | None = None, listeners: Sequence[Listener] = ()
) -> Iterator[Store]:
    """Yield a store whose steps are executed in this process or, with `isolate`, each in a child process.

    A training by several processes always has child processes. Steps with vLLM share one child, which ends with the
    context at the latest (`tpo.store.resident`); where there is a GPU, so do all steps that load a model, since a
    process that has used one keeps memory that vLLM then lacks.

    Args:
        root: Of all artifacts.
        isolate: The setting `isolate_stages`.
        run: Name of the run that requests, for the manifests.
        listeners: Who is told of every step.

    Raises:
        TpoError: If there is a GPU that torch cannot use.
    """
    keep_few_kernels()
    uses_gpu = has_gpu()
    with closing(Resident()) as resident, InUse(root) as in_use:

        def execute_somewhere(path: Path) -> None:
            request = json.loads((path / "request.json").read_text())
            runs_on, is_shared = RunsOn(request["runs_on"]), request["processes"] is not None
            if not isolate and count_workers(AUTO, at="") > 1:
                preload()  # imports beside the first step what the forked workers of later ones need
            keeps = runs_on == RunsOn.VLLM or (uses_gpu and runs_on == RunsOn.KEPT)
            if keeps or (uses_gpu and runs_on == RunsOn.DEVICE and not (isolate or is_shared)):
                resident.execute(path, runs_on)
                return
            if runs_on != RunsOn.HOST:
                resident.make_room()
            if isolate or is_shared:
                launch.start(path, request["processes"])
            else:
                execute(path)

        yield Store(root, execute=execute_somewhere, run=run, listeners=[*listeners, in_use])
