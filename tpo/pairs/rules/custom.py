"""A rule of the user's own: a class whose `choose` picks two of an instruction's candidates (`tpo.pairs.rule`)."""

import re
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

from tpo.config.custom import Custom
from tpo.config.fields import setting
from tpo.pairs.rule import Candidate, Choice, PairsRule
from tpo.store.errors import TpoError


@dataclass
class CustomPairs(Custom, PairsRule):
    """A class that chooses; what it may not choose is dropped and counted as for every other rule."""

    needs: ClassVar[tuple[str, ...]] = ("choose",)

    kind: str = setting("custom")

    @cached_property
    def _rule(self) -> Any:
        return self.create()

    def choose(self, candidates: Sequence[Candidate]) -> Choice | str:
        """Return what the class chooses: two positions, or a reason of its own.

        Raises:
            TpoError: If the class fails, or returns anything else.
        """
        what = f"pairs._target_={self._target_}"
        try:
            found = self._rule.choose(candidates)
        except TpoError:
            raise
        except Exception as error:  # whatever a class of the user's does
            line = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{line.filename}, line {line.lineno}"
            raise TpoError(f"{what} failed: {type(error).__name__}: {error} ({where})") from error
        if isinstance(found, str) and re.fullmatch("[a-z][a-z0-9_]*", found):
            return found
        positions = range(len(candidates))
        if isinstance(found, tuple) and len(found) == 2 and all(type(at) is int and at in positions for at in found):
            return Choice(*found)
        raise TpoError(
            f"{what}: choose() returned {found!r:.200}; expected the positions of chosen and rejected among the "
            f"{len(candidates)} candidates, or why there is no pair, as a name in small letters such as no_variety"
        )
