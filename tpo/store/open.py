"""The store with which entry points work: its steps run in this process, in fresh ones, or in the one that keeps vLLM."""

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from tpo.store.artifacts import Store
from tpo.store.execute import execute
from tpo.store.processes import launch
from tpo.store.resident import Resident
from tpo.store.stage import RunsOn


@contextmanager
def open_store(root: Path, *, isolate: bool = False, run: str | None = None) -> Iterator[Store]:
    """Give a store whose steps are executed here or, where `isolate`, each in a process of its own.

    Trainings of several processes are isolated in any case. Steps with vLLM share a process, which ends with the
    context at the latest (`tpo.store.resident`).

    Args:
        root: Of all artifacts.
        isolate: The setting `isolate_stages`.
        run: Name of the run that asks, for the manifests.
    """
    with closing(Resident()) as resident:

        def execute_somewhere(path: Path) -> None:
            request = json.loads((path / "request.json").read_text())
            if request["runs_on"] == RunsOn.VLLM:
                resident.execute(path)
                return
            if request["runs_on"] == RunsOn.DEVICE:
                resident.make_room()
            if isolate or request["processes"] is not None:
                launch.start(path, request["processes"])
            else:
                execute(path)

        yield Store(root, execute=execute_somewhere, run=run)
