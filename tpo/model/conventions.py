"""What a model's chat template was found to do: its thoughts, its switch, what ends a turn, whether it reads a clock.

`tpo.model.template_probe` finds it out by rendering, once per model; it lies in the metrics of the model's artifact.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import msgspec

from tpo.config.groups import TEMPLATE_DATE
from tpo.config.tags import Tags

#: How an assistant's turn starts: no tag, a thought that is open, or an empty thought that is closed.
State = Literal["untagged", "open", "empty"]


@dataclass(frozen=True)
class Start:
    """How the assistant's turn starts when the template is given some arguments.

    Attributes:
        arguments: Of the template, beside those of `Conventions`.
        state: What the template itself has written of a thought.
        header: What it writes between the start of the turn and an answer, if that is no thought's tag: a channel.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    state: State = "untagged"
    header: str = ""


@dataclass(frozen=True)
class Conventions:
    """What a chat template does; the values by default are those of a template without thoughts or clock.

    Attributes:
        arguments: What the template is always given (`model.template_arguments`).
        date: What its clock shows (`model.template_date`), as YYYY-MM-DD.
        takes_parts: Whether a turn's content has to be a list of parts, since text is dropped.
        takes_system: Whether it renders a system turn.
        tags: Of the model's own thoughts; None where it has none.
        is_tagged_by_template: Whether the template itself knows the tags; else only the vocabulary does.
        answer_header: What the template writes before every answer, also behind a thought, such as `<answer>`.
        answer_tail: What it writes behind every answer, before what ends the turn, such as `</answer>`.
        default: How a turn starts with no argument for thoughts.
        on: How it starts with thinking on; None where it cannot be switched on.
        off: How it starts with thinking off; None where it cannot be switched off.
        switches: The template's variables that switch thinking; thought formats set them.
        end_of_turn_id: The token after an assistant's text; None where the template writes none.
        keeps_text: Whether an assistant's text comes out whole, also where it holds one of the tags.
        has_clock: Whether the template shows the date.
        missing_files: Optional files that the model comes without.
    """

    arguments: dict[str, Any] = field(default_factory=dict)
    date: str = TEMPLATE_DATE
    takes_parts: bool = False
    takes_system: bool = True
    tags: Tags | None = None
    is_tagged_by_template: bool = False
    answer_header: str = ""
    answer_tail: str = ""
    default: Start = Start()
    on: Start | None = None
    off: Start | None = Start()
    switches: tuple[str, ...] = ()
    end_of_turn_id: int | None = None
    keeps_text: bool = True
    has_clock: bool = False
    missing_files: tuple[str, ...] = ()

    @classmethod
    def from_metrics(cls, metrics: Mapping[str, Any]) -> "Conventions":
        """Return what the artifact of a model holds."""
        return msgspec.convert(metrics["conventions"], cls)

    def to_metrics(self) -> dict[str, Any]:
        """Return them in plain JSON types."""
        return {"conventions": msgspec.to_builtins(self)}

    def describe(self) -> str:
        """Return what a reader of a run's log has to know, in one line."""
        found = [f"thoughts: {self._thoughts()}; direct answers: {self._direct_answers()}"]
        if self.has_clock:
            found.append(f"the template shows the date {self.date}")
        if not self.takes_system:
            found.append("the template renders no system turn")
        if not self.keeps_text:
            found.append("the template rewrites an assistant's text that holds a tag")
        found += [f"there is no {name}" for name in self.missing_files]
        return "; ".join(found)

    def _thoughts(self) -> str:
        if self.tags is None:
            return "none of its own"
        by = "never opened, as the template closes them at once"
        if self.on is not None:
            opener = "template" if self.on.state == "open" else "model"
            by = f"opened by the {opener}{_given(self.on.arguments)}"
        known = "" if self.is_tagged_by_template else " (known to the vocabulary, not to the template)"
        return f"{self.tags}{known}, {by}"

    def _direct_answers(self) -> str:
        if self.off is None:
            return "thinking cannot be switched off"
        prefilled = f"{self.off.header!r} prefilled" if self.off.header else ""
        return " and ".join(filter(None, (shown(self.off.arguments), prefilled))) or "as they are"


def _given(arguments: Mapping[str, Any]) -> str:
    return f" with {shown(arguments)}" if arguments else ""


def shown(arguments: Mapping[str, Any]) -> str:
    """Return template arguments as a user writes them: `enable_thinking=false`."""
    return ", ".join(f"{name}={msgspec.json.encode(value).decode()}" for name, value in arguments.items())
