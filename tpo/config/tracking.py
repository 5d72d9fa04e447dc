"""Kinds of the conf group `tracking`; `tpo.results.tracking` does it."""

from dataclasses import dataclass

from tpo.config.fields import setting
from tpo.config.groups import TrackingConfig


@dataclass
class NoTracking(TrackingConfig):
    """Nowhere but the run's folder."""

    kind: str = setting("none")


@dataclass
class WandbTracking(TrackingConfig):
    """Weights & Biases."""

    kind: str = setting("wandb", packages={"wandb": "wandb"})
    project: str = setting()
    entity: str | None = setting(None)
    group: str | None = setting(None)
    name: str | None = setting(None)
    tags: list[str] = setting([])
    notes: str | None = setting(None)
    mode: str = setting("auto", choices=("auto", "online", "offline"))
    upload_adapters: bool = setting(True)
    table_rows: int = setting(200)
