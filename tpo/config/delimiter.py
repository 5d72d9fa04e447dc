"""Delimiters in a text: where one stands with the markup around it, and what resembles one.

A model that does not keep to its format writes "Here's my response:" or "**here is my response**" beside the real
delimiter. What follows may be a thought or a response, so text that resembles a delimiter counts as one more of it.
"""

import re
from functools import cache
from typing import NamedTuple

# Emphasis, code and headings of Markdown, and quotation marks; `_` and `"` also join and wrap words.
MARKS = "*_`~#\"'“”„‘’«»"
CLOSED_BY = {"“": "”", "„": "“", "‘": "’", "«": "»", "»": "«"}  # other marks close themselves
FEWEST_LETTERS = 3  # of a delimiter of one word that something can resemble: `<r>` is HTML, not `<R>`


class Place(NamedTuple):
    """A delimiter in a text, as character offsets; `start` and `stop` include the markup that belongs to it."""

    start: int
    stop: int


def find(delimiter: str, text: str, start: int = 0) -> Place | None:
    """Return the first place of a delimiter, written exactly, from `start` on; None where it is not.

    A heading mark before it belongs to it; so do emphasis and quotation marks that are opened right before it, with
    those that close them right after it, and a colon after either: `### **Here is my response:**`. What it opens and
    the text closes later stays the text's: `"Here is my response: yes"`.
    """
    found = text.find(delimiter, start)
    if found < 0:
        return None
    stop = found + len(delimiter)
    opened = re.search(r"(?<![^\s#])[" + re.escape(MARKS.replace("#", "")) + r"]+\Z", text[start:found])
    first = found - len(opened[0]) if opened else found
    if opened:
        closing = re.escape("".join(CLOSED_BY.get(mark, mark) for mark in reversed(opened[0])))
        # After a space, marks close only where they cannot open: `: ** yes`, but not `: "yes"`.
        closed = re.compile(rf"{closing}|[ \t]+{closing}(?!\S)").match(text, stop)
        stop = closed.end() if closed else stop
    colon = re.compile(r"[ \t]?(?:：|:(?!\S))").match(text, stop)
    heading = re.search(r"(?:\A|(?<=\n))[ \t]*#{1,6}[ \t]*\Z", text[start:first])
    return Place(first - len(heading[0]) if heading else first, colon.end() if colon else stop)


def holds(delimiter: str, text: str) -> bool:
    """Whether a text holds a delimiter or what resembles it.

    It is the same words in any case, with other white space, an apostrophe of any kind or none ("Here's", "Here is"),
    marks of emphasis, code, headings or quotation between them and around them, before a colon, a closing mark or the
    end of a line. The words within a sentence resemble nothing ("Here is my response to your letter"), and a delimiter
    of one word, such as "Response:", is resembled only at the start of a line and before a colon; one of a letter or
    two, such as `<R>`, only by itself.
    """
    near = _resembling(delimiter)
    return delimiter in text or (near is not None and near.search(text) is not None)


@cache
def _resembling(delimiter: str) -> re.Pattern[str] | None:
    words = re.findall(r"\w+", re.sub(r"['’‘]s\b", " is", delimiter))
    marks, gap = f"[{re.escape(MARKS)}]", rf"[\s{re.escape(MARKS)}]*"
    colon = rf"{marks}*\s*[:：]"
    if len(words) < 2:
        if not words or len(words[0]) < FEWEST_LETTERS:
            return None
        return re.compile(rf"^[ \t{re.escape(MARKS)}]*{re.escape(words[0])}{colon}", re.IGNORECASE | re.MULTILINE)
    text = re.escape(words[0])
    for word in words[1:]:
        text += rf"(?:{gap}is|['’‘`´]?s)" if word.lower() == "is" else gap + re.escape(word)
    end = rf"[.…]*(?:{marks}+(?!\w)|{marks}*[ \t]*$)"
    return re.compile(rf"(?<![^\W_]){text}(?:{colon}|{end})", re.IGNORECASE | re.MULTILINE)
