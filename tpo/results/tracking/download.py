"""Results that Weights & Biases holds: `wandb:entity/project` in place of a folder, wherever results are read."""

from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from tpo.results.tracking.connect import TrackingError, has_wandb_key, unreachable

#: Files of a finished W&B run, which the tracker puts there, named as in a run's own folder.
FILES = ("config.json", "summary.json")
REQUEST_S = 30  # for W&B to answer a request


def download_results(name: str, directory: Path) -> list[Path]:
    """Download what a project's runs and evaluations left in W&B, and return a folder for each.

    Args:
        name: `entity/project`, or `entity/project/pattern` for those whose ids, which are their folders' names, match a
            pattern such as `quickstart-*`.
        directory: Where `<entity>/<project>/<run id>/` is made, with config.json and summary.json; a folder without
            these is that of a run that has not finished, or that an earlier version tracked.

    Raises:
        TrackingError: If the name is no project's, there is no key, or W&B does not give the project.
    """
    entity, project, pattern = [*name.split("/"), "*"][:3] if name.count("/") in (1, 2) else ("", "", "")
    if not (entity and project and pattern):
        raise TrackingError(f"wandb:{name}: give wandb:entity/project, or wandb:entity/project/pattern of runs' ids")
    if not has_wandb_key():
        raise TrackingError(f"wandb:{name}: no key of W&B is found; see `wandb login`, or set WANDB_API_KEY")
    if reason := unreachable():
        raise TrackingError(f"wandb:{name}: {reason}. Offline runs are read from their folders, wandb/offline-run-*")
    import wandb
    from wandb.errors import Error

    try:
        runs = wandb.Api(timeout=REQUEST_S).runs(f"{entity}/{project}")
        return [*_download(runs, pattern, directory / entity / project)]
    except (Error, OSError, ValueError) as error:  # ValueError: there is no such project
        raise TrackingError(f"wandb:{name}: W&B does not give it ({' '.join(str(error).split())})") from error


def _download(runs: Any, pattern: str, directory: Path) -> Iterator[Path]:
    """Download the files of each of W&B's `Run`s that matches; what was downloaded before is replaced."""
    for run in runs:
        if fnmatchcase(run.id, pattern):
            folder = directory / run.id
            for file in run.files(names=[*FILES]):
                folder.mkdir(parents=True, exist_ok=True)
                file.download(root=str(folder), replace=True).close()
            yield folder
