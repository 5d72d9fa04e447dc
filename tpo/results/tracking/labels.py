"""How a job was started, as far as tracking shows it: its tags, and the name that the jobs of a sweep share.

A job sees its own overrides, not the sweep's command line, and may run on another machine than the command; so the
name is made of what all jobs of a sweep have in common: the preset and the keys that were given, never their values.
Jobs that are repeated after a failure, or values that are added later, come into the same group for that reason.
"""

import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from tpo.config.streams import log_path
from tpo.store.files import content_hash
from tpo.store.text import one_line

MAX_TAG = 64  # W&B refuses longer ones
MAX_GROUP = MAX_NAME = 128

# Where things lie and where metrics go: keys that do not make another experiment.
NOT_SHOWN = {"experiment", "artifacts_dir", "runs_dir", "isolate_stages", "tracking"}


@dataclass(frozen=True)
class Launch:
    """What Hydra says of a job; by default one that was started without it.

    Attributes:
        choices: The chosen option of each config group.
        overrides: Of this job alone, without those of Hydra itself.
        is_sweep: Whether it is a job of a sweep.
        sweeper: The option of `hydra/sweeper`.
        preset_keys: What a preset (an experiment, or a search) sweeps.
        log: The file that Hydra logs to; None without Hydra.
        config_dir: The user's own directory of settings; None where there is none.
    """

    choices: Mapping[str, str] = field(default_factory=dict)
    overrides: tuple[str, ...] = ()
    is_sweep: bool = False
    sweeper: str = "basic"
    preset_keys: tuple[str, ...] = ()
    log: str | None = None
    config_dir: str | None = None


class Labels(NamedTuple):
    """What tells a tracked job from others."""

    job_type: str
    group: str | None
    tags: tuple[str, ...]
    name: str


def read_launch(hydra: Any) -> Launch:
    """Return what `HydraConfig.get()` says of the running job."""
    choices = {str(group): str(option) for group, option in hydra.runtime.choices.items() if option is not None}
    own = [source.path for source in hydra.runtime.config_sources if source.provider == "command-line"]
    return Launch(
        choices=choices,
        overrides=tuple(str(override) for override in hydra.overrides.task),
        is_sweep=hydra.mode is not None and hydra.mode.name == "MULTIRUN",
        sweeper=choices.get("hydra/sweeper", "basic"),
        preset_keys=tuple(str(key) for key in hydra.sweeper.get("params") or {}),
        log=str(log_path(hydra)),
        config_dir=os.path.relpath(own[0]) if own else None,
    )


def run_labels(launch: Launch, *, experiment: str) -> Labels:
    """Return the labels of a run of `tpo.run`."""
    chosen = {"experiment": experiment} | _chosen(launch, ("thought", "judge", "model"))
    name = _name(experiment, launch)
    return Labels("run", sweep_name(launch, base=experiment), _tags(chosen, launch.overrides), name)


def command(launch: Launch, *, experiment: str) -> str:
    """Return the command that repeats a run of `tpo.run`, without what does not change it, such as folders.

    Args:
        launch: How it was started. Without Hydra, and so without overrides, the preset alone is named.
        experiment: The preset, "custom" where there was none.
    """
    preset = [] if experiment == "custom" else [f"experiment={experiment}"]
    given = [override for override in launch.overrides if _is_shown(_key(override))]
    own = [] if launch.config_dir is None else ["--config-dir", launch.config_dir]
    return shlex.join(["python", "-m", "tpo.run", *own, *preset, *given])


def evaluation_labels(launch: Launch) -> Labels:
    """Return the labels of an evaluation; the policy, which may bring its own model, is among the overrides."""
    chosen = _chosen(launch, ("eval", "judge"))
    name = _name("evaluate", launch)
    return Labels("evaluate", sweep_name(launch, base="evaluate"), _tags(chosen, launch.overrides), name)


def sweep_name(launch: Launch, *, base: str) -> str | None:
    """Return the name that all jobs of a sweep share, and its repetitions; None for a job of no sweep.

    `<base>` where a preset says all that is swept, `<base>+<key>+<key>` where the command line gives more keys,
    `<base>+<sweeper>` for a search. A sweep over presets themselves has a name for each.

    Args:
        launch: Of any of the jobs.
        base: The preset.
    """
    if not launch.is_sweep:
        return None
    keys = sorted({key for override in launch.overrides if _is_shown(key := _key(override))} - {*launch.preset_keys})
    return _cut("+".join([base, *([] if launch.sweeper == "basic" else [launch.sweeper]), *keys]), MAX_GROUP)


def _name(base: str, launch: Launch) -> str:
    """Return what a run is called: its preset and the settings that differ from it, as on the command line."""
    given = [override.lstrip("+") for override in launch.overrides if _is_shown(_key(override))]
    return _cut(" ".join([base, *given]), MAX_NAME)


def _chosen(launch: Launch, groups: Sequence[str]) -> dict[str, str]:
    return {group: launch.choices[group] for group in groups if group in launch.choices}


def _tags(chosen: Mapping[str, str], overrides: Sequence[str]) -> tuple[str, ...]:
    """Return `key=value` of the options that matter, then of the overrides, each once."""
    named = [f"{group}={option}" for group, option in chosen.items()]
    given = [override.lstrip("+") for override in overrides if _is_shown(_key(override))]
    return tuple(dict.fromkeys(_cut(tag, MAX_TAG) for tag in [*named, *given]))


def _key(override: str) -> str:
    return override.lstrip("+~").partition("=")[0]


def _is_shown(key: str) -> bool:
    return key.partition(".")[0] not in NOT_SHOWN


def _cut(text: str, limit: int) -> str:
    """Return a text in one line and within the limit: a long one ends with a hash of the whole."""
    shown = one_line(text)
    return shown if len(shown) <= limit else f"{shown[: limit - 13]}~{content_hash(shown)}"
