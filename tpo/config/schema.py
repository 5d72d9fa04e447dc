"""What each entry point is configured with, and Hydra's view of it.

Hydra merges the YAML files of conf/ into these dataclasses and those of the groups, so that a wrong type or an unknown
key is refused when the config is composed, before anything heavy is imported. A group that has several kinds may be
filled by any YAML file, also by one that names no schema; `tpo.config.build` then finds the dataclass that it is of.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, ClassVar, TypeVar, get_type_hints

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

from tpo.config.custom import Custom
from tpo.config.fields import Kind, Settings, setting
from tpo.config.groups import (
    AccelerateConfig,
    EngineConfig,
    EvalConfig,
    JudgeConfig,
    ModelConfig,
    PairsConfig,
    PromptsConfig,
    RatingConfig,
    SampleConfig,
    TrackingConfig,
    TrainConfig,
)
from tpo.config.kinds import kinds
from tpo.config.thought import ThoughtFormat


@dataclass
class Entry(Settings):
    """What all entry points have: where things lie, and the seed model.

    Attributes:
        config_name: The YAML file of conf/ that the entry point starts from.
        has_experiments: Whether conf/experiment/ is for it.
    """

    config_name: ClassVar[str]
    has_experiments: ClassVar[bool] = False

    seed: int = setting()
    artifacts_dir: str = setting(how=True)
    runs_dir: str = setting(how=True)
    isolate_stages: bool = setting(how=True)
    model: ModelConfig = setting(ModelConfig)


E = TypeVar("E", bound=Entry)


@dataclass
class JudgingEntry(Entry):
    """What entry points have that judge."""

    judge: JudgeConfig = setting(JudgeConfig)
    rating: RatingConfig = setting(RatingConfig)


@dataclass
class SamplingEntry(JudgingEntry):
    """What entry points have that sample from policies and compare them."""

    prompts: PromptsConfig = setting(PromptsConfig)
    thought: ThoughtFormat = setting(ThoughtFormat)
    sample: SampleConfig = setting(SampleConfig)
    engine: EngineConfig = setting(EngineConfig)
    eval: EvalConfig = setting(EvalConfig)
    tracking: TrackingConfig = setting(TrackingConfig, how=True)


@dataclass
class Config(SamplingEntry):
    """A run of the whole method (`tpo.run`)."""

    config_name: ClassVar[str] = "config"
    has_experiments: ClassVar[bool] = True

    num_iterations: int = setting(minimum=0)
    on_collapse: str = setting(choices=("stop", "continue"))
    pairs: PairsConfig = setting(PairsConfig)
    train: TrainConfig = setting(TrainConfig)
    accelerate: AccelerateConfig = setting(AccelerateConfig)


@dataclass
class EvaluateConfig(SamplingEntry):
    """The evaluation of one policy (`tpo.evaluate`)."""

    config_name: ClassVar[str] = "evaluate"

    policy: str = setting()
    baseline: str | None = setting()


@dataclass
class AgreementConfig(JudgingEntry):
    """A measurement of a judge on labelled preferences (`tpo.evaluate.agreement`)."""

    config_name: ClassVar[str] = "agreement"

    data: str = setting(is_file=True)
    name: str | None = setting()
    confidence: float = setting(minimum=0.5, maximum=0.9999)
    length_tolerance: float = setting(minimum=0, maximum=1)


@dataclass
class UseEntry(Entry):
    """What entry points have that let people ask a policy."""

    thought: ThoughtFormat = setting(ThoughtFormat)
    sample: SampleConfig = setting(SampleConfig)
    engine: EngineConfig = setting(EngineConfig)
    policy: str = setting()


@dataclass
class ChatConfig(UseEntry):
    """A talk with a policy in the terminal (`tpo.chat`)."""

    config_name: ClassVar[str] = "chat"


@dataclass
class ServeConfig(UseEntry):
    """A policy behind an HTTP address (`tpo.serve`)."""

    config_name: ClassVar[str] = "serve"

    name: str | None = setting()
    host: str = setting()
    port: int = setting(minimum=0, maximum=65535)
    api_key_env: str = setting()
    max_waiting: int = setting(minimum=0)
    shutdown_s: int = setting(minimum=0)


@dataclass
class ExportConfig(Entry):
    """The export of one policy (`tpo.export`)."""

    config_name: ClassVar[str] = "export"

    thought: ThoughtFormat = setting(ThoughtFormat)
    sample: SampleConfig = setting(SampleConfig)
    policy: str = setting()
    format: str = setting(choices=("adapter", "merged"))
    out: str = setting()
    push: str | None = setting()
    private: bool = setting()


ENTRIES: tuple[type[Entry], ...] = (Config, EvaluateConfig, AgreementConfig, ChatConfig, ServeConfig, ExportConfig)


@cache
def register() -> None:
    """Put the schemas where the YAML files of conf/ find them: `schema_<entry>` and `<group>/schema/<kind>`.

    Those of a group lie in a group of their own, which a sweep's `<group>=glob(*)` does not find options in.
    """
    store = ConfigStore.instance()
    # Hydra copies its sources for each composition, and with them the store of all schemas, which it only reads.
    vars(store)["__deepcopy__"] = lambda memo: store
    for entry in ENTRIES:
        store.store(name=f"schema_{entry.config_name}", node=_open(entry))
    for base in groups_with_kinds():
        for kind, (schema, *_) in (kinds(base) or {base.group_name: (base,)}).items():
            if not issubclass(schema, Custom):  # whose keys only the user's class knows
                store.store(group=f"{base.group_name}/schema", name=kind, node=schema)


def groups_with_kinds() -> list[type[Kind]]:
    """Return the base classes of the groups that may be filled by one of several dataclasses."""
    hints = [hint for entry in ENTRIES for hint in get_type_hints(entry).values()]
    return list(dict.fromkeys(hint for hint in hints if isinstance(hint, type) and issubclass(hint, Kind)))


def _open(entry: type[Entry]) -> type[Any]:
    """Return an entry's dataclass with groups that have several kinds left open."""
    hints = get_type_hints(entry)
    fields: list[tuple[str, Any, Any]] = []
    for field in dataclasses.fields(entry):
        hint = hints[field.name]
        if isinstance(hint, type) and issubclass(hint, Kind):
            fields.append((field.name, Any, dataclasses.field(default=MISSING)))
        elif isinstance(hint, type) and issubclass(hint, Settings):
            fields.append((field.name, hint, dataclasses.field(default_factory=hint)))
        else:
            fields.append((field.name, hint, dataclasses.field(default=field.default)))
    return dataclasses.make_dataclass(entry.__name__, fields)


def flatten(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return settings by dotted key, those of groups within groups too; an empty group has none."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat
