"""A source of instructions of the user's own: a class whose `load` returns `Prompt` rows."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from tpo.config.custom import Custom, load_class
from tpo.config.fields import setting
from tpo.config.groups import Instructions, PromptsConfig
from tpo.sample.prompts import PromptError
from tpo.store.records import Prompt


@dataclass
class CustomPrompts(Custom, PromptsConfig):
    """A class that reads instructions from anywhere; `tpo.sample.prompts.make_prompt` makes a row of one."""

    needs: ClassVar[tuple[str, ...]] = ("load",)

    kind: str = setting("custom")

    @property
    def has_checks(self) -> bool:
        """Whether the class says so, by an attribute of this name."""
        return bool(getattr(load_class(self._target_), "has_checks", False))

    def load(self, candidates: Sequence[Prompt] = ()) -> Instructions:
        """Return what the class loads.

        Raises:
            PromptError: If that is anything but rows of instructions.
        """
        rows = list(self.create().load())
        for row in rows:
            if not isinstance(row, Prompt) or row.split not in ("", "train", "validation", "test"):
                raise PromptError(
                    f"prompts._target_={self._target_}: load() returned {row!r:.200}; expected rows of "
                    'tpo.store.records.Prompt whose split is "train", "validation", "test" or, for any, empty'
                )
        return Instructions(rows)
