"""Right answers: a number, as in GSM8K, or a text."""

import re
import unicodedata
from typing import ClassVar

from tpo.checks.protocol import CheckError, Family
from tpo.store.records import Check

NUMBER = "answer:number"
EXACT = "answer:exact"

_NUMBER = r"-?[$0-9.,]{2,}|-?[0-9]+"
_STRICT = re.compile(rf"The final answer is ({_NUMBER})")
_LOOSE = re.compile(f"({_NUMBER})")


class Answers(Family):
    """The response ends with the right answer."""

    prefixes: ClassVar[tuple[str, ...]] = ("answer",)

    def passes(self, response: str, check: Check, *, rule: str) -> bool:
        """Return whether the response gives the answer.

        A number: strictly the last one after "The final answer is", loosely that or the last one anywhere. A text:
        strictly the whole response, loosely its last line or what follows the last colon there; letter case, white
        space and a full stop at the end are ignored.
        """
        answer = check.arguments.get("answer")
        if check.name not in (NUMBER, EXACT) or not isinstance(answer, str) or len(check.arguments) > 1:
            raise CheckError(f"check {check.name} with {check.arguments}: expected {NUMBER} or {EXACT} with an answer")
        if check.name == NUMBER:
            numbers = [stated_number(response), *([last_number(response)] if rule == "loose" else [])]
            return normalized_number(answer) in numbers
        wanted, last = normalized_text(answer), (response.strip().splitlines() or [""])[-1]
        texts = [response] if rule == "strict" else [response, last, last.rpartition(":")[2]]
        return wanted in map(normalized_text, texts)

    def type_of(self, check: Check) -> str:
        """Return its name in tables."""
        return check.name.partition(":")[2]


def stated_number(response: str) -> str | None:
    """Return the last number after "The final answer is", normalized; None where there is none."""
    return _last(_STRICT, response)


def last_number(response: str) -> str | None:
    """Return the last number of a response, normalized; None where there is none."""
    return _last(_LOOSE, response)


def _last(pattern: re.Pattern[str], text: str) -> str | None:
    found = pattern.findall(text)
    return normalized_number(found[-1]) if found else None


def normalized_number(number: str) -> str:
    """Return a number without commas, dollar signs and a full stop at its end; 42.0 is not 42."""
    return re.sub(r"\.$", "", number.strip().replace(",", "").replace("$", ""))


def normalized_text(text: str) -> str:
    """Return a text without letter case, repeated white space and a full stop at its end."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).removesuffix(".").strip()
