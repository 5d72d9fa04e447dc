"""The conventions of a chat template, found by rendering: once per model, before anything is sampled.

A user turn, the opening of the assistant's turn, and an answer with and without a thought are rendered with every
value of every variable that could switch thinking. What stands between them tells the tags, who opens them, the switch,
and the token that ends a turn. Templates that drop or cut thoughts do not show their tags; those have to be
in the table of `tpo.config.tags`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from tpo.config.fields import near
from tpo.config.tags import THOUGHT_TAGS, Tags
from tpo.model.chat import ChatError, Tokenizer, render_chat
from tpo.model.conventions import Conventions, Start, State

USER, ANSWER, THOUGHT, SYSTEM, NEXT = "Uvqx one.", "Avqx two.", "Tvqx three.", "Svqx four.", "Nvqx five."
DATES = ("1999-12-31", "2031-07-04")  # no part of one is a part of the other
ABOUT_THINKING = re.compile(r"think|reason", re.IGNORECASE)
IS_SWITCH = re.compile(r"(?:(?:enable|use|with|do|is)_)?(?:think|thinking|reason|reasoning)(?:_(?:mode|enabled|on))?")


Given = Mapping[str, Any] | None  # arguments of a template


class _Template:
    """A tokenizer's chat template, rendered with what it is always given."""

    def __init__(self, tokenizer: Tokenizer, known: Conventions) -> None:
        self.tokenizer, self.known = tokenizer, known

    def render(self, *turns: tuple[str, str], given: Given = None, thought: str | None = None) -> str:
        """Return a chat; one that ends with a user turn opens the assistant's. What fails is empty."""
        is_asking = turns[-1][0] == "user"
        try:
            return render_chat(
                self.tokenizer, turns, conventions=self.known, arguments=given, thought=thought, is_asking=is_asking
            )
        except Exception:  # a template may raise anything on what it does not know, such as a system turn
            return ""

    def asked(self, given: Given = None) -> str:
        """Return a user turn and the opening of the assistant's."""
        return self.render(("user", USER), given=given)

    def answered(self, given: Given = None, *, answer: str = ANSWER, thought: str | None = None) -> str:
        """Return a user turn and its answer."""
        return self.render(("user", USER), ("assistant", answer), given=given, thought=thought)


def read_conventions(
    tokenizer: Tokenizer, *, template_arguments: Mapping[str, Any], date: str, missing_files: Sequence[str] = ()
) -> Conventions:
    """Return what a tokenizer's chat template does.

    Args:
        tokenizer: With a chat template.
        template_arguments: What the template is always given.
        date: What its clock shows, as YYYY-MM-DD.
        missing_files: Optional files that the model comes without.

    Raises:
        ChatError: If the template fails, drops the user's text, or does not know one of the arguments.
    """
    source, at = _source(tokenizer), "model.template_arguments"
    names = check_arguments(tokenizer, template_arguments, at=at)
    known = Conventions(arguments=dict(template_arguments), date=date, missing_files=tuple(missing_files))
    known = replace(known, takes_parts=_takes_parts(tokenizer, known))
    template = _Template(tokenizer, known)
    tags, is_tagged_by_template = _find_tags(template, source)
    template.known = known = replace(
        known,
        takes_system=SYSTEM in template.render(("system", SYSTEM), ("user", USER)),
        end_of_turn_id=_end_of_turn(template, tags),
        has_clock=len({_Template(tokenizer, replace(known, date=day)).asked() for day in DATES}) > 1,
        tags=tags,
        is_tagged_by_template=is_tagged_by_template,
    )
    if tags is None:
        start = Start(header=_header(template, None, {}))
        return replace(known, default=start, off=start, keeps_text=_keeps_text(template, "</think>"))
    found = _switches(template, tags, names)
    for name in {*template_arguments} & {*found["switches"]}:
        raise ChatError(
            f"{at}.{name}: whether the model thinks is its thought format's: take it out, and use thought=think, or "
            "thought=none for direct answers"
        )
    return replace(known, keeps_text=_keeps_text(template, tags.closing), **found)


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
    return replace(known, takes_parts=_takes_parts(tokenizer, known))


def check_arguments(tokenizer: Tokenizer, arguments: Mapping[str, Any], *, at: str) -> set[str]:
    """Return the words of a chat template, among which are the names of its variables.

    Args:
        tokenizer: With the template.
        arguments: What the template is to be given.
        at: Key of the settings at which they stand.

    Raises:
        ChatError: If the template has no variable of the name of one of them.
    """
    names = {*re.findall(r"\w+", _source(tokenizer))}
    for name in arguments:
        if name not in names:
            hint = near(name, sorted(known for known in names if len(known) > 2))
            raise ChatError(f"{at}.{name}: the model's chat template has no such variable{hint}")
    return names


def _source(tokenizer: Tokenizer) -> str:
    """Return the text of the template that is used; a tokenizer may have several by name."""
    try:
        return str(tokenizer.get_chat_template())
    except (ValueError, NotImplementedError, AttributeError) as error:  # a tokenizer without Jinja templates
        raise ChatError(f"the tokenizer's chat template cannot be used: {error}") from error


def _takes_parts(tokenizer: Tokenizer, known: Conventions) -> bool:
    """Return whether a turn's text is dropped unless it is given as a list of parts, as templates with images do it."""
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
    what = "drops the user's text" if reason is None else f"fails on a user turn: {reason}"
    raise ChatError(f"the model's chat template {what}; set model.chat_template to a file with another one")


def _find_tags(template: _Template, source: str) -> tuple[Tags | None, bool]:
    """Return the tags around a thought, and whether the template knows them."""
    for given in ({}, *({name: True} for name in ("enable_thinking", "thinking"))):
        full = template.answered(given, thought=THOUGHT)
        if THOUGHT in full and ANSWER in full.partition(THOUGHT)[2]:
            before, _, after = full.partition(THOUGHT)
            switch_text = after.partition(ANSWER)[0]
            if switch_text.strip():
                return _tags(template.asked(given), before, switch_text), True
    for tags in THOUGHT_TAGS:
        if tags.closing in source:
            return tags, True
    added = {token.content for token in template.tokenizer.added_tokens_decoder.values()}
    return next((tags for tags in THOUGHT_TAGS if {tags.opening, tags.closing} <= added), None), False


def _tags(asked: str, before: str, switch_text: str) -> Tags:
    """Return the tags of which a template shows what stands before a thought and after it.

    Args:
        asked: The chat up to the opening of the assistant's turn.
        before: The chat up to the thought.
        switch_text: What stands between thought and answer.
    """
    closing = switch_text.strip()
    known = next((tags for tags in THOUGHT_TAGS if tags.closing == closing), None)
    if known is not None and known.opening in before:
        opening_text = before[before.rindex(known.opening) :]
        if before.startswith(asked) and opening_text in before[len(asked) :]:
            opening_text = before[len(asked) :]  # with the white space before the tag
        return Tags(known.opening, closing, opening_text, switch_text)
    written = before[len(asked) :] if before.startswith(asked) else ""
    if written.strip():
        return Tags(written.strip(), closing, written, switch_text)
    last = re.findall(r"(?:<[^<>\s]+>|\[[^\[\]\s]+\])\s*\Z", before)  # the template opens it: the last tag is its
    text = last[0] if last else before.splitlines()[-1]
    return Tags(text.strip(), closing, text, switch_text)


def _end_of_turn(template: _Template, tags: Tags | None) -> int | None:
    """Return the token that the template writes after an assistant's text.

    Where it writes nothing there, the next turn's first token counts, as in GLM.
    """
    chats = (
        template.answered(),
        template.render(("user", USER), ("assistant", ANSWER), ("user", NEXT)),
    )
    tokenizer = template.tokenizer
    added = {token.content: number for number, token in tokenizer.added_tokens_decoder.items()}
    for chat in chats:
        tail = chat.rpartition(ANSWER)[2].lstrip() if ANSWER in chat else ""
        if not tail:
            continue
        token = max((name for name in added if name and tail.startswith(name)), key=len, default=None)
        is_inner = tags is not None and token is not None and token in tags.switch_text  # it ends a thought
        return None if token is None or is_inner or token == tokenizer.bos_token else added[token]
    return None


def _keeps_text(template: _Template, closing: str) -> bool:
    texts = (ANSWER, f"{ANSWER}\n\n  {USER} {closing} {ANSWER}")
    return all(text in template.answered(answer=text) for text in texts)


def _header(template: _Template, tags: Tags | None, given: Mapping[str, Any]) -> str:
    """Return what the template writes between the opening of the assistant's turn and an answer, unless it is a tag."""
    asked, answered = template.asked(given), template.answered(given)
    before = answered.rpartition(ANSWER)[0]
    header = before[len(asked) :] if before.startswith(asked) else ""
    is_tag = tags is not None and (tags.opening in header or tags.closing in header)
    return header if header.strip() and not is_tag else ""


def state_of(asked: str, tags: Tags | None, *, user: str = USER) -> State:
    """Return what a chat holds of a thought after the user's text, where it ends with the assistant's turn opened."""
    if tags is None:
        return "untagged"
    tail = asked.rpartition(user)[2]
    opened, closed = tail.rfind(tags.opening), tail.rfind(tags.closing)
    if opened > closed:
        return "open"
    return "empty" if closed >= 0 else "untagged"


def _switches(template: _Template, tags: Tags, names: set[str]) -> dict[str, Any]:
    """Return how turns start with thinking on and off, and by default, and which variables switch it."""

    def start(given: Mapping[str, Any]) -> Start:
        asked = template.asked(given)
        return Start(dict(given), state_of(asked, tags), _header(template, tags, given))

    default, on, off = start({}), None, None
    switches: list[str] = []
    for name, first, second in _effects(template, sorted(names)):
        starts = start({name: first}), start({name: second})
        states = {found.state: found for found in starts}
        if len(states) > 1:  # the turn itself tells
            found_off = states.get("empty") or states.get("untagged")
            found_on = states.get("open") or states.get("untagged")
        elif IS_SWITCH.fullmatch(name) and starts[0].state == "untagged":  # the user's or the system's turn does
            found_off, found_on = starts
        else:
            continue
        switches.append(name)
        off, on = off or found_off, on or found_on
    if off is None:
        is_direct = default.state == "empty" or (default.state == "untagged" and bool(default.header))
        off = default if is_direct or not template.known.is_tagged_by_template else None
    if on is None and default.state != "empty":
        on = default
    return {"default": default, "on": on, "off": off, "switches": tuple(switches)}


def _effects(template: _Template, names: Sequence[str]) -> Iterator[tuple[str, Any, Any]]:
    """Yield the variables about thinking that make a difference, with the values that do: false and true.

    A variable that is printed, such as an effort in words, is no switch.
    """
    usual = template.asked()
    ranked = sorted(filter(ABOUT_THINKING.search, names), key=lambda name: (not IS_SWITCH.fullmatch(name), name))
    for name in ranked:
        chats = [template.asked({name: value}) for value in (False, True)]
        is_printed = any(str(v) in chat and str(v) not in usual for v, chat in zip((False, True), chats, strict=True))
        if all(chats) and chats[0] != chats[1] and not is_printed:
            yield name, False, True
