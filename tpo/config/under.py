"""Settings that lie under the command line's: groups as an earlier run had them, with what is asked for laid over them.

Hydra composes an entry point's groups from conf/ and the command line. Where what is asked about brings settings of its
own, as a run that is evaluated does, they take the place of those that nobody chose. What is chosen wins: an option of
a group, on the command line or in a preset that it names, takes the whole group, and a single key that key.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from tpo.config.custom import TARGET
from tpo.config.fields import ConfigError, Kind, Settings
from tpo.store.errors import TpoError

log = logging.getLogger(__name__)


class Under(NamedTuple):
    """Settings that lie under the command line's.

    Attributes:
        name: Where they come from.
        settings: Plain values by key of the entry point, those of a group as a dictionary.
    """

    name: str
    settings: Mapping[str, Any]


#: Returns what lies under the command line's settings, if anything does, given values by key of the entry point: those
#: of no group, and `model.name`.
FindUnder = Callable[[Mapping[str, Any]], Under | None]


def loosened(overrides: Sequence[str], find: FindUnder) -> list[str]:
    """Return overrides that compose although a group is of another kind below than in conf/, as for `prompts.path=...`.

    A single key of a group that nobody chose gets Hydra's "++"; a key that the group does not have is refused later.
    """
    under = lies_under(overrides, find)
    if under is None:
        return list(overrides)
    chosen = {text.partition("=")[0].lstrip("+~") for text in overrides}
    loose = {key for key, value in under.settings.items() if isinstance(value, Mapping)} - chosen
    return [f"++{text}" if text.partition("=")[0].partition(".")[0] in loose else text for text in overrides]


def lies_under(overrides: Sequence[str], find: FindUnder) -> Under | None:
    """Return what lies under the command line's settings; of a sweep, under those of the first job that has any."""
    for text in overrides:
        key, _, values = text.partition("=")
        for value in values.split(","):
            try:
                under = find({key: value.strip("'\"")})
            except TpoError:  # is said where the config is completed
                continue
            if under is not None:
                return under
    return None


def lay_over(
    composed: DictConfig, under: Under, *, entry: type[Settings], overrides: Sequence[str], chosen: Mapping[str, str]
) -> None:
    """Put other settings in the place of those that nobody chose, and log in one line what came from where.

    Args:
        composed: By Hydra; changed in place.
        under: The other settings.
        entry: The dataclass of the entry point.
        overrides: The command line's.
        chosen: Group to its option, for groups with another one than conf/ starts from.

    Raises:
        ConfigError: If a single key has a value of a wrong type for its group.
    """
    hints = get_type_hints(entry)
    places, whole = [], dict(chosen)
    for override in OverridesParser.create().parse_overrides(list(overrides)):
        # `+judge@eval.judge=length` and `eval/judge=length` are put at `eval.judge`.
        place = str(override.package or override.key_or_group).replace("/", ".")
        places.append(place)
        if override.is_delete() or "." not in place:
            whole[place.partition(".")[0]] = str(override.input_line).partition("=")[2]
    taken, laid = [], []
    with open_dict(composed):
        for key in sorted(under.settings.keys() - whole.keys()):
            taken.append(key)
            value, hint = under.settings[key], hints[key]
            if not isinstance(value, Mapping):
                composed[key] = value
                continue
            node = OmegaConf.create(_as_written(value))
            try:
                for place in dict.fromkeys(place for place in places if place.startswith(f"{key}.")):
                    given = OmegaConf.select(composed, place)
                    OmegaConf.update(node, place.removeprefix(f"{key}."), given, merge=False, force_add=True)
                    laid.append(f"{place}={given}")
                if isinstance(hint, type) and not issubclass(hint, Kind):
                    node = OmegaConf.merge(OmegaConf.structured(hint), node)
                composed[key] = node
            except OmegaConfBaseException as error:
                raise ConfigError(f"{key}, laid over {under.name}: {str(error).splitlines()[0]}") from error
    kept = [f"{key}={whole[key]}" for key in sorted(whole.keys() & under.settings.keys())]
    log.info(
        "%s as in %s%s%s",
        ", ".join(taken) or "nothing",
        under.name,
        f", but {', '.join(laid)}" if laid else "",
        f"; chosen here: {', '.join(kept)}" if kept else "",
    )


def _as_written(value: Any) -> Any:
    """Return a group's settings as a YAML file has them: arguments of a class of one's own are keys among others."""
    if not isinstance(value, Mapping):
        return value
    plain = {str(key): _as_written(item) for key, item in value.items()}
    if plain.get(TARGET) is None or "arguments" not in plain:
        return plain
    return {key: item for key, item in plain.items() if key not in {"arguments", "source_sha256"}} | plain["arguments"]
