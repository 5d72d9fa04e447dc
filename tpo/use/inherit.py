"""What chat and serve take from the run whose policy they ask: its model, thought format, budgets and engine."""

from collections.abc import Mapping
from typing import Any

from tpo.config.under import Under
from tpo.evaluate.inherit import settings_of_run

#: The groups of a run that count, and where its artifacts are.
TAKEN = ("artifacts_dir", "engine", "model", "sample", "thought")
LIVE = ("torch", "vllm")  # engines that answer people who wait


def settings_for_use(given: Mapping[str, Any]) -> Under | None:
    """Return the settings of the run that `policy` names, None where it names none.

    Raises:
        ResultError: If the run's files are damaged.
    """
    under = settings_of_run({"policy": given.get("policy")})
    if under is None:
        return None
    taken = {name: under.settings[name] for name in TAKEN if name in under.settings}
    if taken.get("engine", {}).get("kind") not in LIVE:
        taken.pop("engine", None)
    return Under(under.name, taken)
