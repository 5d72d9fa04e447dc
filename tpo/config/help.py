"""What the commands say of themselves: `--help`, the experiments that there are, and the key that a wrong one may mean.

Hydra's own help copies everything it has loaded once for each group, which takes two seconds, and lists the schemas.
"""

import dataclasses
import importlib.util
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, get_type_hints

from hydra import compose
from omegaconf import OmegaConf

from tpo.config.check import check_composed, check_secrets
from tpo.config.compose import CONF, compose_config, composing
from tpo.config.explained import explained, word_of
from tpo.config.fields import Kind, Settings, near
from tpo.config.hardware import resolve_hardware
from tpo.config.kinds import kinds
from tpo.config.schema import Entry, flatten
from tpo.config.under import FindUnder

OPTIONS = """\
--config-dir DIR   YAML files of your own, in folders named as the groups are: DIR/judge/mine.yaml is judge=mine
-m                 sweep: key=a,b runs each
"""
CFG_OPTION = "--cfg job          show the composed config and do nothing\n"


def help_text(
    entry: type[Entry],
    about: str,
    overrides: Sequence[str],
    *,
    config_dir: Path | None = None,
    options: str = OPTIONS + CFG_OPTION,
) -> str:
    """Return what `--help` shows: what the command is for, its options, the groups, and the config as composed.

    Args:
        entry: What the command is configured with.
        about: What it does, with examples.
        overrides: As on the command line.
        config_dir: A directory with YAML files of the user's own.
        options: Of the command line, a line each.

    Raises:
        HydraException: If the overrides do not compose.
        ConfigError: If there is no such directory, or the config holds a secret.
    """
    with composing(config_dir):
        config = compose(entry.config_name, resolve_hardware(overrides))
    check_composed(config)
    groups = _groups([CONF] if config_dir is None else [CONF, config_dir])
    names = {"hydra", *(field.name for field in dataclasses.fields(entry))}
    names |= {"experiment", "hardware"} if entry.has_experiments else set()
    shown = [f"{group}: {', '.join(groups[group])}" for group in groups if group.split("/")[0] in names]
    parts = [about, "== Options ==", options, "== Groups (choose with group=option) ==", *shown, ""]
    return "\n".join([*parts, "== Config ==", OmegaConf.to_yaml(config)])


def config_text(entry: type[Entry], overrides: Sequence[str], *, config_dir: Path | None, find_under: FindUnder) -> str:
    """Return the config that would run where other settings lie under the command line's, which Hydra knows nothing of.

    Raises:
        HydraException: If the overrides do not compose.
        ConfigError: If they are none of the entry point's, or hold a secret.
    """
    config = compose_config(entry, overrides, config_dir=config_dir, find_under=find_under)
    settings = dataclasses.asdict(config)
    check_secrets(flatten(settings))
    return OmegaConf.to_yaml(OmegaConf.create(settings))


def check_shown(entry: type[Entry], overrides: Sequence[str], *, config_dir: Path | None) -> None:
    """Check what Hydra is about to print (`--cfg`, `--info`) for secrets.

    Raises:
        HydraException: If the overrides do not compose.
        ConfigError: If it holds one.
    """
    with composing(config_dir):
        check_composed(compose(entry.config_name, list(overrides), return_hydra_config=True))


def _groups(places: Sequence[Path]) -> dict[str, list[str]]:
    """Return the options of every group in directories of YAML files."""
    groups: dict[str, set[str]] = {}
    for place in places:
        for path in place.rglob("*/*.yaml"):
            groups.setdefault(path.parent.relative_to(place).as_posix(), set()).add(path.stem)
    return {group: sorted(groups[group]) for group in sorted(groups)}


def experiments_text(*, config_dir: Path | None = None) -> str:
    """Return the experiments that there are, each with the first sentence of its own comment, and what to type."""
    places = [CONF] if config_dir is None else [CONF, config_dir]
    found = {path.stem: _first_sentence(path) for place in places for path in (place / "experiment").glob("*.yaml")}
    width = max(map(len, found))
    return "\n".join(
        [
            "Which experiment? Start with",
            "  python -m tpo.run experiment=quickstart",
            "",
            *(f"  {name:<{width}}  {found[name]}".rstrip() for name in sorted(found)),
            "",
            "python -m tpo.plan experiment=<name>   what it would compute and cost (-m where it is a sweep)",
            "python -m tpo.run --help               every group, and the config that overrides compose",
        ]
    )


def _first_sentence(path: Path) -> str:
    """Return the first sentence of a file's comment, without the package directive of Hydra."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("#") and "@package" not in line]
    text = " ".join(line.removeprefix("#").strip() for line in lines)
    found = re.match(r".*?[.?](?=\s|$)", text)
    return text if found is None else found.group()


#: Which package of `hydra_plugins` an option of conf/hydra/ needs.
PLUGINS = {
    "hydra/launcher=processes": "hydra_joblib_launcher",
    "hydra/launcher=gpus": "hydra_joblib_launcher",
    "hydra/launcher=slurm": "hydra_submitit_launcher",
    "hydra/launcher=local_array": "hydra_submitit_launcher",
    "hydra/launcher=ray_local": "hydra_ray_launcher",
    "hydra/sweeper=tpe": "hydra_optuna_sweeper",
}


def meant(entry: type[Entry], overrides: Iterable[str]) -> list[str]:
    """Return, for each override of a key that no config has, what may be meant, as a sentence.

    Hydra itself refuses these and names no other key; one with a plus is refused by `tpo.config.build`, which does.
    """
    known = sorted({*_keys(entry), *_groups([CONF])})
    found = []
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if (plugin := PLUGINS.get(f"{key}={value}")) and not _is_importable(f"hydra_plugins.{plugin}"):
            found.append(
                f"{key}={value} needs {plugin.replace('_', '-')}, which is not installed: `make setup-launchers`"
            )
        key = override.lstrip("~").partition("=")[0].partition("@")[0]
        if key in known or key.startswith(("hydra", "+")):
            continue
        group, dot, last = key.rpartition(".")
        siblings = {name.removeprefix(group + dot) for name in known if name.startswith(group + dot)}
        guess = near(last, siblings, prefix=group + dot) if siblings else near(key, known)
        found += [f"{key}: there is no such key{guess}"] if guess else []
    return found


def refusal(error: Exception, entry: type[Entry], overrides: Iterable[str]) -> str:
    """Return what a command ends with whose config does not compose: why, and what may be meant, each in a sentence."""
    said, meant_ = explained(error), meant(entry, overrides)
    said += _instead(said, entry, overrides)
    return "error: " + "\n".join([*([] if any(hint.startswith(said) for hint in meant_) else [said]), *meant_])


def _instead(said: str, entry: type[Entry], overrides: Iterable[str]) -> str:
    """Return what may be typed in place of what was refused, as the end of the sentence; empty where nothing is known.

    Args:
        said: Why it was refused.
        entry: What the command is configured with.
        overrides: As on the command line.
    """
    if found := re.fullmatch(r"(\w+\.[\w.]+): there is no such key", said):
        typed = [word.lstrip("+").partition("=")[0] for word in overrides]
        # Of `judge.server.base_url` OmegaConf names the first part that is not there.
        longest = next((key for key in typed if f"{key}.".startswith(f"{found[1]}.")), found[1])
        group, _, key = longest.partition(".")
        options = _options_with(group, key)
        return f"; {group}={' or '.join(options)} has it" if options else ""
    has_policy = any(field.name == "policy" for field in dataclasses.fields(entry))
    for word in overrides:
        group, is_setting, value = word.partition("=")
        if not is_setting:
            is_named = has_policy and said.startswith(f"{word}: expected") and Path(word.partition("@")[0]).is_dir()
            if is_named:
                return f"; a policy is given as {word_of('policy', word)}"
        elif said.startswith(f"{word}: expected one of") and Path(value).is_file():
            options = _options_with(group, "path")
            if len(options) == 1:
                return f"; a file of your own is given as {group}={options[0]} {word_of(f'{group}.path', value)}"
    return ""


def _options_with(group: str, key: str) -> list[str]:
    """Return the options of a group whose file in conf/ has a key."""
    found = []
    for path in sorted((CONF / group).glob("*.yaml")):
        settings = OmegaConf.to_container(OmegaConf.load(path))
        assert isinstance(settings, dict)
        keys = flatten({str(name): value for name, value in settings.items()})
        if any(f"{each}.".startswith(f"{key}.") for each in keys):
            found.append(path.stem)
    return found


def _is_importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # of the package that holds it
        return False


def _keys(kind: type[Any], prefix: str = "") -> set[str]:
    """Return the dotted keys of settings, those of all kinds of a group."""
    keys: set[str] = set()
    for field in dataclasses.fields(kind):
        hint, key = get_type_hints(kind)[field.name], f"{prefix}{field.name}"
        keys.add(key)
        if isinstance(hint, type) and issubclass(hint, Kind):
            classes = [each for found in kinds(hint).values() for each in found] or [hint]
            keys |= {name for each in classes for name in _keys(each, f"{key}.")}
        elif isinstance(hint, type) and issubclass(hint, Settings):
            keys |= _keys(hint, f"{key}.")
    return keys
