"""Delimiters in a text: where one stands with the markup around it, and what resembles one.

A model that does not keep to its format writes "Here's my response:" or "**here is my response**" beside the real
delimiter. What follows may be a thought or a response, so text that resembles a delimiter counts as one more of it.
"""

import re
import unicodedata
from functools import cache
from typing import NamedTuple

# Emphasis, code and headings of Markdown, and quotation marks; `_` and `"` also join and wrap words.
MARKS = "*_`~#\"'“”„‘’«»"
CLOSED_BY = {"“": "”", "„": "“", "‘": "’", "«": "»", "»": "«", "[": "]", "(": ")"}  # other marks close themselves
FEWEST_LETTERS = 3  # of a delimiter of one word that something can resemble: `<r>` is HTML, not `<R>`

# What is opened right before a delimiter: marks, brackets, escaped ones, and tags of HTML that emphasize.
_OPENED = re.compile(
    r"(?<![^\s#])(?:\\?[" + re.escape(MARKS.replace("#", "") + "[(") + r"]|<(?:b|i|u|em|strong|mark|h[1-6])>)+\Z",
    re.IGNORECASE,
)
_MARK = re.compile(r"<(\w+)>|(\\?.)")
_HEADING = re.compile(r"(?:\A|(?<=\n))[ \t]*#{1,6}[ \t]*\Z")
_COLON = re.compile(r"[ \t]?(?:：|:(?!\S))")
# What may stand between a delimiter and the end of its line, and a line below that makes it a heading.
_LINE_END = re.compile(r"[ \t]*(?:\*{2,3}|#{1,6})?[ \t]*(?=\n|\Z)(?:\n[ \t]*(?:-{3,}|={3,})[ \t]*(?=\n|\Z))?")


class Place(NamedTuple):
    """A delimiter in a text, as character offsets; `start` and `stop` include the markup that belongs to it."""

    start: int
    stop: int


def find(delimiter: str, text: str, start: int = 0) -> Place | None:
    """Return the first place of a delimiter, written exactly, from `start` on; None where it is not.

    A heading mark before it belongs to it; so do emphasis, brackets and quotation marks that are opened right before
    it, with those that close them right after it, a colon after either, and a rule below: `### **Here is my
    response:**`. What it opens and the text closes later stays the text's: `"Here is my response: yes"`.
    """
    found = text.find(delimiter, start)
    if found < 0:
        return None
    stop = found + len(delimiter)
    opened = _OPENED.search(text[start:found])
    first = found - len(opened[0]) if opened else found
    if opened:
        marks = [(tag[1], tag[2]) for tag in _MARK.finditer(opened[0])]
        closing = "".join(re.escape(f"</{name}>" if name else _closes(mark)) for name, mark in reversed(marks))
        # After a space, marks close only where they cannot open: `: ** yes`, but not `: "yes"`.
        closed = re.compile(rf"{closing}|[ \t]+{closing}(?!\S)", re.IGNORECASE).match(text, stop)
        stop = closed.end() if closed else stop
    colon = _COLON.match(text, stop)
    stop = colon.end() if colon else stop
    end = _LINE_END.match(text, stop)
    heading = _HEADING.search(text[start:first])
    return Place(first - len(heading[0]) if heading else first, end.end() if end else stop)


def _closes(mark: str) -> str:
    return mark[:-1] + CLOSED_BY.get(mark[-1], mark[-1])


def closed_at(delimiter: str, text: str) -> int:
    """Return where a text ends that a delimiter opened: before `</R>` at its end, where the delimiter is `<R>`."""
    tag = re.fullmatch(r"<(\w+)>", delimiter)
    closed = re.search(rf"</{re.escape(tag[1])}>\s*\Z", text) if tag else None
    return closed.start() if closed else len(text)


def holds(delimiter: str, text: str) -> bool:
    """Whether a text holds a delimiter or what resembles it.

    It is the same words in any case and width, with other white space, invisible characters, an apostrophe of any kind
    or none ("Here's", "Here is"), a hyphen between two of them or one more word, and marks of emphasis, code, headings
    or quotation between them and around them: before a colon, another mark that ends a clause, a closing mark, or the
    end of a line. The words within a sentence resemble nothing ("Here is my response to your letter"), and a delimiter
    of one word, such as "Response:", is resembled only at the start of a line and before a colon; one of a letter or
    two, such as `<R>`, only by itself.
    """
    near = _resembling(delimiter)
    return delimiter in text or (near is not None and near.search(_plain(text)) is not None)


def _plain(text: str) -> str:
    """Return a text in the usual width, without invisible characters."""
    if text.isascii():
        return text
    return "".join(sign for sign in unicodedata.normalize("NFKC", text) if unicodedata.category(sign) != "Cf")


@cache
def _resembling(delimiter: str) -> re.Pattern[str] | None:
    words = re.findall(r"\w+", re.sub(r"['’‘]s\b", " is", _plain(delimiter)))
    marks, gap = f"[{re.escape(MARKS)}]", rf"[-‐‑\s{re.escape(MARKS)}]*"
    colon = rf"{marks}*\s*[:：]"
    if len(words) < 2:
        if not words or len(words[0]) < FEWEST_LETTERS:
            return None
        return re.compile(rf"^[ \t{re.escape(MARKS)}]*{re.escape(words[0])}{colon}", re.IGNORECASE | re.MULTILINE)
    text, with_another = re.escape(words[0]), re.escape(words[0])
    for word in words[1:]:
        next_word = rf"(?:{gap}is|['’‘`´]?s)" if word.lower() == "is" else gap + re.escape(word)
        text += next_word
        with_another += rf"(?:\s+\w+)?{next_word}"
    end = rf"(?:[.…;!]|\s*[-–—])+(?=\s|\Z)|\s*(?:[\])}}]|</)|[.…]*(?:{marks}+(?!\w)|{marks}*[ \t]*$)"
    flags = re.IGNORECASE | re.MULTILINE
    shouted = re.escape(" ".join(words).upper())  # in capitals it is no part of a sentence
    return re.compile(rf"(?<![^\W_])(?:{text}(?:{colon}|{end})|{with_another}{colon}|(?-i:{shouted})\b)", flags)
