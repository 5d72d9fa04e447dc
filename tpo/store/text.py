r"""How text of others is shown: it steers no terminal and starts no line of its own, and no two names look the same.

Names (of categories, judges, runs, models) and responses come from files, models and command lines, and reach
terminals, logs, tables, figures and pages. Each of these escapes its own markup; what all have in common is here.
Escapes are "\x1b", "\u202e" and "\U000e0001". Letters of different alphabets that look alike stay as they are.
"""

import hashlib
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable

#: What draws nothing though `str.isprintable` says that it does: fillers, joiners of graphemes, selectors of variants.
UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180d\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
JOINERS = "\u200c\u200d"  # without which words of some languages, and some emoji, are others
ESCAPE = "x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}"


def printable(text: str) -> str:
    """Return running text with escapes for what would steer a terminal or turn the direction of a line.

    Line breaks, tabs, spaces of any width and joiners of letters stay. A lone surrogate, which cannot be written, is
    escaped as well.
    """
    if text.isprintable():
        return text
    return "".join(sign if _is_running(sign) else escape(sign) for sign in text)


def one_line(text: str) -> str:
    """Return a name in one line, in which nothing is unseen or only looks like something else.

    Escaped are, besides what `printable` escapes, line breaks and tabs, what draws nothing, spaces other than a single
    ordinary one between words, and, in a text that Unicode composes otherwise (NFC), all but ASCII. Where the text has
    the letters of an escape itself, their backslash is doubled: two names never come out the same.
    """
    is_composed = unicodedata.is_normalized("NFC", text)
    signs = {sign for sign in text if _is_unseen(sign) or not (is_composed or sign.isascii())}
    escaped = "|".join([*map(re.escape, sorted(signs)), r"(?<= ) ", r"\A ", r" \Z"])
    doubled = re.sub(rf"\\+(?={ESCAPE}|{escaped})", lambda found: 2 * found[0], text)
    return re.sub(escaped, lambda found: escape(found[0]), doubled)


def labels(names: Iterable[str], *, longest: int, is_spaced: bool = False) -> dict[str, str]:
    """Return what each of several names is called where they stand together: not too long, and no two the same.

    Escaping is left to whatever shows them (`one_line`, once).

    Args:
        names: Equal ones are one.
        longest: In characters; a longer name is cut and ends with a hash of the whole.
        is_spaced: Whether underscores are shown as spaces, where that makes no two names the same.
    """
    names = list(dict.fromkeys(names))
    taken, found = {name for name in names if len(name) <= longest}, {}
    for name in names:
        label = shortened(name, longest)
        while len(name) > longest and label in taken:  # another name is what this one would be cut to
            label = shortened(f"{label} {name}", longest)
        taken.add(label)
        found[name] = label
    if not is_spaced:
        return found
    spaced = {name: label.replace("_", " ") for name, label in found.items()}
    counts = Counter(spaced.values())
    return {name: label if counts[label] == 1 else found[name] for name, label in spaced.items()}


def shortened(text: str, longest: int) -> str:
    """Return a text of at most so many characters: a longer one is cut, and ends with a hash of the whole."""
    if len(text) <= longest:
        return text
    digits = hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]
    return f"{text[: longest - 9]}~{digits}"


def _is_running(sign: str) -> bool:
    return sign.isprintable() or sign in "\n\t" or sign in JOINERS or unicodedata.category(sign) == "Zs"


def _is_unseen(sign: str) -> bool:
    return not sign.isprintable() or UNSEEN.match(sign) is not None


def escape(sign: str) -> str:
    """Return the escape of a character."""
    code = ord(sign)
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
