"""From a composed config to the dataclasses: every key known, every value there, every group of a kind that exists.

Hydra refuses an unknown key unless it comes with a plus (`+sample.num_sample=8`), and lets a key be taken out
(`~seed`); and a YAML file that names no schema may hold anything. What it lets through is refused here.
"""

import dataclasses
import difflib
from collections.abc import Iterable
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tpo.config.fields import ConfigError, Kind, Settings
from tpo.config.kinds import kinds
from tpo.config.schema import Entry

E = TypeVar("E", bound=Entry)


def to_config(entry: type[E], composed: DictConfig) -> E:
    """Return a composed config as the dataclass of its entry point; Hydra's own node may be in it.

    Raises:
        ConfigError: If a key is unknown, was taken out, or has no value or one of a wrong type.
    """
    missing: list[str] = []
    config: E = _build(entry, composed, "", missing)
    if missing:
        raise ConfigError(f"{', '.join(missing)}: no value; give {missing[0]}=... on the command line")
    return config


def near(name: str, names: Iterable[str], *, prefix: str = "") -> str:
    """Return which of `names` may be meant by a wrong one, as the end of a sentence; empty where none is near.

    Args:
        name: The wrong one.
        names: Those that there are.
        prefix: What stands before each of them where it is named.
    """
    found = difflib.get_close_matches(name, list(names), n=1)
    return f"; did you mean {prefix}{found[0]}?" if found else ""


def _build(kind: type[Any], node: DictConfig, at: str, missing: list[str]) -> Any:
    """Return the settings of a group, which stands at the key `at`; keys without a value are added to `missing`."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    prefix, present = f"{at}." if at else "", set(map(str, node))
    for key in sorted(present - fields.keys() - ({"hydra"} if not at else set())):
        raise ConfigError(f"{prefix}{key}: there is no such key{near(key, fields, prefix=prefix)}")
    for name in (name for name in fields if name not in present):
        raise ConfigError(f"{prefix}{name} was taken out of the config, and nothing runs without it")
    values: dict[str, Any] = {}
    for name, hint in get_type_hints(kind).items():
        if name not in fields:
            continue
        key, base = f"{prefix}{name}", fields[name].metadata.get("of")
        if OmegaConf.is_missing(node, name):
            missing.append(key)
        elif isinstance(hint, type) and issubclass(hint, Kind):
            values[name] = _build_kind(hint, node[name], key, missing)
        elif isinstance(hint, type) and issubclass(hint, Settings):
            values[name] = _build(hint, node[name], key, missing)
        elif base is not None:
            values[name] = {str(of): _build_kind(base, node[name][of], f"{key}.{of}", missing) for of in node[name]}
        else:
            value = node[name]
            values[name] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return kind(**values)


def _build_kind(base: type[Kind], node: Any, at: str, missing: list[str]) -> Any:
    """Return the settings of a group that has several kinds.

    Args:
        base: The group's base class.
        node: What was composed: of the dataclass that the YAML file names as its schema, or without one.
        at: The key at which the group stands.
        missing: Where keys without a value are added.

    Raises:
        ConfigError: If there is no such kind, or it has other keys.
    """
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{at}={node}: expected the settings of a group; {at}=<option> chooses one")
    schema = OmegaConf.get_type(node)
    if isinstance(schema, type) and issubclass(schema, base):
        return _build(schema, node, at, missing)
    name, found = node.get(base.named_by), kinds(base)
    if name is None:
        raise ConfigError(f"{at}.{base.named_by}: no value; it says which kind of {at} this is: {', '.join(found)}")
    if name not in found:
        raise ConfigError(f"{at}.{base.named_by}={name}: there is no such kind{near(str(name), found)}")
    schema = found[name][0]
    names = [field.name for field in dataclasses.fields(schema)]
    for key in sorted(set(map(str, node)) - set(names)):
        raise ConfigError(f"{at}.{key}: there is no such key{near(key, names, prefix=f'{at}.')}")
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), node)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{at}{'.' + error.full_key if error.full_key else ''}: {reason}") from error
    assert isinstance(typed, DictConfig)
    return _build(schema, typed, at, missing)
