"""Which run is which: the runs with thoughts, those with one setting changed, and reruns that differ in rounding."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from tpo.results.headline import CHECKED
from tpo.results.read import FinishedRun, ResultError
from tpo.results.table.rows import flat_settings

Arm = Mapping[int, FinishedRun]  # runs by seed

#: Settings that change how sums are rounded and nothing else.
ROUNDING = ("engine.", "train.micro_batch_size")


class Arms(NamedTuple):
    """Runs by seed that differ in the seed alone, and how the others differ from `thoughts`."""

    thoughts: Arm
    direct: Arm  # thought=none
    length_control: Arm  # pairs.length_penalty above 0
    other_likelihood: Arm  # another train.nll_weight
    reruns: Sequence[FinishedRun] = ()  # of one seed of `thoughts`, with other rounding

    @property
    def example(self) -> FinishedRun:
        """Any run of `thoughts`, whose settings they share."""
        return next(iter(self.thoughts.values()))

    @property
    def confidence(self) -> float:
        """Of all intervals, as of the runs' own."""
        confidence: float = self.example.summary["confidence"]
        return confidence


#: What a reader calls the arms.
NAMES = {
    "thoughts": "thoughts",
    "direct": "direct baseline",
    "length_control": "length control",
    "other_likelihood": "other likelihood weight",
}


def read_arms(runs: Sequence[FinishedRun], reruns: Sequence[FinishedRun] = ()) -> Arms:
    """Return the arms of runs.

    `thoughts` are the most runs that share all settings but the seed, think, and have no length control; of as many,
    those with the larger weight of the likelihood.

    Raises:
        ResultError: If there are none, a run is of no arm, two of an arm share a seed, two arms differ from `thoughts`
            in one way, a run has no checked instructions, or reruns are of no seed or of several.
    """
    groups: dict[str, dict[int, FinishedRun]] = {}
    for run in runs:
        _require_checks(run)
        seed, settings = _settings(run)
        arm = groups.setdefault(json.dumps(settings, sort_keys=True), {})
        if seed in arm:
            raise ResultError(
                f"{run.path} and {arm[seed].path} are two runs of seed {seed} with the same settings: keep one, and "
                "reruns that differ in rounding alone in a folder of their own"
            )
        arm[seed] = run
    main = _main(list(groups.values()))
    found: dict[str, Arm] = {"thoughts": main}
    for arm in groups.values():
        if arm is main:
            continue
        name, run = _name(arm, main), next(iter(arm.values()))
        if name in found:
            other = next(iter(found[name].values()))
            raise ResultError(f"{run.path} and {other.path} are both {NAMES[name]}, with different settings: keep one")
        found[name] = arm
    _require_same_seed(reruns, main)
    return Arms(**{name: found.get(name, {}) for name in NAMES}, reruns=tuple(reruns))


def _settings(run: FinishedRun) -> tuple[int, dict[str, Any]]:
    settings = flat_settings(run.config)
    return settings.pop("seed"), settings


def _require_checks(run: FinishedRun) -> None:
    if CHECKED.of(run.summary["iterations"][0]) is None or run.summary["baseline_checked"] is None:
        raise ResultError(f"{run.path} has no instructions that a program checks: give runs with prompts=checked")
    if len(run.summary["iterations"]) < 2:
        raise ResultError(f"{run.path} trained no iteration: give runs with num_iterations of 1 or more")


def _thinks(run: FinishedRun) -> bool:
    return bool(run.config["thought"]["name"] != "none")


def _main(groups: Sequence[Arm]) -> Arm:
    def first(arm: Arm) -> FinishedRun:
        return next(iter(arm.values()))

    candidates = [arm for arm in groups if _thinks(first(arm)) and not first(arm).config["pairs"]["length_penalty"]]
    if not candidates:
        raise ResultError(
            "there is no run with thoughts and without length control: make some, such as python -m tpo.run "
            "-m experiment=quickstart seed=0,1,2,3,4, and keep them with python -m tpo.results --keep"
        )
    return max(candidates, key=lambda arm: (len(arm), first(arm).config["train"]["nll_weight"]))


def _name(arm: Arm, main: Arm) -> str:
    """Return the arm's field in `Arms`."""
    run, other = next(iter(arm.values())), next(iter(main.values()))
    keys = different(run, other)
    if keys and all(key.startswith("thought.") for key in keys) and not _thinks(run):
        return "direct"
    if keys == ["pairs.length_penalty"]:
        return "length_control"
    if keys == ["train.nll_weight"]:
        return "other_likelihood"
    raise ResultError(
        f"{run.path} is none of the runs of this record: it differs from {other.path} in {', '.join(keys)}, and not in "
        "one of thought=none, pairs.length_penalty and train.nll_weight"
    )


def different(run: FinishedRun, other: FinishedRun) -> list[str]:
    """Return the settings in which two runs differ, by dotted key, but for the seed."""
    ours, theirs = (_settings(one)[1] for one in (run, other))
    return [key for key in sorted({*ours, *theirs}) if ours.get(key) != theirs.get(key)]


def _require_same_seed(reruns: Sequence[FinishedRun], main: Arm) -> None:
    for run in reruns:
        _require_checks(run)
        seed, _ = _settings(run)
        if seed not in main:
            raise ResultError(f"{run.path}: there is no run with thoughts of seed {seed} that it could be a rerun of")
        keys = [key for key in different(run, main[seed]) if not key.startswith(ROUNDING)]
        if keys:
            raise ResultError(
                f"{run.path} differs from {main[seed].path} in {', '.join(keys)}, which is more than rounding"
            )
    seeds = sorted({_settings(run)[0] for run in reruns})
    if len(seeds) > 1:
        raise ResultError(f"the reruns are of seeds {', '.join(map(str, seeds))}: give those of one seed")
