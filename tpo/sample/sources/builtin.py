"""The package's own instructions."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from tpo.config.fields import setting
from tpo.config.groups import Instructions, PromptsConfig
from tpo.sample.prompts import make_prompt
from tpo.store.records import Prompt


@dataclass
class BuiltinPrompts(PromptsConfig):
    """The package's own instruction set; it has no settings of its own."""

    kind: str = setting("builtin")

    def load(self, candidates: Sequence[Prompt] = ()) -> Instructions:
        """Return all of them."""
        return Instructions(load_builtin())


def load_builtin() -> list[Prompt]:
    """Return the package's own instructions, 20 categories, with their fixed splits."""
    text = resources.files("tpo.sample").joinpath("instructions.jsonl").read_text(encoding="utf-8")
    return [
        make_prompt(
            row["text"], category=row["category"], source="builtin", split=row["split"], where=f"builtin row {number}"
        )
        for number, row in enumerate(map(json.loads, text.splitlines()), start=1)
    ]
