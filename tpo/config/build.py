"""From a composed config to the dataclasses: every key known, every value there, every group of a kind that exists.

Hydra refuses an unknown key unless it comes with a plus (`+sample.num_sample=8`), and lets a key be taken out
(`~seed`); and a YAML file that names no schema may hold anything. What it lets through is refused here.
"""

import dataclasses
from typing import Any, TypeVar, get_origin, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from tpo.config.custom import TARGET, Custom, lacking, load_class, source_digest
from tpo.config.fields import ConfigError, Kind, Settings, near
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
        elif base is not None and node[name] is None:  # a group that may be left out
            values[name] = None
        elif base is not None and get_origin(hint) is not dict:
            values[name] = _build_kind(base, node[name], key, missing)
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
    option = at if at == base.group_name else f"{base.group_name}@{at}"
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{at}={node}: expected the settings of a group; {option}=<option> chooses one")
    target = None if OmegaConf.is_missing(node, TARGET) else node.get(TARGET)
    if target is not None:
        return _build_custom(base, load_class(str(target), at), node, at, missing)
    schema = OmegaConf.get_type(node)
    if isinstance(schema, type) and issubclass(schema, base):
        name = {field.name: field.default for field in dataclasses.fields(schema)}.get(base.named_by, MISSING)
        given = node.get(base.named_by)
        if name != MISSING and given != name:
            raise ConfigError(
                f"{at}.{base.named_by}={given}: the settings are those of {name}; {option}=<option> chooses"
            )
        return _build(schema, node, at, missing)
    return _build(schema := _kind_of(base, node, at), _typed(schema, node, at), at, missing)


def _kind_of(base: type[Kind], node: DictConfig, at: str) -> type[Kind]:
    """Return the dataclass of a node that came without one; a base class of no kinds is the only one."""
    if OmegaConf.is_missing(node, TARGET):
        raise ConfigError(f"{at}.{TARGET}: no value; it names a class of your own, such as my_module.MyClass")
    found = kinds(base)
    if not found:
        return base
    name = node.get(base.named_by)
    if name is None:
        raise ConfigError(f"{at}.{base.named_by}: no value; it says which kind of {at} this is: {', '.join(found)}")
    if name not in found:
        raise ConfigError(f"{at}.{base.named_by}={name}: there is no such kind{near(str(name), found)}")
    return found[name][0]


def _typed(schema: type[Any], node: DictConfig, at: str) -> DictConfig:
    """Return a node that came without its dataclass with the types and defaults of this one."""
    names = [field.name for field in dataclasses.fields(schema)]
    for key in sorted(set(map(str, node)) - set(names)):
        raise ConfigError(f"{at}.{key}: there is no such key{near(key, names, prefix=at + '.')}")
    try:
        typed = OmegaConf.merge(OmegaConf.structured(schema), node)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"{at}{'.' + error.full_key if error.full_key else ''}: {reason}") from error
    assert isinstance(typed, DictConfig)
    return typed


def _build_custom(base: type[Kind], target: type[Any], node: DictConfig, at: str, missing: list[str]) -> Any:
    """Return the settings of a class of the user's own; keys that the group does not have are its arguments.

    Raises:
        ConfigError: If the class is not what the group needs.
    """
    what, candidates = f"{at}.{TARGET}={node[TARGET]}", kinds(base).get("custom", ())
    own: dict[str, Any] = {"source_sha256": source_digest(target)}
    if not candidates:  # a class that is derived from the only one that there is
        if not issubclass(target, base):
            raise ConfigError(f"{what}: expected a class derived from {base.__module__}.{base.__name__}")
        schema: type[Any] = target
    else:
        fitting = [kind for kind in candidates if issubclass(kind, Custom) and not lacking(target, kind.needs)]
        if not fitting:
            wanted = [" and ".join(kind.needs) for kind in candidates if issubclass(kind, Custom)]
            raise ConfigError(f"{what}: {target.__name__} has not all that a {at} needs: {', or '.join(wanted)}")
        schema = fitting[0]
        names = {field.name for field in dataclasses.fields(schema)} - {"arguments"}
        given = {str(key): node[key] for key in node if str(key) not in names}
        own["arguments"] = OmegaConf.to_container(OmegaConf.create(given), resolve=True)
        node = OmegaConf.create({key: node[key] for key in node if key not in given})
    plain = OmegaConf.create(OmegaConf.to_container(node, resolve=True) | own)  # type: ignore[operator]
    return _build(schema, _typed(schema, plain, at), at, missing)
