"""Texts that spell control tokens: broken up, so that no text ends its turn or speaks in another's role.

A text of a user or a model that spells `<|im_end|>` would end its turn where the chat template renders it. It becomes
`< |im_end|>`: readable as before, and other tokens.
"""

import re
from collections.abc import Set
from itertools import pairwise
from typing import Any, NamedTuple
from unicodedata import category
from weakref import WeakKeyDictionary

from tpo.config.tags import THOUGHT_TAGS
from tpo.store.errors import TpoError

Tokenizer = Any  # transformers' PreTrainedTokenizerBase

UNREADABLE = "\ufffd"
SEPARATORS = (" ", "\u200b", "\u2060", "\u00b7")  # the first that occurs in no control token
THOUGHT_STRINGS = frozenset(  # without those that are sentences
    tag for tags in THOUGHT_TAGS for tag in (tags.opening, tags.closing) if not tag[0].isalpha()
)

# <tool_call>, <|user|>, <unused7>; [INST], [gMASK], [|user|], but not [x] or [0].
_TAG = re.compile(r"<[^<>\s][^<>]*>|\[[^\[\]\s]*(?:[A-Z]{2}|\|)[^\[\]\s]*\]")
_MARKER = re.compile(r"<[^<>\s]{1,80}>|\[/?[A-Z_]{2,80}\]|\[\|[^\[\]\s]{1,80}\|\]")  # in a rendered chat
_PIPED = re.compile(r"<[|｜][^<>\s]{1,80}>|<[^<>\s]{1,80}[|｜]>")  # in a template's text
_HTML = re.compile(
    r"</?(?:a|abbr|address|article|aside|audio|b|bdi|bdo|blockquote|body|br|button|canvas|caption|center|cite|code|col"
    r"|colgroup|dd|del|details|dfn|div|dl|dt|em|figcaption|figure|font|footer|form|h[1-6]|head|header|hr|html|i|iframe"
    r"|img|input|ins|kbd|label|li|link|main|mark|math|meta|nav|ol|option|p|picture|pre|q|s|samp|script|section|select"
    r"|small|span|strike|strong|style|sub|summary|sup|svg|table|tbody|td|textarea|tfoot|th|thead|time|title|tr|tt|u|ul"
    r"|var|video|wbr)\s*/?>",
    re.IGNORECASE,
)


class _Breaker(NamedTuple):
    """How a tokenizer's control tokens are found and broken up."""

    made_for: tuple[str, int]  # the chat template and the number of tokens
    separator: str
    single: dict[int, str]  # control tokens of one character, which cannot be broken up, and what stands for them
    starts: re.Pattern[str]  # the first character of each control token
    normalizer: Any  # None where no control token is looked for in normalized text
    normalized_starts: str  # as `starts`, in normalized text


_breakers: WeakKeyDictionary[Tokenizer, _Breaker] = WeakKeyDictionary()


def break_control_tokens(text: str, tokenizer: Tokenizer) -> str:
    """Return `text` with a space behind the first character of every control token of the tokenizer that it spells.

    Each place where one begins is broken, also within another, so one pass is enough: none can span a separator, which
    no control token holds. One of a single character, such as U+0003, becomes U+FFFD. What is returned is tokenized to
    no control token's id (but the unknown token's, which stands for what a tokenizer does not know). Tokens that are
    looked for in normalized text are found there: under NFKC, `＜|x|＞` may be read as `<|x|>`. `control_strings` says
    what a control token is.

    Raises:
        TpoError: If control tokens hold all of the separators that there are.
    """
    breaker = _breaker(tokenizer)
    text = text.translate(breaker.single)
    text = breaker.starts.sub(lambda match: match[0] + breaker.separator, text)
    if breaker.normalizer is None:
        return text
    normalized = breaker.normalizer.normalize_str(text)
    if normalized == text or re.search(breaker.normalized_starts, normalized) is None:
        return text
    edges = [0, *_normalized_edges(text, breaker), len(text)]
    return breaker.separator.join(text[start:stop] for start, stop in pairwise(edges))


def control_strings(tokenizer: Tokenizer) -> frozenset[str]:
    """Return the strings that a text may not spell, since the model reads them as control tokens.

    - Special tokens.
    - Added tokens without that flag, where they have the form of a tag (`</think>`, `<tool_call>`, `<unused7>`,
      `[/THINK]`), or where the chat template holds them between other signs than letters (`]~b]`).
    - What the chat template marks turns with, a token or not: Llama 2's `[INST]` is spelled in letters.
    - Tags with bars (`<|channel>`) and tags of thoughts that its text holds: it may cut an answer there.

    Other added tokens are text: white space and signs (runs of spaces in GPT-NeoX's tokenizer), words, tags of HTML
    that the template does not hold (Gemma has them), and whatever is a single character: of these `_single` tells which
    no text needs.
    """
    template = _template_text(tokenizer)
    added = tokenizer.added_tokens_decoder.values()
    found = {token.content for token in added if token.special or _is_control(token.content.strip(), template)}
    found |= {*tokenizer.all_special_tokens, *_MARKER.findall(_rendered(tokenizer))}
    found |= {*_PIPED.findall(template), *(tag for tag in THOUGHT_STRINGS if tag in template)}
    return frozenset(content for content in found if len(content) > 1 and content.strip())


def _is_control(content: str, template: str) -> bool:
    if not any(character.isalnum() for character in content):
        return False
    is_marked = not (content[0].isalnum() or content[-1].isalnum())
    is_tag = _TAG.fullmatch(content) is not None and _HTML.fullmatch(content) is None
    return is_tag or content in THOUGHT_STRINGS or (is_marked and content in template)


def _template_text(tokenizer: Tokenizer) -> str:
    template = tokenizer.chat_template
    return "\n".join(template.values()) if isinstance(template, dict) else template or ""


def _rendered(tokenizer: Tokenizer) -> str:
    """Return short chats as the template renders them: as they are answered and as they are asked, if it can."""
    from jinja2 import TemplateError

    turns = [{"role": role, "content": "x"} for role in ("system", "user", "assistant", "user")]
    found = []
    for messages in (turns, turns[:3], turns[1:3], turns[1:2]):
        is_asking = messages[-1]["role"] == "user"
        try:
            found.append(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=is_asking))
        except (TemplateError, TypeError, ValueError, LookupError, AttributeError):  # whatever a template raises
            continue
    return "\n".join(found)


def _breaker(tokenizer: Tokenizer) -> _Breaker:
    made_for = (_template_text(tokenizer), len(tokenizer))
    found = _breakers.get(tokenizer)
    if found is None or found.made_for != made_for:
        found = _breakers[tokenizer] = _make_breaker(tokenizer, made_for)
    return found


def _make_breaker(tokenizer: Tokenizer, made_for: tuple[str, int]) -> _Breaker:
    strings = control_strings(tokenizer)
    normalizer = getattr(getattr(tokenizer, "backend_tokenizer", None), "normalizer", None)
    normalized: set[str] = set()
    if normalizer is not None:
        added = [token.content for token in tokenizer.added_tokens_decoder.values() if token.normalized]
        # Llama's normalizer puts "▁" before every text, and so before a token.
        normalized = {normalizer.normalize_str(content).lstrip("▁") for content in added if content in strings}
        normalized = {content for content in normalized if len(content) > 1}
    if not normalized:
        normalizer = None
    fitting = (mark for mark in SEPARATORS if _separates(mark, strings, normalized, normalizer))
    separator = next(fitting, None)
    if separator is None:
        raise TpoError(
            f"{tokenizer.name_or_path}: its control tokens hold a space and all other characters that could break them "
            "up in a text, so no text is safe: use another tokenizer"
        )
    return _Breaker(
        made_for, separator, _single(tokenizer), re.compile(_starts(strings)), normalizer, _starts(normalized)
    )


def _single(tokenizer: Tokenizer) -> dict[int, str]:
    """Return the special tokens of one character that no text needs, such as U+0003: not a question mark."""
    added = tokenizer.added_tokens_decoder.values()
    specials = {*tokenizer.all_special_tokens, *(token.content for token in added if token.special)}
    singles = (content for content in specials if len(content) == 1 and content != UNREADABLE)
    return {ord(sign): UNREADABLE for sign in singles if category(sign) in ("Cc", "Cf", "Co", "So") and sign.strip()}


def _separates(mark: str, strings: Set[str], normalized: Set[str], normalizer: Any) -> bool:
    """Return whether a separator is in no control token, in normalized text either, and is not normalized away."""
    if any(mark in content for content in strings):
        return False
    if normalizer is None:
        return True
    between = normalizer.normalize_str(f"x{mark}x").partition("x")[2].rpartition("x")[0]
    return between != "" and not any(between in content for content in normalized)


def _starts(strings: Set[str]) -> str:
    """Return a pattern of the first characters of strings, each before the rest of its string.

    A match is one character long, so that strings are found that overlap.
    """
    rests: dict[str, set[str]] = {}
    for content in strings:
        rests.setdefault(content[0], set()).add(content[1:])
    return "|".join(f"{re.escape(first)}(?={_tree(rest)})" for first, rest in sorted(rests.items())) or "(?!)"


def _tree(strings: Set[str]) -> str:
    """Return a pattern of strings, or of what they begin with: a prefix tree, which reads a character once."""
    if "" in strings:
        return ""
    rests: dict[str, set[str]] = {}
    for content in strings:
        rests.setdefault(content[0], set()).add(content[1:])
    branches = [re.escape(first) + _tree(rest) for first, rest in sorted(rests.items())]
    return branches[0] if len(branches) == 1 else f"(?:{'|'.join(branches)})"


def _normalized_edges(text: str, breaker: _Breaker) -> list[int]:
    """Return where in `text` the first characters end of the control tokens that its normalized form holds."""
    from tokenizers import PreTokenizedString, Regex

    pieces, pattern = PreTokenizedString(text), Regex(breaker.normalized_starts)
    pieces.normalize(breaker.normalizer.normalize)
    pieces.split(lambda _, piece: piece.split(pattern, "merged_with_previous"))
    return sorted({span[1] for _, span, _ in pieces.get_splits("original", "char")} - {0, len(text)})
