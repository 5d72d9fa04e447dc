"""A thought format as one model is asked in it: what the template is given, how the turn starts, how it is split.

A model that thinks by itself does so in any format unless it is switched off, and its template may have opened a
thought already. What stands between its own tags is no part of any response, whatever the format.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from tpo.config.tags import Tags, closing_of, holds_any, name_of, used_tags
from tpo.config.thought import DIRECT, Split, ThoughtFormat, checked_split
from tpo.model.chat import Tokenizer, chat_ids
from tpo.model.control_tokens import break_control_tokens
from tpo.model.conventions import Conventions, Start, shown
from tpo.model.template_probe import A_TAG, read_conventions
from tpo.store.errors import TpoError


class AskError(TpoError):
    """A thought format that a model cannot be asked in; says what to do."""


class _Native(NamedTuple):
    """Where a model's own thought stands in a completion, as character offsets; `span` is None where there is none."""

    span: tuple[int, int] | None
    stop: int  # what follows the closing tag
    is_first: bool  # whether nothing but white space stands before it, or another thought


_NO_THOUGHT = _Native(None, 0, True)


@dataclass(frozen=True)
class Asked:
    """A thought format for a model with these conventions.

    Attributes:
        form: The thought format.
        conventions: Of the model's chat template.
        start: How the template starts the assistant's turn, and what it is given for that.
        prefill: Text that the turn is continued with before anything is sampled; empty for none.
        is_native: Whether the thoughts of the format are the model's own.
    """

    form: ThoughtFormat
    conventions: Conventions
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

    def split_response(self, text: str) -> Split:
        """Return the response of a completion whose thought was given; text that may go on thinking is none."""
        if self.form.holds_delimiter(text):
            return Split(None, None, "repeated_delimiter")
        start = self._after_header(text, 0)
        return self._bare(text, checked_split(text, thought_span=None, response_span=(start, len(text))))

    def split(self, completion: str, *, finish_reason: str) -> Split:
        """Return thought and response of a completion, or the reason why there is no response.

        The model's own thought comes off first; so does one in tags that the model is not known to have, where it
        stands first. Where the format's thoughts are those, or it has none, the rest is the response, and an empty
        thought is one. Else the rest is split by the format, and both thoughts are the thought. What the template
        writes around every answer is no part of a response; one that holds a tag of a thought is none.

        Args:
            completion: Text after the context, without EOS.
            finish_reason: "stop" or "length"; tells a cut thought from a missing delimiter.
        """
        tags = self.conventions.tags
        native: _Native | str = _NO_THOUGHT
        if tags is not None:
            native = _find(completion, tags, is_open=self._is_native_open, finish_reason=finish_reason)
        if isinstance(native, _Native) and native.span is None:
            start = self._after_header(completion, native.stop)
            native = _find_any(completion, start, spared=self._delimiters, finish_reason=finish_reason)
        if isinstance(native, str):
            return Split(None, None, native)
        return self._bare(completion, self._split_after(completion, native, finish_reason))

    def _split_after(self, completion: str, native: _Native, finish_reason: str) -> Split:
        """Return the parts of a completion whose own thought is known."""
        start = self._after_header(completion, native.stop)
        if self.is_native or (self.form.response_delimiter is None and type(self.form) is ThoughtFormat):
            if not native.is_first:
                return Split(None, None, "repeated_delimiter")
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

    def _bare(self, completion: str, parts: Split) -> Split:
        """Return the parts without what the template writes behind an answer; a response with tags is none."""
        if parts.error is not None:
            return parts
        start, stop = parts.response_span
        response = completion[start:stop]
        bare = response.removesuffix(self.conventions.answer_tail).rstrip()
        if not bare:
            return Split(None, None, "empty_response")
        if self._holds_markup(bare):
            return Split(None, None, "repeated_delimiter")
        if bare == response:
            return parts
        return parts._replace(response=bare, response_span=(start, start + len(bare)))

    def _holds_markup(self, text: str) -> bool:
        """Whether a text holds the model's own tags or what its template writes around them, or uses other tags."""
        return holds_any(text, *self._markup) or bool(used_tags(text))

    @cached_property
    def _markup(self) -> tuple[str, ...]:
        """The tags of which the model's thoughts and the frame of its answers are made."""
        known, tags = self.conventions, self.conventions.tags
        own = () if tags is None else (tags.opening, tags.closing, tags.opening_text, tags.switch_text)
        found = [tag for text in (*own, known.answer_header, known.answer_tail) for tag in A_TAG.findall(text)]
        return tuple(dict.fromkeys((*own[:2], *found)))

    @cached_property
    def _delimiters(self) -> frozenset[str]:
        """The format's own delimiters, as tags are named."""
        named = (self.form.thought_delimiter, self.form.response_delimiter)
        return frozenset(name_of(delimiter) for delimiter in named if delimiter is not None)

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
        header = self.conventions.answer_header
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
            arguments=self.start.arguments,
        )

    @property
    def _header(self) -> str:
        return "" if self.is_native or self.form.thinking != "off" else self.start.header

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


def ask(form: ThoughtFormat, conventions: Conventions, tokenizer: Tokenizer | None = None) -> Asked:
    """Return a thought format as a model is asked in it.

    Args:
        form: The thought format. One whose response delimiter is the model's closing tag asks for the model's thoughts.
        conventions: Of the model's chat template.
        tokenizer: The model's, for a format that gives the template arguments: what it does with them is looked at.

    Raises:
        AskError: If the model cannot be asked so: the format wants thoughts and it has none, or none and they cannot be
            switched off, or would put its delimiters into a thought that is open already.
        ChatError: If the template does not know the format's arguments, or fails on them.
    """
    for name, value in form.template_arguments.items():
        if name in conventions.switches and not isinstance(value, str | Mapping):
            raise AskError(
                f"thought.template_arguments.{name}: this switches the model's own thoughts, which thought.thinking "
                "does; take it out"
            )
    if form.template_arguments:
        if tokenizer is None:
            raise ValueError("a format with arguments of the chat template needs the tokenizer")
        conventions = read_conventions(
            tokenizer,
            template_arguments=conventions.arguments,
            date=conventions.date,
            missing_files=conventions.missing_files,
            of_format=form.template_arguments,
        )
    tags = conventions.tags
    if tags is None:
        if form.thinking == "on":
            raise AskError(
                f"thought={form.name} wants the model's own thoughts, but its chat template and its vocabulary know no "
                "tags of thoughts: use thought=generic, which asks for thoughts in words"
            )
        header = conventions.default.header if form.thinking == "off" else ""
        return Asked(form, conventions, conventions.default, header + (form.prefill or ""), False)
    is_native = form.thinking != "off" or _names_tags(form, tags)
    start = _start(form, conventions, tags, is_native=is_native)
    if not is_native:
        prefill = start.header + (form.prefill or "")
    else:
        prefill = "" if form.enforce == "none" or start.state == "open" else tags.opening_text
    return Asked(form, conventions, start, prefill, is_native)


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
            f"({conventions.tags}) and no variable that switches them off: use "
            f"another {what.partition('=')[0]}"
        )
    return ask(DIRECT, conventions)


def _names_tags(form: ThoughtFormat, tags: Tags) -> bool:
    """Return whether a format's delimiters are the model's own tags; one that takes half of them is refused."""
    if form._target_ is not None or form.response_delimiter is None:
        return False
    is_closed = form.response_delimiter == tags.closing
    if (is_closed and form.thought_delimiter not in (None, tags.opening)) or (
        not is_closed and form.thought_delimiter == tags.opening
    ):
        raise AskError(
            f"thought={form.name} has one of the tags of the model's own thoughts ({tags}) beside a delimiter that is "
            f"none (thought.thought_delimiter={form.thought_delimiter}, thought.response_delimiter="
            f"{form.response_delimiter}): take both tags, or neither"
        )
    return is_closed


def _start(form: ThoughtFormat, conventions: Conventions, tags: Tags, *, is_native: bool) -> Start:
    """Return how the assistant's turn starts in a format."""
    default, names = conventions.default, str(tags)
    if form.template_arguments:
        names = f"{names}, with thought.template_arguments {shown(form.template_arguments)}"
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
        return "repeated_delimiter" if holds_any(completion, tags.opening, tags.closing) else _NO_THOUGHT
    start = opening + len(tags.opening) if opening >= 0 else 0
    closing = completion.find(tags.closing, start)
    if closing < 0 and (is_open or first_closing < 0):
        return _unclosed(finish_reason)
    stop = closing + len(tags.closing)
    parts = completion[: max(opening, 0)], completion[start:closing], completion[stop:]
    if closing < 0 or any(holds_any(text, tags.opening, tags.closing) for text in parts):
        return "repeated_delimiter"  # where the response starts would be a guess
    others = used_tags(parts[0])  # another channel may stand before it
    return _Native((start, closing), stop, not parts[0][: others[0].start if others else None].strip())


def _find_any(completion: str, start: int, *, spared: frozenset[str], finish_reason: str) -> _Native | str:
    """Return where a thought stands first, in whichever tags, from `start` on, or why there is no response."""
    found = used_tags(completion[start:], spared=spared)
    closing = closing_of(found[0].name) if found else None
    if closing is None or completion[start : start + found[0].start].strip():
        return _NO_THOUGHT
    end = next((tag for tag in found[1:] if tag.name == closing), None)
    if end is None:
        return _unclosed(finish_reason)
    return _Native((start + found[0].stop, start + end.start), start + end.stop, True)


def _unclosed(finish_reason: str) -> str:
    return "thought_truncated" if finish_reason == "length" else "no_response_delimiter"
