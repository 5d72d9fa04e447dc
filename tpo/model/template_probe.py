"""The conventions of a chat template, found by rendering: once per model, before anything is sampled.

A user turn, the opening of the assistant's turn, and an answer with and without a thought are rendered with every
value of every variable that could switch thinking. What stands between them tells the tags, who opens them, the switch,
and the token that ends a turn. Templates that drop or cut thoughts do not show their tags; those have to be
in the table of `tpo.config.tags`.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from difflib import SequenceMatcher
from functools import partial
from typing import Any

from tpo.config.fields import near
from tpo.config.tags import ANSWER_TAGS, THOUGHT_TAGS, Tags
from tpo.model.chat import ChatError, Tokenizer, render_chat
from tpo.model.conventions import Conventions, Start, State, shown
from tpo.model.template_source import TemplateSource, read_source

USER, ANSWER, THOUGHT, SYSTEM, NEXT = "Uvqx one.", "Avqx two.", "Tvqx three.", "Svqx four.", "Nvqx five."
DATES = ("1999-12-31", "2030-07-04")  # no part of one is a part of the other, in any way of writing a date
ABOUT_THINKING = re.compile(r"think|thought|reason|cot(?:_|\Z)", re.IGNORECASE)
IS_SWITCH = re.compile(r"(?:(?:enable|use|with|do|is)_)?(?:think|thinking|reason|reasoning)(?:_(?:mode|enabled|on))?")
IS_OPPOSITE = re.compile(r"(?:disable|no|skip|without|suppress)_?(?:think|thinking|reason|reasoning|thoughts?)")
OFF_WORDS = frozenset({"off", "none", "no", "disabled", "disable", "false", "no_think", "nothink", "never"})
A_TAG = re.compile(r"<[^<>\s]+>|\[/?[A-Z_]+\]")  # no Markdown
_A_ROLE = re.compile(r"assistant|model|bot|gpt|\bai\b", re.IGNORECASE)
_PIECE = re.compile(rf"{A_TAG.pattern}|.", re.DOTALL)

Given = Mapping[str, Any] | None  # arguments of a template


class _Template:
    """A tokenizer's chat template, rendered with what it is always given."""

    def __init__(self, tokenizer: Tokenizer, known: Conventions, source: TemplateSource) -> None:
        self.tokenizer, self.known, self.source = tokenizer, known, source

    def render(self, *turns: tuple[str, str], given: Given = None, thought: str | None = None) -> str:
        """Return a chat; one that ends with a user turn opens the assistant's. What fails is empty."""
        fields = {} if thought is None else dict.fromkeys(self.source.fields, thought)
        is_asking = turns[-1][0] == "user"
        try:
            return render_chat(
                self.tokenizer, turns, conventions=self.known, arguments=given, fields=fields, is_asking=is_asking
            )
        except Exception:  # a template may raise anything on what it does not know, such as a system turn
            return ""

    def asked(self, given: Given = None) -> str:
        """Return a user turn and the opening of the assistant's."""
        return self.render(("user", USER), given=given)

    def answered(self, given: Given = None, *, answer: str = ANSWER, thought: str | None = None) -> str:
        """Return a user turn and its answer."""
        return self.render(("user", USER), ("assistant", answer), given=given, thought=thought)

    def choices(self) -> dict[str, tuple[Any, ...]]:
        """Return the variables that may switch thinking, the likeliest first, and the words of each."""
        found = {name: words for name, words in self.source.choices.items() if words or ABOUT_THINKING.search(name)}
        return dict(sorted(found.items(), key=lambda item: (not IS_SWITCH.fullmatch(item[0]), item[0])))

    def is_given(self, name: str) -> bool:
        """Whether the user gives a variable one of its words, and so says how it stands."""
        return bool(self.source.choices[name]) and isinstance(self.known.arguments.get(name), str | Mapping)


def read_conventions(
    tokenizer: Tokenizer,
    *,
    template_arguments: Mapping[str, Any],
    date: str,
    missing_files: Sequence[str] = (),
    of_format: Mapping[str, Any] | None = None,
) -> Conventions:
    """Return what a tokenizer's chat template does.

    Args:
        tokenizer: With a chat template.
        template_arguments: What the template is always given.
        date: What its clock shows, as YYYY-MM-DD.
        missing_files: Optional files that the model comes without.
        of_format: What a thought format gives the template besides; it takes precedence.

    Raises:
        ChatError: If the template fails, drops the user's text, does not know one of the arguments, or opens something
            that stands before no answer and is no known tag.
    """
    at, checked = ("model", template_arguments) if of_format is None else ("thought", of_format)
    at = f"{at}.template_arguments"
    source = check_arguments(tokenizer, checked, at=at)
    known = Conventions(
        arguments={**template_arguments, **(of_format or {})}, date=date, missing_files=tuple(missing_files)
    )
    known = replace(known, takes_parts=_takes_parts(tokenizer, known, checked, at=at))
    template = _Template(tokenizer, known, source)
    tags, is_tagged_by_template, header = _find_tags(template)
    end_of_turn_id, answer_tail = _end_of_turn(template, tags)
    template.known = known = replace(
        known,
        takes_system=SYSTEM in template.render(("system", SYSTEM), ("user", USER)),
        end_of_turn_id=end_of_turn_id,
        answer_tail=answer_tail,
        has_clock=len({_Template(tokenizer, replace(known, date=day), source).asked() for day in DATES}) > 1,
        tags=tags,
        is_tagged_by_template=is_tagged_by_template,
    )
    default = _start(template, tags, header, {})
    frame = next((pair for pair in ANSWER_TAGS if all(tag in source.text for tag in pair)), ("", ""))
    known = replace(
        known,
        default=default,
        off=default,
        answer_header=header.strip() or default.header.strip() or frame[0],
        answer_tail=answer_tail or frame[1],
        keeps_text=_keeps_text(template, "</think>" if tags is None else tags.closing),
    )
    if tags is None:
        _require_known_opening(template)
        return known
    found = _switches(template, tags, header)
    for name in checked:
        if name in found["switches"]:
            raise ChatError(
                f"{at}.{name}: whether the model thinks is its thought format's: take it out, and use thought=think, "
                "or thought=none for direct answers"
            )
    return replace(known, **found)


def read_rendering(tokenizer: Tokenizer, arguments: Mapping[str, Any], *, at: str) -> Conventions:
    """Return what the chats that a model judge reads are rendered with; its own thoughts are the judge's affair.

    Args:
        tokenizer: With a chat template.
        arguments: What the template is given.
        at: Key of the settings at which they stand.

    Raises:
        ChatError: If the template fails, drops the user's text, or does not know one of the arguments.
    """
    check_arguments(tokenizer, arguments, at=at)
    known = Conventions(arguments=dict(arguments))
    return replace(known, takes_parts=_takes_parts(tokenizer, known, arguments, at=at))


def check_arguments(tokenizer: Tokenizer, arguments: Mapping[str, Any], *, at: str) -> TemplateSource:
    """Return what a chat template's text tells.

    Args:
        tokenizer: With the template.
        arguments: What the template is to be given.
        at: Key of the settings at which they stand.

    Raises:
        ChatError: If the template has no variable of the name of one of them.
    """
    source = read_source(_source(tokenizer))
    for name in arguments:
        if name not in source.choices:
            hint = near(name, list(source.choices))
            raise ChatError(f"{at}.{name}: the model's chat template has no such variable{hint}")
    return source


def _source(tokenizer: Tokenizer) -> str:
    """Return the text of the template that is used; a tokenizer may have several by name."""
    try:
        return str(tokenizer.get_chat_template())
    except (ValueError, NotImplementedError, AttributeError) as error:  # a tokenizer without Jinja templates
        raise ChatError(f"the tokenizer's chat template cannot be used: {error}") from error


def _takes_parts(tokenizer: Tokenizer, known: Conventions, arguments: Mapping[str, Any], *, at: str) -> bool:
    """Return whether a turn's text is dropped unless it is given as a list of parts, as templates with images do it.

    Args:
        tokenizer: With the template.
        known: What it is always given.
        arguments: Those of them that stand at `at`; one of them may be what it fails on.
        at: Key of the settings.
    """
    found = _renders_text(tokenizer, known)
    if isinstance(found, bool):
        return found
    for name, value in arguments.items():
        others = {key: other for key, other in known.arguments.items() if key != name}
        if isinstance(_renders_text(tokenizer, replace(known, arguments=others)), bool):
            raise ChatError(f"{at}.{shown({name: value})}: with this value the model's chat template {found}")
    raise ChatError(f"the model's chat template {found}; set model.chat_template to a file with another one")


def _renders_text(tokenizer: Tokenizer, known: Conventions) -> bool | str:
    """Return whether the text of a turn has to be a part, or what becomes of it where neither way renders it."""
    reason: Exception | None = None
    for takes_parts in (False, True):
        try:
            text = render_chat(
                tokenizer, [("user", USER)], conventions=replace(known, takes_parts=takes_parts), is_asking=True
            )
        except Exception as error:  # whatever a template raises
            reason = error
            continue
        if USER in text:
            return takes_parts
    return "drops the user's text" if reason is None else f"fails on a user turn: {' '.join(str(reason).split())}"


def _find_tags(template: _Template) -> tuple[Tags | None, bool, str]:
    """Return the tags around a thought, whether the template knows them, and what it writes behind the closing one."""
    values = {name: (True, False, *words) for name, words in template.choices().items()}
    every = [{}, *({name: value} for name, choices in values.items() for value in choices)]
    for given in every:
        full = template.answered(given, thought=THOUGHT)
        if THOUGHT in full and ANSWER in full.partition(THOUGHT)[2]:
            before, _, after = full.partition(THOUGHT)
            switch_text = after.partition(ANSWER)[0]
            if switch_text.strip():
                return _tags(template.asked(given), before, switch_text)
    markup = [tags for tags in THOUGHT_TAGS if not tags.opening[0].isalpha()]
    tails = [template.asked(given).rpartition(USER)[2] for given in every]
    added = {token.content for token in template.tokenizer.added_tokens_decoder.values()}
    for known in (
        (tags for tags in markup if any(tags.opening in tail or tags.closing in tail for tail in tails)),
        (tags for tags in THOUGHT_TAGS if tags.closing in template.source.text),
    ):
        if (found := next(known, None)) is not None:
            return found, True, ""
    return next((tags for tags in THOUGHT_TAGS if {tags.opening, tags.closing} <= added), None), False, ""


def _tags(asked: str, before: str, switch_text: str) -> tuple[Tags, bool, str]:
    """Return the tags of which a template shows what stands before a thought and after it, and what follows them.

    The closing tag is one that the table knows, with all before it; else the first that stands there, or all of it
    where another message of the assistant begins. What follows the tag is a header of the answer.

    Args:
        asked: The chat up to the opening of the assistant's turn.
        before: The chat up to the thought.
        switch_text: What stands between thought and answer.
    """
    closed = [tags for tags in THOUGHT_TAGS if tags.closing in switch_text]
    known = next((tags for tags in closed if tags.opening in before), None)
    first = A_TAG.search(switch_text)
    if closed:
        closing = (known or closed[0]).closing
        stop = switch_text.index(closing) + len(closing)
    else:
        stop = len(switch_text.rstrip())
        if first is not None and not _A_ROLE.search(switch_text, first.end()):
            stop = first.end()
    closing, header = switch_text[:stop].strip(), switch_text[stop:]
    if known is not None:
        opening_text = before[before.rindex(known.opening) :]
        if before.startswith(asked) and opening_text in before[len(asked) :]:
            opening_text = before[len(asked) :]  # with the white space before the tag
        return Tags(known.opening, closing, opening_text, switch_text), True, header
    text = before[len(asked) :] if before.startswith(asked) else ""
    if not text.strip():  # the template opens it: the last tag is its
        last = re.findall(r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])\s*\Z", before)
        text = last[0] if last else before.splitlines()[-1]
    return Tags(text.strip(), closing, text, switch_text), True, header


def _end_of_turn(template: _Template, tags: Tags | None) -> tuple[int | None, str]:
    """Return the token that the template writes after an assistant's text, and what it writes before that token.

    Where it writes no token there, the next turn's first token counts, as in GLM.
    """
    tokenizer = template.tokenizer
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items() if token.content}
    last = template.answered().rpartition(ANSWER)[2]
    going_on = template.render(("user", USER), ("assistant", ANSWER), ("user", NEXT))
    for tail in (last, going_on.rpartition(ANSWER)[2].partition(NEXT)[0]):
        starts = [(tail.find(name), -len(name), name) for name in added if name in tail]
        if not starts:
            continue
        start, _, token = min(starts)
        is_inner = tags is not None and token in tags.switch_text  # it ends a thought
        is_end = not is_inner and token != tokenizer.bos_token
        return (added[token], last.partition(token)[0].strip()) if is_end else (None, "")
    return None, last.strip()


def _keeps_text(template: _Template, closing: str) -> bool:
    texts = (ANSWER, f"{ANSWER}\n\n  {USER} {closing} {ANSWER}")
    return all(text in template.answered(answer=text) for text in texts)


def _start(template: _Template, tags: Tags | None, header: str, given: Mapping[str, Any]) -> Start:
    """Return how the assistant's turn starts.

    Args:
        template: The template.
        tags: Of its thoughts.
        header: What it writes between a closing tag and an answer.
        given: Its arguments.
    """
    asked = template.asked(given)
    state = state_of(asked, tags)
    before = template.answered(given).rpartition(ANSWER)[0]
    written = before[len(asked) :] if before.startswith(asked) else ""
    if tags is not None and (state == "open" or tags.opening in written or tags.closing in written):
        written = ""
    if not written.strip() and tags is not None and state == "empty":
        closed = asked.rpartition(tags.closing)[2]
        if not closed.strip() or not header.strip().startswith(closed.strip()):
            written = header.removeprefix(closed) if header.startswith(closed) else header.lstrip()
    return Start(dict(given), state, written if written.strip() else "")


def _require_known_opening(template: _Template) -> None:
    """Refuse a template that opens what stands before no answer, such as a thought, and in no tag that is known."""
    before, _, tail = template.asked().rpartition(USER)
    answered = template.answered().rpartition(ANSWER)[0].rpartition(USER)[2]
    if not before or answered.startswith(tail):
        return
    pieces = _PIECE.findall(tail)
    match = SequenceMatcher(None, pieces, _PIECE.findall(answered), autojunk=False)
    block = match.find_longest_match()
    opened = "".join(pieces[block.a + block.size :]).strip()
    if A_TAG.search(opened) and not _A_ROLE.search(opened):  # some templates write the role only where they ask
        raise ChatError(
            f"the model's chat template opens the assistant's turn with {opened!r}, which stands before no answer, so "
            "it may open a thought, whose closing tag nothing tells: set model.chat_template to a file that renders a "
            "turn's thought (`reasoning_content`), or that opens nothing"
        )


def state_of(asked: str, tags: Tags | None, *, user: str = USER) -> State:
    """Return what a chat holds of a thought after the user's text, where it ends with the assistant's turn opened."""
    if tags is None:
        return "untagged"
    tail = asked.rpartition(user)[2]
    opened, closed = tail.rfind(tags.opening), tail.rfind(tags.closing)
    if opened > closed:
        return "open"
    return "empty" if closed >= 0 else "untagged"


def _switches(template: _Template, tags: Tags, header: str) -> dict[str, Any]:
    """Return how turns start with thinking on and off, and by default, and which variables switch it."""
    start = partial(_start, template, tags, header)
    default, on, off = start({}), None, None
    switches: list[str] = []
    for name, words in template.choices().items():
        found = _effect(template, name, words, start=start, default=default)
        if found is None:
            continue
        if template.is_given(name):  # the word says which of both it is
            found_off, found_on = (default if side and side.state == default.state else None for side in found)
        else:
            switches.append(name)
            found_off, found_on = found
        off, on = off or found_off, on or found_on
    if off is None:
        is_direct = default.state == "empty" or (default.state == "untagged" and bool(default.header))
        off = default if is_direct or not template.known.is_tagged_by_template else None
    if on is None and default.state != "empty":
        on = default
    return {"default": default, "on": on, "off": off, "switches": tuple(switches)}


def _effect(
    template: _Template, name: str, words: Sequence[Any], *, start: Callable[[Given], Start], default: Start
) -> tuple[Start | None, Start | None] | None:
    """Return how turns start with thinking off and on by a variable's values; None where it is no switch.

    The turn itself tells. Else a name does: one that says so switches thinking in the user's or the system's turn,
    unless its value is printed there, such as an effort in words.
    """
    usual = template.asked()

    def rendered(values: Sequence[Any]) -> list[tuple[Any, str]]:
        return [(value, text) for value in values if (text := template.asked({name: value}))]

    def is_printed(value: Any, text: str) -> bool:
        return str(value) in text and str(value) not in usual

    both = rendered((False, True)) if ABOUT_THINKING.search(name) else []
    named = rendered(words)
    for starts in (
        [start({name: value}) for value, _ in both] if len(both) == 2 else [],
        [default, *(start({name: value}) for value, _ in named)],
    ):
        states = {found.state: found for found in reversed(starts)}
        if len(states) > 1:
            return states.get("empty") or states.get("untagged"), states.get("open") or states.get("untagged")
    if default.state != "untagged" or not ABOUT_THINKING.search(name):
        return None
    if len(both) == 2 and both[0][1] != both[1][1] and not any(is_printed(*item) for item in both):
        values = {IS_SWITCH: (False, True), IS_OPPOSITE: (True, False)}
        for pattern, (off, on) in values.items():
            if pattern.fullmatch(name):
                return start({name: off}), start({name: on})
    for value, text in named:
        if str(value).lower() in OFF_WORDS and text != usual and not is_printed(value, text):
            return start({name: value}), default
    return None
