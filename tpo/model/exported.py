"""What `python -m tpo.export` writes beside the weights, so that an export can be named where a model or a policy can.

The tokenizer of an export has a chat template that carries the thought prompt, for users who know nothing of thought
formats. Here a format asks by itself, so the template that the policy's was made from lies beside it and is used.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo.config.groups import ModelConfig, SampleConfig
from tpo.config.kinds import load_settings
from tpo.config.thought import ThoughtFormat
from tpo.store.errors import TpoError

RECORD = "tpo_export.json"
BASE_TEMPLATE = "base_chat_template.jinja"


@dataclass(frozen=True)
class Export:
    """An exported policy.

    Attributes:
        path: Its directory.
        kind: "adapter" or "merged".
        model: The group `model` with which its weights are loaded and asked, as the record has it.
        thought: The group `thought` that it was trained with.
        sample: The group `sample`.
        training: Artifact of the training that left its weights; of the adapter's copy where that is not known; None
            where it is untrained.
    """

    path: Path
    kind: str
    model: dict[str, Any]
    thought: dict[str, Any]
    sample: dict[str, Any]
    training: str | None

    @property
    def settings(self) -> dict[str, Any]:
        """The group `model` that stands for the export here, whose files are in its directory."""
        found = dict(self.model)
        if self.is_merged:
            found |= {"source": "pretrained", "name": str(self.path), "revision": None}
        if self.is_merged or found["chat_template"] is not None:
            found["chat_template"] = str(self.path / BASE_TEMPLATE)
        return found

    @property
    def is_merged(self) -> bool:
        """Whether it is a model of its own, and not an adapter."""
        return self.kind == "merged"

    @property
    def model_config(self) -> ModelConfig:
        """The same as the group's dataclass."""
        return ModelConfig(**self.settings)

    @property
    def form(self) -> ThoughtFormat:
        """Its thought format."""
        return load_settings(ThoughtFormat, self.thought)

    @property
    def sampling(self) -> SampleConfig:
        """Its token budgets."""
        return SampleConfig(**self.sample)


def read_export(path: str | Path) -> Export | None:
    """Return the export in a directory; None where it holds none, or there is no name.

    Raises:
        TpoError: If its record is damaged.
    """
    record = Path(path) / RECORD
    if path == "" or not record.is_file():
        return None
    try:
        found = json.loads(record.read_text(encoding="utf-8"))
        parts = {name: found[name] for name in ("kind", "model", "thought", "sample", "training")}
    except (ValueError, KeyError, TypeError) as error:
        raise TpoError(f"{record} is damaged ({error!r}): export the policy again") from error
    return Export(Path(path), **parts)
