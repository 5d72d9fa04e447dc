"""What an evaluation of a run takes from the run: its own instructions, judge and settings (`tpo.config.under`).

So it measures as the run did, on what the run held out, and finds the run's artifacts. The policy's run counts, or the
baseline's where the policy is none.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tpo.config.compose import compose_config
from tpo.config.schema import EvaluateConfig
from tpo.config.under import Under
from tpo.evaluate.policies import named_run
from tpo.results.read import read_run

#: The groups of a run that an evaluation has too, and single keys; `eval` unless another evaluation is asked for.
TAKEN = ("engine", "eval", "judge", "model", "prompts", "rating", "sample", "seed", "thought")


def settings_of_run(given: Mapping[str, Any]) -> Under | None:
    """Return the settings of the run that `policy` or else `baseline` names, None where neither does.

    Its artifacts are looked for where it left them, if that folder is there.

    Raises:
        ResultError: If the run's files are damaged.
    """
    for key in ("policy", "baseline"):
        run = named_run(given.get(key))
        if run is not None:
            config = read_run(run.path).config
            settings = {name: config[name] for name in TAKEN if name in config}
            if Path(config["artifacts_dir"]).is_dir():
                settings["artifacts_dir"] = config["artifacts_dir"]
            return Under(str(run.path), settings)
    return None


def compose_evaluation(overrides: Sequence[str], *, config_dir: Path | None = None) -> EvaluateConfig:
    """Return what `python -m tpo.evaluate` would be configured with, not checked."""
    return compose_config(EvaluateConfig, overrides, config_dir=config_dir, find_under=settings_of_run)
