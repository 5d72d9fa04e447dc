"""What a record keeps of a run: `config.json` and `summary.json`, tens of kilobytes, without this machine's names."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tpo.results.next import PLACES
from tpo.results.read import FinishedRun, ResultError, load_json
from tpo.store.files import write_json, write_sealed

#: What is no part of a run's identity and may hold paths or accounts, as a stranger's clone would have it.
NEUTRAL = {**PLACES, "tracking": {"kind": "none"}}


def keep_run(run: FinishedRun, directory: Path) -> list[Path]:
    """Write `config.json` and `summary.json` of a run to `<directory>/<its name>/` and return their paths.

    The table, its means over seeds and the figures are made of these alone; differences by instruction, training curves
    and the samples of a page need the artifacts. A run that is already there stays as it is.

    Raises:
        ResultError: If a file names a place on this machine, or another run of this name is kept there.
    """
    target = directory / run.path.resolve().name
    texts = {"config.json": {**run.config, **NEUTRAL}, "summary.json": run.summary}
    for name, found in texts.items():
        for key, text in _local_names(found):
            raise ResultError(
                f"{run.path}: {key} of {name} names something of this machine ({text}). A record keeps no such name: "
                "give paths relative to the repository, and repeat the run"
            )
        path = target / name
        if path.exists() and load_json(path) != found:
            raise ResultError(
                f"{target} holds another run of this name already, which differs in {name}: reruns that differ in "
                "rounding alone have one name. Keep each in a folder of its own, such as --keep DIR/1"
            )
    target.mkdir(parents=True, exist_ok=True)
    for name, found in texts.items():
        (write_sealed if name == "summary.json" else write_json)(target / name, found)
    return [target / name for name in texts]


def _local_names(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Yield key and text of every string that is an absolute path, or holds one of this machine, or its address.

    Prompts and chat templates may hold words such as /think: within a longer text a path counts where it exists here.
    """
    if isinstance(value, dict | list):
        for name, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _local_names(part, f"{key}.{name}" if key else str(name))
    elif isinstance(value, str):
        host = socket.gethostname()
        words = re.findall(r"(?:^|(?<=[\s='\",\[(:]))~?/[^\s'\",\])]+", value)
        if value.startswith(("/", "~/")) and " " not in value:
            yield key, value
        elif found := [word for word in words if word.strip("/") and Path(word).expanduser().exists()]:
            yield key, found[0]
        elif host not in ("", "localhost") and re.search(rf"(?://|@){re.escape(host)}(?![\w-])", value):
            yield key, host
