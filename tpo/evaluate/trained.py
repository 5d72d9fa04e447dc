"""What training left, by the name of a run or a directory: adapters and whole models, in the store or brought into it.

Stage "adapter": a copy of an adapter that was trained elsewhere, named by the digests of its files.
"""

import logging
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from tpo.evaluate.stages import import_adapter
from tpo.model.load import ADAPTER_CONFIG, check_adapter
from tpo.model.policy import is_whole_model
from tpo.results.read import FinishedRun, contents_of, read_run
from tpo.store.artifacts import Artifact, open_artifact
from tpo.store.errors import TpoError
from tpo.store.files import file_digest
from tpo.store.job import Job, Metrics
from tpo.store.layout import MANIFEST
from tpo.store.store import Store

log = logging.getLogger(__name__)


class PolicyError(TpoError):
    """A policy that does not exist or cannot be told apart; says what was looked for."""


class NamedRun(NamedTuple):
    """A run by name, and which of its policies; None: the last."""

    path: Path
    iteration: int | None


def named_run(text: str | None) -> NamedRun | None:
    """Return the run that `policy=`, `baseline=` or `model.name=` names, None where it names something else."""
    if not text:
        return None
    place, _, iteration = text.rpartition("@")
    if place and iteration.isdecimal() and Path(place).is_dir():
        return NamedRun(Path(place), int(iteration))
    return NamedRun(Path(text), None) if (Path(text) / "summary.json").is_file() else None


def require_directory(name: str, *, at: str) -> None:
    """Raise where a name can only be a directory's, and there is none.

    Raises:
        PolicyError: Naming what names it, `at`, and the directory.
    """
    path = Path(name)
    if not path.is_dir() and (path.is_absolute() or name.startswith((".", "runs/", "artifacts/"))):
        raise PolicyError(f"{at}{name}: there is no such directory")


def iteration_of_run(run: FinishedRun, named: NamedRun) -> dict[str, Any]:
    """Return the summary's entry of the iteration that is named.

    Raises:
        PolicyError: If the run has no such iteration.
    """
    entries = {entry["iteration"]: entry for entry in run.summary["iterations"]}
    number = max(entries) if named.iteration is None else named.iteration
    if number not in entries:
        raise PolicyError(f"policy {named.path}@{number}: the run has iterations {sorted(entries)}")
    found: dict[str, Any] = entries[number]
    return found


def adapter_of_run(named: NamedRun, store: Store) -> Path | None:
    """Return the directory that holds what a run trained, an adapter or a whole model; None where it is untrained.

    Raises:
        PolicyError: If the run has no such iteration, or its artifacts are not at hand.
        ArtifactError: If the training was computed anew since.
    """
    run = read_run(named.path)
    entry = iteration_of_run(run, named)
    if entry["adapter"] is None:
        return None
    places: list[Path] = [Path(run.config["artifacts_dir"]), store.root]
    found: list[Path] = [place / entry["adapter"] for place in places]
    adapter = next((at for at in found if (at / ADAPTER_CONFIG).is_file() or is_whole_model(at)), None)
    if adapter is None:
        raise PolicyError(
            f"policy {named.path}@{entry['iteration']}: its adapter {entry['adapter']} is neither in "
            f"{' nor in '.join(map(str, dict.fromkeys(places)))}; set artifacts_dir"
        )
    open_artifact(adapter.parent, content=contents_of(run.summary).get(adapter.parent.name))
    return adapter


def trained_artifact(path: Path, store: Store) -> tuple[Artifact, int]:
    """Return artifact and epoch of an adapter or a whole model, imported into the store where it lies in none."""
    home = path.resolve().parent
    if (home / MANIFEST).exists() and home.parent == store.root.resolve():
        return store.open(home.name), int(path.resolve().name.removeprefix("epoch-"))
    if is_whole_model(path):
        raise PolicyError(
            f"policy {path}: this is a whole model, which is not copied from one directory of artifacts to "
            f"another: set artifacts_dir={home.parent}"
        )
    digests = {file.name: file_digest(file) for file in sorted(path.glob("adapter_*")) if file.is_file()}
    if not any(name.startswith("adapter_model.") for name in digests):
        raise PolicyError(
            f"policy {path}: there is {ADAPTER_CONFIG}, but no weights (adapter_model.safetensors): copy or save "
            "the adapter again"
        )
    check_adapter(path)
    return import_adapter(store, path, digests), 1


def work(job: Job) -> Metrics:
    """Import an adapter that was trained elsewhere."""
    source = Path(job.how["path"])
    (job.path / "epoch-1").mkdir(exist_ok=True)
    for name in job.config["files"]:
        shutil.copyfile(source / name, job.path / "epoch-1" / name)
    log.info("copied from %s", source)  # where it lay is no content: the same files from elsewhere are the same
    return {}
