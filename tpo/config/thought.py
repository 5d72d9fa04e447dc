"""A thought format: what asks for a thought, and the delimiters by which a completion is split again.

The group `thought` describes one; `tpo.sample.thought` renders prompts and splits completions with it.
"""

from dataclasses import dataclass
from typing import Literal

Enforce = Literal["none", "prefill", "switch"]


@dataclass(frozen=True)
class ThoughtFormat:
    """A thought prompt and its delimiters.

    Attributes:
        prompt: The user turn, with `{instruction}` where the instruction goes.
        thought_delimiter: Text before the thought; None where the completion starts with the thought.
        response_delimiter: Text between thought and response; None for direct answers.
        enforce: "none" samples as is; "prefill" starts the assistant's turn with the thought delimiter; "switch" also
            appends the response delimiter where the model did not write it.
    """

    prompt: str
    thought_delimiter: str | None
    response_delimiter: str | None
    enforce: Enforce

    @property
    def has_thought(self) -> bool:
        """Whether completions hold a thought; False is the paper's direct baseline."""
        return self.response_delimiter is not None

    @property
    def prefill(self) -> str | None:
        """Text that the assistant's turn starts with, or None."""
        return None if self.enforce == "none" else self.thought_delimiter

    @property
    def switch(self) -> str | None:
        """Text appended to a thought that lacks the response delimiter, or None.

        On a line of its own: right after the delimiter, a small model often ends its turn (experiments/LOG.md).
        """
        if self.enforce != "switch" or self.response_delimiter is None:
            return None
        return f"\n\n{self.response_delimiter}\n"

    def user_turn(self, instruction: str) -> str:
        """Return what the user says. `str.format` is avoided: instructions may hold braces."""
        return self.prompt.replace("{instruction}", instruction)


DIRECT = ThoughtFormat(prompt="{instruction}", thought_delimiter=None, response_delimiter=None, enforce="none")
