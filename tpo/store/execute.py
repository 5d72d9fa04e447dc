"""Execute one requested step: `python -m tpo.store.execute <artifact directory>`, or `execute(path)` in this process.

The directory holds `request.json`, which names the work; the manifest is written after the work. A process that
executes one step and ends gives all of its memory back. A training may be executed by several processes.
"""

import json
import logging
import os
import sys
import time
from contextlib import nullcontext
from pathlib import Path

from tpo.store.artifacts import finish, open_inputs
from tpo.store.errors import TpoError, hide
from tpo.store.files import translate_disk_errors
from tpo.store.gpus import prepare
from tpo.store.job import Job, load_work
from tpo.store.layout import LOCK
from tpo.store.locks import adopt
from tpo.store.logs import start_log
from tpo.store.memory import begin_step, give_back, keep_freed_memory
from tpo.store.processes import launch
from tpo.store.progress import warning_parent
from tpo.store.stage import RunsOn


def execute(path: Path, *, started: float | None = None) -> None:
    """Do the work that `path/request.json` asks for and write the manifest, of several processes in rank 0 only.

    Args:
        path: The artifact's directory.
        started: `time.time()` when the step began, where that was before this call.
    """
    keep_freed_memory()
    begin_step()
    started = time.time() if started is None else started
    request = json.loads((path / "request.json").read_text())
    computes = request["runs_on"] in (RunsOn.DEVICE, RunsOn.KEPT)
    if computes:
        prepare()
    rank = launch.join(request["processes"])
    job = Job(
        path=path,
        config=request["config"],
        inputs=open_inputs(path.parent, request),
        seed=request["seed"],
        how=request["how"],
    )
    metrics = load_work(request["work"])(job)
    if rank == 0:
        finish(path, metrics=metrics, started=started)
    if computes:
        give_back()


def main() -> None:
    """Execute the step in the directory given on the command line."""
    is_launched = "LOCAL_RANK" in os.environ  # by accelerate
    level = logging.WARNING if os.environ.get("LOCAL_RANK", "0") != "0" else logging.INFO
    start_log(level)
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tpo.store.execute <artifact directory that holds request.json>")
    path = Path(sys.argv[1])
    if is_launched:
        launch.end_with_launcher()
    else:
        adopt(path / LOCK)
    try:
        with nullcontext() if level == logging.WARNING else warning_parent(path), translate_disk_errors(path):
            execute(path)
    except Exception as error:
        launch.report(path, error)
        if isinstance(error, TpoError):
            sys.exit(f"error: {error}")
        hide(error)
        raise


if __name__ == "__main__":
    main()
