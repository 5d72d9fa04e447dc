"""The JSON files in the folder of a run, an evaluation or measured judges: each as it was written, and all of one run.

Numbers are only taken from a file with a digest of its own. A summary also says which settings it is of.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tpo.store.files import DIGEST, SealError, json_digest, unsealed

SUMMARY, CONFIG = "summary.json", "config.json"  # of a run or an evaluation
JUDGES = "agreement-"  # begins the name of a folder of measured judges, each in a file of its own


def is_run(path: Path) -> bool:
    """Return whether a folder is that of a run, an evaluation or measured judges, or was."""
    is_judges = path.name.startswith(JUDGES) and any(path.glob("*.json"))
    return is_judges or any((path / name).is_file() for name in (SUMMARY, CONFIG))


def read_run_file(file: Path) -> Any:
    """Return what a file holds, without its digest.

    Raises:
        FileNotFoundError: If it is not there.
        UnsealedError: If numbers of tables come from it, and it has no digest: a summary, or a measured judge.
        SealError: If it is damaged or was edited, or is a summary of other settings than those beside it.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise SealError(f"{file} is damaged ({error})") from error
    if not isinstance(value, dict):
        if file.name in (SUMMARY, CONFIG):
            raise SealError(f"{file} is damaged (it holds no JSON object)")
        return value  # of a benchmark's official tool
    if file.name == SUMMARY or "slices" in value or DIGEST in value:
        value = unsealed(file, value)
    if file.name == SUMMARY:
        _require_settings(value, file.with_name(CONFIG))
    return value


def settings_digest(config: Mapping[str, Any], left_out: Iterable[str]) -> dict[str, Any]:
    """Return what a summary says of the settings that it is of: their digest, and which of them that leaves out.

    Args:
        config: The composed config.
        left_out: Keys of what the run's name does not depend on, and a repetition may change.
    """
    names = sorted(left_out)
    kept = {key: value for key, value in config.items() if key not in names}
    return {"digest": json_digest(json.loads(json.dumps(kept))), "left_out": names}


def _require_settings(summary: dict[str, Any], file: Path) -> None:
    said = summary.get("settings")
    if said is not None and file.exists() and settings_digest(read_run_file(file), said["left_out"]) != said:
        raise SealError(f"{file} was edited: {SUMMARY} beside it is of other settings")
