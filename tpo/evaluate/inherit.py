"""What is taken from the run or export that a command line names (`tpo.config.under`).

An evaluation takes the run's own instructions, judge and settings. So it measures as the run did, on what the run held
out, and finds the run's artifacts. The policy's run counts, or the baseline's where the policy is none. An export knows
its model, thought format and budgets. A run that goes on from another or an export takes the group `model`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tpo.config.compose import compose_config
from tpo.config.schema import EvaluateConfig
from tpo.config.under import Under
from tpo.evaluate.trained import named_run
from tpo.model.exported import Export, read_export
from tpo.results.read import read_run

#: The groups of a run that an evaluation has too, and single keys; `eval` unless another evaluation is asked for.
TAKEN = ("engine", "eval", "judge", "model", "prompts", "rating", "sample", "seed", "thought")


def settings_of_run(given: Mapping[str, Any], *, taken: Sequence[str] = TAKEN) -> Under | None:
    """Return the settings of the run or export that `policy` or else `baseline` names, None where neither does.

    A run's artifacts are looked for where it left them, if that folder is there.

    Args:
        given: Values by key of the entry point.
        taken: Keys that the entry point has, of those that a run has.

    Raises:
        ResultError: If the run's files are damaged.
    """
    for key in ("policy", "baseline"):
        run, export = named_run(given.get(key)), read_export(given.get(key) or "")
        if run is not None:
            config = read_run(run.path).config
            settings = {name: config[name] for name in taken if name in config}
            if Path(config["artifacts_dir"]).is_dir():
                settings["artifacts_dir"] = config["artifacts_dir"]
            return Under(str(run.path), settings)
        if export is not None:
            return Under(str(export.path), _asked_as(export))
    return None


def settings_of_seed(given: Mapping[str, Any]) -> Under | None:
    """Return the group `model` of the run or export that `model.name` names, None where it names a model.

    Raises:
        ResultError: If the run's files are damaged.
    """
    name = given.get("model.name") or ""
    run, export = named_run(name), read_export(name)
    if run is not None:
        return Under(name, {"model": read_run(run.path).config["model"]})
    return None if export is None else Under(name, {"model": export.settings})


def _asked_as(export: Export) -> dict[str, Any]:
    return {"model": export.settings, "thought": export.thought, "sample": export.sample}


def compose_evaluation(overrides: Sequence[str], *, config_dir: Path | None = None) -> EvaluateConfig:
    """Return what `python -m tpo.evaluate` would be configured with, not checked."""
    return compose_config(EvaluateConfig, overrides, config_dir=config_dir, find_under=settings_of_run)
