"""A thought format: what asks for a thought, and the delimiters by which a completion is split again.

The formats are the paper's (section 2, figures 2 and 3 of arXiv 2410.10630): a prompt that asks for a thought first,
and a delimiter after which the response starts. A completion that cannot be split has no response, and a reason; in
particular a thought that the token limit cut off is never mistaken for a response.

Models that think by themselves have delimiters of their own, which their chat template tells (`tpo.model.asked`).
"""

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

from tpo.config import delimiter
from tpo.config.fields import ConfigError, Kind, setting
from tpo.config.template_arguments import check_template_arguments


class Split(NamedTuple):
    """A completion taken apart; either `error` or `response` is None.

    `thought_span` and `response_span` are character offsets into the completion.
    """

    thought: str | None
    response: str | None
    error: str | None
    thought_span: tuple[int, int] = (0, 0)
    response_span: tuple[int, int] = (0, 0)


@dataclass
class ThoughtFormat(Kind):
    """How thoughts are asked for and marked; a class of one's own is derived from this one.

    Attributes:
        prompt: The user turn, with `{instruction}` where the instruction goes.
        thought_delimiter: Text before the thought; None where the completion starts with the thought.
        response_delimiter: Text between thought and response; None for direct answers.
        enforce: "none" samples as is; "prefill" puts the thought delimiter in the assistant's mouth;
            "switch" does that and appends the response delimiter where the model did not write it.
        thinking: Whether the model thinks in its own way: "off" where it can be switched off, "on" where its thoughts
            are the format's, "default" as its chat template has it. Its thoughts are taken off its responses anyway.
        template_arguments: What the chat template is given beside `model.template_arguments`.
        name: For people.
        _target_: The class of one's own, as "module.Name", and the digest of its file; None for this one.
    """

    group_name: ClassVar[str] = "thought"
    found_in: ClassVar[str] = "tpo.config.thought"

    prompt: str = setting()
    thought_delimiter: str | None = setting(None)
    response_delimiter: str | None = setting(None)
    enforce: str = setting("none", choices=("none", "prefill", "switch"))
    thinking: str = setting("off", choices=("off", "on", "default"))
    template_arguments: dict[str, Any] = setting({})
    name: str = setting("unnamed", how=True, is_compared=False)
    _target_: str | None = setting(None)
    source_sha256: str | None = setting(None)

    def identity(self) -> dict[str, Any]:
        """Return what completions depend on."""
        return {
            key: value
            for key, value in super().identity().items()
            if self._target_ is not None or key not in {"_target_", "source_sha256"}
        }

    def check(self, at: str) -> None:
        """Check that the instruction is asked for, and that delimiters and `enforce` go together."""
        if "{instruction}" not in self.prompt:
            raise ConfigError(f"{at}.prompt has no {{instruction}}: every prompt would be the same")
        check_template_arguments(f"{at}.template_arguments", self.template_arguments)
        if self.thinking != "off":
            if self.thought_delimiter is not None or self.response_delimiter is not None:
                raise ConfigError(
                    f"{at}.thinking={self.thinking} takes the delimiters from the model's chat template, so "
                    f"{at}.thought_delimiter and {at}.response_delimiter must be null"
                )
            if self.thinking == "default" and self.enforce != "none":
                raise ConfigError(f"{at}.thinking=default leaves the model as it is, so {at}.enforce must be none")
            return
        if self.response_delimiter is None and (self.enforce != "none" or self.thought_delimiter is not None):
            raise ConfigError(
                f"{at}.response_delimiter is null (direct answers), so {at}.thought_delimiter must be null and "
                f"{at}.enforce none"
            )
        if self.enforce == "prefill" and self.thought_delimiter is None:
            raise ConfigError(
                f"{at}.enforce=prefill, but thought={self.name} has no thought delimiter to prefill: use "
                f"{at}.enforce=switch or none"
            )

    @property
    def has_thought(self) -> bool:
        """Whether completions hold a thought; False is the paper's direct baseline."""
        return self.response_delimiter is not None or self.thinking != "off"

    @property
    def forces_switch(self) -> bool:
        """Whether a thought has a token budget of its own, after which the response is forced to start."""
        return self.enforce == "switch"

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

    def split(self, completion: str, *, is_prefilled: bool, finish_reason: str) -> Split:
        """Return thought and response of a completion, or the reason why there is no response.

        Args:
            completion: Text after the context, without EOS.
            is_prefilled: Whether the context ended with the thought delimiter.
            finish_reason: "stop" or "length"; tells a cut thought from a missing delimiter.

        Returns:
            A `Split`; `error` is one of "no_thought_delimiter", "no_response_delimiter", "thought_truncated",
            "repeated_delimiter" (where the response starts would be a guess, and a wrong one would show the judge part
            of the thought), "empty_thought", "empty_response". Only the exact delimiter separates, since it is what a
            policy is served with; text that resembles one counts as a repetition.
        """
        if self.response_delimiter is None:
            return checked_split(completion, thought_span=None, response_span=(0, len(completion)))
        head, start = "", 0
        if self.thought_delimiter is not None and not is_prefilled:
            opening = delimiter.find(self.thought_delimiter, completion)
            if opening is None:
                return Split(None, None, "no_thought_delimiter")
            head, start = completion[: opening.start], opening.stop
        switch = delimiter.find(self.response_delimiter, completion, start)
        if switch is None:
            return Split(None, None, "thought_truncated" if finish_reason == "length" else "no_response_delimiter")
        if any(map(self.holds_delimiter, (head, completion[start : switch.start], completion[switch.stop :]))):
            return Split(None, None, "repeated_delimiter")
        stop = switch.stop + delimiter.closed_at(self.response_delimiter, completion[switch.stop :])
        return checked_split(completion, thought_span=(start, switch.start), response_span=(switch.stop, stop))

    def holds_delimiter(self, text: str) -> bool:
        """Whether a text holds one of the delimiters, or what resembles it."""
        return any(delimiter.holds(name, text) for name in (self.thought_delimiter, self.response_delimiter) if name)


DIRECT = ThoughtFormat(prompt="{instruction}", name="none")
TAKEN_OFF = "its own thoughts taken off"  # what tables say of direct answers of a model that thinks
STRIPPED = ThoughtFormat(prompt="{instruction}", thinking="default", name="stripped")


def checked_split(
    completion: str,
    *,
    thought_span: tuple[int, int] | None,
    response_span: tuple[int, int],
    may_be_empty: bool = False,
) -> Split:
    """Return the parts without the white space at their ends, or which of them is empty.

    Args:
        completion: What they are parts of.
        thought_span: Of the thought, as character offsets; None where the format has none.
        response_span: Of the response.
        may_be_empty: Whether the thought may be.
    """
    start, stop = _stripped(completion, response_span)
    if start == stop:
        return Split(None, None, "empty_response")
    if thought_span is None:
        return Split(None, completion[start:stop], None, (0, 0), (start, stop))
    thought_start, thought_stop = _stripped(completion, thought_span)
    if thought_start == thought_stop and not may_be_empty:
        return Split(None, None, "empty_thought")
    thought = completion[thought_start:thought_stop]
    return Split(thought, completion[start:stop], None, (thought_start, thought_stop), (start, stop))


def _stripped(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Return the span without the white space at its ends."""
    part = text[slice(*span)]
    start = span[0] + len(part) - len(part.lstrip())
    return start, max(start, span[0] + len(part.rstrip()))
