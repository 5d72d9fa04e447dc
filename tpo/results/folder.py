"""A run's folder: named after what was asked, one process's own while it writes there, and what it rests on."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tpo.config.fields import how_names
from tpo.config.schema import Config
from tpo.store.artifacts import Artifact
from tpo.store.files import content_hash, remove_temporary, translate_disk_errors, write_json
from tpo.store.layout import LOCK
from tpo.store.locks import hold
from tpo.store.run_files import settings_digest

# What a run's identity leaves out: where things lie, how stages are started, where metrics go.
NOT_IDENTITY = how_names(Config)


def run_name(name: str, config: dict[str, Any]) -> str:
    """Return `<name>-<hash of the config>`, the name of a run and of its folder.

    Args:
        name: Of the experiment.
        config: The composed config as a dictionary.
    """
    identity = {key: value for key, value in config.items() if key not in NOT_IDENTITY}
    return f"{name}-{content_hash(identity)}"


@contextmanager
def own_folder(name: str, config: dict[str, Any]) -> Iterator[Path]:
    """Make the folder of `run_name` in `runs_dir`, write the config to it, and give its path.

    One process at a time has a folder: another that asks for the same waits here and says so. What killed ones had half
    written is deleted.
    """
    path = Path(config["runs_dir"]) / run_name(name, config)
    with ExitStack() as stack:
        with translate_disk_errors(path):
            path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(hold(path / LOCK, purpose=str(path)))
            remove_temporary(path)
            write_json(path / "config.json", config)
        yield path


def settings_of(config: dict[str, Any]) -> dict[str, Any]:
    """Return what a summary says of the settings that it is of (`tpo.store.run_files.settings_digest`)."""
    return settings_digest(config, NOT_IDENTITY)


def stage_list(stages: Sequence[Artifact], *, run: str) -> list[dict[str, Any]]:
    """Return all that a store was asked for in order, with digest, seconds and whether it was reused.

    For `summary.json`, or a measured judge's file: `tpo.gc` keeps what these name, `tpo.verify` checks it, and a table
    or page takes it from artifacts with this content only. Reused is what was not computed for the run of this name, in
    whichever of its processes; so that every attempt at a run, and every process that has a part in it, gives the same
    list.

    Args:
        stages: `Store.asked`.
        run: The name that the store was opened with.
    """
    return [
        {
            "artifact_id": artifact.artifact_id,
            "stage": artifact.manifest["stage"],
            "content": artifact.content,
            "seconds": artifact.seconds,
            "is_reused": artifact.manifest.get("run") != run,
        }
        for artifact in stages
    ]
