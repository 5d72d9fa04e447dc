"""Where to go from a finished run, and the command that repeats it."""

import shlex
from collections.abc import Mapping
from typing import Any

from tpo.config.explained import word_of

#: Where runs and artifacts lie unless they are put elsewhere (conf/entry.yaml).
PLACES = {"artifacts_dir": "artifacts", "runs_dir": "runs"}


def repeating(command: str, config: Mapping[str, Any]) -> str:
    """Return the command that repeats a run and finds what it computed.

    Args:
        command: Of the run's summary, which names no folders.
        config: Of the run, as composed.
    """
    moved = [(key, str(config[key])) for key, usual in PLACES.items() if str(config[key]) != usual]
    return " ".join([command, *(word_of(key, folder) for key, folder in moved)])


def following(place: str, *, has_thought: bool) -> list[str]:
    """Return the commands that go on from a finished run, three of them.

    Args:
        place: The run's folder, as a command names it.
        has_thought: Whether its policy thinks, so that what a thought is worth can be asked.
    """
    commands = [
        ["python", "-m", "tpo.chat", f"policy={place}"],
        ["python", "-m", "tpo.results", place, "--samples"],
        ["python", "-m", "tpo.evaluate", f"policy={place}", "eval=thought_value"]
        if has_thought
        else ["python", "-m", "tpo.export", f"policy={place}", "out=exports/mine"],
    ]
    return [shlex.join(words) for words in commands]
