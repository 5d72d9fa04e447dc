"""What a family of checks has to do: tell whether a response passes, and perhaps write the request that it checks."""

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from tpo.store.errors import TpoError
from tpo.store.records import Check

RULES = ("strict", "loose")


class CheckError(TpoError):
    """A check that is unknown, has wrong arguments or cannot be made here; says what to do."""


class Constraint(NamedTuple):
    """A request about the form of a response that may be added to an instruction, of one type.

    Attributes:
        check: Name of the check.
        draw: Returns the arguments of a check, drawn with a generator and the least and greatest number of words that
            requests about length may name.
        phrasings: Ways to put the request; `{name}` stands for an argument.
    """

    check: str
    draw: Callable[[random.Random, tuple[int, int]], dict[str, Any]]
    phrasings: tuple[str, ...]

    def write(self, generator: random.Random, *, words: tuple[int, int]) -> tuple[str, Check]:
        """Return a request, in one of its phrasings, and what checks it.

        Args:
            generator: What it is drawn with.
            words: Least and greatest number of words that requests about length may name.
        """
        arguments = self.draw(generator, words)
        texts = {name: _text(value) for name, value in arguments.items()}
        return generator.choice(self.phrasings).format(**texts), Check(self.check, arguments)


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


class Family(ABC):
    """Checks that are made in the same way; each family has a file in `tpo/checks/families`."""

    #: Start of the names of its checks, up to the first colon.
    prefixes: ClassVar[tuple[str, ...]]
    #: Requests that can be added to an instruction, by type.
    constraints: ClassVar[Mapping[str, Constraint]] = {}

    @abstractmethod
    def passes(self, response: str, check: Check, *, rule: str) -> bool:
        """Return whether a response passes.

        Args:
            response: What the user sees, never a thought; not empty.
            check: Of this family.
            rule: "strict", or "loose", which lets more pass and never less.

        Raises:
            CheckError: If the check cannot be made.
        """

    def require(self, check: Check) -> None:
        """Make sure that a check can be made, before anything is sampled.

        Raises:
            CheckError: If something is not installed, or the check or an argument is unknown.
        """
        self.passes("word", check, rule="strict")

    def type_of(self, check: Check) -> str:
        """Return what a check is called in tables."""
        return check.name
