"""The least that any response has to be, whatever else is checked of it.

A policy that is trained on checks of form alone can learn to say little: an empty line has no comma and fewer than
thirty words.
"""

from typing import ClassVar

from tpo.checks.protocol import CheckError, Family
from tpo.store.records import Check

NAME = "floor:different_words"


class Floor(Family):
    """A number of different words, which a text that repeats itself does not reach either."""

    prefixes: ClassVar[tuple[str, ...]] = ("floor",)

    def passes(self, response: str, check: Check, *, rule: str) -> bool:
        """Return whether the response has so many different words, letter case and marks at their ends aside."""
        if check.name != NAME or set(check.arguments) != {"count"}:
            raise CheckError(f"check {check.name} with {check.arguments}: expected {NAME} with a count")
        words = {word.strip(".,:;!?*_#\"'`()[]-").casefold() for word in response.split()}
        return len(words - {""}) >= int(check.arguments["count"])

    def type_of(self, check: Check) -> str:
        """Return its name in tables."""
        return "floor"
