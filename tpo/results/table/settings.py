"""The settings in which runs differ, and what runs are called by them."""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from tpo.config.schema import flatten
from tpo.results.folder import NOT_IDENTITY
from tpo.results.table.find import Run

LONGEST_LABEL = 56  # characters


def label_runs(runs: Sequence[Run]) -> dict[str, Run]:
    """Return runs by the shortest name that tells them apart.

    That is the experiment's name, unless all runs share it, and the settings in which runs of an experiment differ;
    where there are none, or for any of these runs more than fit into a figure, the folder's name.
    """
    names = [run.summary["experiment"] for run in runs]
    is_shared = len(set(names)) == 1
    for name in [name for name, count in Counter(names).items() if count > 1]:
        same = [index for index, run in enumerate(runs) if run.summary["experiment"] == name]
        swept = swept_settings([runs[index].config for index in same])
        told = [[f"{key.split('.')[-1]}={value}" for key, value in settings.items()] for settings in swept]
        labels = [" ".join(parts if parts and is_shared else [name, *parts]) for parts in told]
        do_fit = all(len(label) <= LONGEST_LABEL for label in labels)
        for index, label in zip(same, labels, strict=True):
            names[index] = label if do_fit else runs[index].path.name
    counts = Counter(names)
    return {run.path.name if counts[name] > 1 else name: run for name, run in zip(names, runs, strict=True)}


def swept_settings(configs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return, for each config, the settings in which not all are equal, by dotted key, None where a config lacks one.

    An empty config stands for one that is not known: it makes no difference, and has None everywhere.

    A group whose `name` or `kind` differs is called by it alone (`thought`: "generic"), without the settings that
    it determines, such as the text of the thought prompt.
    """
    flat = [flat_settings(config) for config in configs]
    keys = list(dict.fromkeys(key for config in flat for key in config))
    columns = {key: [config.get(key) for config in flat] for key in keys}
    known = [row for row, config in enumerate(flat) if config]
    swept = {key: values for key, values in columns.items() if any(values[row] != values[known[0]] for row in known)}
    titles = {key: key for key in swept}
    for group in {key.split(".")[0] for key in swept}:
        namer = next((f"{group}.{key}" for key in ("name", "kind") if f"{group}.{key}" in swept), None)
        if namer is None:
            continue
        titles[namer] = group
        for key in [key for key in titles if key.startswith(f"{group}.") and key != namer]:
            if _determines(swept[namer], swept[key]):
                del titles[key]
    return [{title: swept[key][row] for key, title in titles.items()} for row in range(len(configs))]


def _determines(names: Sequence[Any], values: Sequence[Any]) -> bool:
    by_name: dict[str, Any] = {}
    return all(by_name.setdefault(str(name), value) == value for name, value in zip(names, values, strict=True))


def flat_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config's settings by dotted key, without those that say nothing about the result, such as folders."""
    return flatten({key: value for key, value in config.items() if key not in NOT_IDENTITY})
