"""A thought format as one model is asked in it: what the template is given, how the turn starts, how it is split.

A model that thinks by itself does so in any format unless it is switched off, and its template may have opened a
thought already. What stands between its own tags is no part of any response, whatever the format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tpo.config.tags import Tags
from tpo.config.thought import DIRECT, Split, ThoughtFormat, checked_split
from tpo.model.chat import Tokenizer, chat_ids
from tpo.model.control_tokens import break_control_tokens
from tpo.model.conventions import Conventions, Start
from tpo.store.errors import TpoError


class AskError(TpoError):
    """A thought format that a model cannot be asked in; says what to do."""


class _Native(NamedTuple):
    """Where a model's own thought stands in a completion, as character offsets; `span` is None where there is none."""

    span: tuple[int, int] | None
    stop: int  # what follows the closing tag
    is_first: bool  # whether nothing but white space stands before it


@dataclass(frozen=True)
class Asked:
    """A thought format for a model with these conventions.

    Attributes:
        form: The thought format.
        conventions: Of the model's chat template.
        arguments: What the template is given for this format.
        start: How the template starts the assistant's turn then.
        prefill: Text that the turn is continued with before anything is sampled; empty for none.
        is_native: Whether the thoughts of the format are the model's own.
    """

    form: ThoughtFormat
    conventions: Conventions
    arguments: Mapping[str, Any]
    start: Start
    prefill: str
    is_native: bool

    @property
    def is_open(self) -> bool:
        """Whether the context ends within a thought."""
        return self._is_native_open or self._is_prefilled

    @property
    def switch(self) -> str | None:
        """Text appended to a thought that does not end by itself, or None."""
        if self.is_native and self.form.forces_switch:
            return self._tags.switch_text
        return self.form.switch

    @property
    def response_delimiter(self) -> str | None:
        """Text that ends a thought; None where completions have none."""
        return self._tags.closing if self.is_native else self.form.response_delimiter

    def context(
        self, tokenizer: Tokenizer, instruction: str, *, assistant: str = "", before: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        """Return the ids from which a completion to `instruction` is sampled.

        Args:
            tokenizer: The model's.
            instruction: What the user asks; control tokens in it are broken up.
            assistant: What the answer starts with besides.
            before: Role and text of earlier turns, as they were said: the format asks the last user turn for a thought,
                and answers are told without theirs. Control tokens in them are broken up.
        """
        return self._ids(tokenizer, instruction, self.prefill + assistant, before)

    def context_after(self, tokenizer: Tokenizer, instruction: str, thought: str) -> list[int]:
        """Return the ids from which the response after a given thought is sampled."""
        return self._ids(tokenizer, instruction, self.opening(thought))

    def opening(self, thought: str) -> str:
        """Return how the assistant's turn goes on: the thought between its delimiters, each on a line of its own."""
        if self.is_native:
            head = "" if self.start.state == "open" else self._tags.opening_text
            return f"{head}{thought.strip()}{self._tags.switch_text}"
        head = "" if self.form.thought_delimiter is None else f"{self.form.thought_delimiter}\n"
        return f"{self._header}{head}{thought.strip()}\n\n{self.form.response_delimiter}\n"

    def holds_delimiter(self, text: str) -> bool:
        """Whether a text holds a delimiter of the format, what resembles it, or one of the model's own tags."""
        tags = self.conventions.tags
        return self.form.holds_delimiter(text) or (tags is not None and _holds_tag(text, tags))

    def split(self, completion: str, *, finish_reason: str) -> Split:
        """Return thought and response of a completion, or the reason why there is no response.

        The model's own thought comes off first. Where the format's thoughts are those, or it has none, the rest is the
        response, and an empty thought is one. Else the rest is split by the format, and both thoughts are the thought.

        Args:
            completion: Text after the context, without EOS.
            finish_reason: "stop" or "length"; tells a cut thought from a missing delimiter.
        """
        tags = self.conventions.tags
        native = _Native(None, 0, True)
        if tags is not None:
            found = _find(completion, tags, is_open=self._is_native_open, finish_reason=finish_reason)
            if isinstance(found, str):
                return Split(None, None, found)
            native = found
        start = self._after_header(completion, native.stop)
        if self.is_native or (self.form.response_delimiter is None and type(self.form) is ThoughtFormat):
            span = native.span if native.span is not None or not self.is_native else (0, 0)
            return checked_split(
                completion, thought_span=span, response_span=(start, len(completion)), may_be_empty=True
            )
        if native.span is not None and not native.is_first:  # within the format's own thought
            parts = self._by_form(completion, 0, finish_reason)
            is_outside = parts.error is not None or parts.response_span[0] >= native.stop
            return parts if is_outside else Split(None, None, "repeated_delimiter")
        parts = self._by_form(completion, start, finish_reason)
        if parts.error is not None or native.span is None:
            return parts
        return checked_split(
            completion,
            thought_span=(native.span[0], native.span[1] if parts.thought is None else parts.thought_span[1]),
            response_span=parts.response_span,
            may_be_empty=True,
        )

    def _by_form(self, completion: str, start: int, finish_reason: str) -> Split:
        """Return what the format itself makes of a completion from `start` on."""
        parts = self.form.split(completion[start:], is_prefilled=self._is_prefilled, finish_reason=finish_reason)
        if parts.error is not None:
            return parts
        spans = ((span[0] + start, span[1] + start) for span in (parts.thought_span, parts.response_span))
        thought_span, response_span = spans
        return parts._replace(thought_span=thought_span, response_span=response_span)

    def _after_header(self, completion: str, start: int) -> int:
        """Return where the response starts after what the template writes before every answer."""
        header = self.conventions.default.header.strip()
        rest = completion[start:]
        blank = len(rest) - len(rest.lstrip())
        return start + blank + len(header) if header and rest[blank:].startswith(header) else start

    def _ids(
        self, tokenizer: Tokenizer, instruction: str, assistant: str, before: Sequence[tuple[str, str]] = ()
    ) -> list[int]:
        return chat_ids(
            tokenizer,
            # The instruction alone: a thought prompt may name the tags that it asks for.
            self.form.user_turn(break_control_tokens(instruction, tokenizer)),
            before=[(role, break_control_tokens(text, tokenizer)) for role, text in before],
            assistant=assistant,
            conventions=self.conventions,
            arguments=self.arguments,
        )

    @property
    def _header(self) -> str:
        return self.start.header if self.conventions.tags is not None and not self.is_native else ""

    @property
    def _is_native_open(self) -> bool:
        return self.start.state == "open" or (self.is_native and self.prefill != "")

    @property
    def _is_prefilled(self) -> bool:
        return not self.is_native and self.form.prefill is not None

    @property
    def _tags(self) -> Tags:
        assert self.conventions.tags is not None  # checked by `ask`
        return self.conventions.tags


def ask(form: ThoughtFormat, conventions: Conventions) -> Asked:
    """Return a thought format as a model is asked in it.

    Args:
        form: The thought format. One whose response delimiter is the model's closing tag asks for the model's thoughts.
        conventions: Of the model's chat template.

    Raises:
        AskError: If the model cannot be asked so: the format wants thoughts and it has none, or none and they cannot be
            switched off, or would put its delimiters into a thought that is open already.
    """
    tags = conventions.tags
    for name in form.template_arguments:
        if name in conventions.switches:
            raise AskError(
                f"thought.template_arguments.{name}: this switches the model's own thoughts, which thought.thinking "
                "does; take it out"
            )
    if tags is None:
        if form.thinking == "on":
            raise AskError(
                f"thought={form.name} wants the model's own thoughts, but its chat template and its vocabulary know no "
                "tags of thoughts: use thought=generic, which asks for thoughts in words"
            )
        return Asked(form, conventions, form.template_arguments, conventions.default, form.prefill or "", False)
    is_native = form.thinking != "off" or (form.response_delimiter == tags.closing and form._target_ is None)
    start = _start(form, conventions, tags, is_native=is_native)
    arguments = start.arguments | form.template_arguments
    if not is_native:
        prefill = start.header + (form.prefill or "")
    else:
        prefill = "" if form.enforce == "none" or start.state == "open" else tags.opening_text
    return Asked(form, conventions, arguments, start, prefill, is_native)


def ask_directly(conventions: Conventions, *, what: str) -> Asked:
    """Return how a model is asked for an answer whose very first tokens count, so that no thought may stand there.

    Args:
        conventions: Of the model's chat template.
        what: What asks, as the user has set it, such as "judge=self_rating".

    Raises:
        AskError: If the model's thoughts cannot be switched off.
    """
    if conventions.off is None:
        assert conventions.tags is not None
        raise AskError(
            f"{what} reads or writes the first words of an answer, but the model's chat template knows thoughts "
            f"({conventions.tags.opening} ... {conventions.tags.closing}) and no variable that switches them off: use "
            f"another {what.partition('=')[0]}"
        )
    return ask(DIRECT, conventions)


def _start(form: ThoughtFormat, conventions: Conventions, tags: Tags, *, is_native: bool) -> Start:
    """Return how the assistant's turn starts in a format."""
    default, names = conventions.default, f"{tags.opening} ... {tags.closing}"
    if form.thinking == "default":
        return default
    if is_native:
        if conventions.on is None:
            raise AskError(
                f"thought={form.name} wants the model's own thoughts ({names}), but its chat template closes them at "
                "once and has no variable that lets it think: use thought=none, or another model.chat_template"
            )
        return conventions.on
    if conventions.off is not None:
        return conventions.off
    if form.response_delimiter is None and form._target_ is None:
        raise AskError(
            f"thought={form.name} asks for answers without a thought, but the model's chat template knows thoughts "
            f"({names}) and no variable that switches them off: for answers whose thought is taken off set "
            "model.direct_answers=stripped, and thought=stripped where the policy itself is to answer so"
        )
    if default.state == "open" and form.enforce != "none":
        raise AskError(
            f"thought={form.name} puts its delimiters into the answer (thought.enforce={form.enforce}), but the "
            f"model's chat template has opened a thought of its own ({tags.opening}) there, which cannot be "
            "switched off: use thought=think, or thought.enforce=none"
        )
    return default


def _find(completion: str, tags: Tags, *, is_open: bool, finish_reason: str) -> _Native | str:
    """Return where the model's own thought stands, or why there is no response.

    A closing tag without an opening one ends a thought that started with the completion.
    """
    opening = -1 if is_open else completion.find(tags.opening)
    first_closing = completion.find(tags.closing)
    if not is_open and opening < 0 and first_closing < 0:
        return "repeated_delimiter" if _holds_tag(completion, tags) else _Native(None, 0, True)
    start = opening + len(tags.opening) if opening >= 0 else 0
    closing = completion.find(tags.closing, start)
    if closing < 0 and (is_open or first_closing < 0):
        return "thought_truncated" if finish_reason == "length" else "no_response_delimiter"
    stop = closing + len(tags.closing)
    head = completion[: max(opening, 0)]
    if closing < 0 or any(_holds_tag(text, tags) for text in (head, completion[start:closing], completion[stop:])):
        return "repeated_delimiter"  # where the response starts would be a guess
    return _Native((start, closing), stop, not head.strip())


def _holds_tag(text: str, tags: Tags) -> bool:
    """Whether a text holds one of the tags, in upper or lower case."""
    folded = text.casefold()
    return any(tag.casefold() in folded for tag in (tags.opening, tags.closing))
