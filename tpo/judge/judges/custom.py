"""A judge of the user's own: a class with `score`, or with `compare` (`tpo.judge.protocol`)."""

import math
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from tpo.config.custom import Custom
from tpo.config.fields import setting
from tpo.judge.protocol import (
    Candidates,
    Judge,
    Judgement,
    PairwiseJudge,
    PairwiseJudgeConfig,
    PointwiseJudgeConfig,
)
from tpo.model.policy import Policy
from tpo.store.errors import TpoError


@dataclass
class CustomJudge(Custom, PointwiseJudgeConfig):
    """A class that scores each response by itself; one whose constructor takes `policy` gets the seed model."""

    needs: ClassVar[tuple[str, ...]] = ("score",)
    offers: ClassVar[tuple[str, ...]] = ("policy",)

    kind: str = setting("custom")

    @property
    def uses_seed_model(self) -> bool:
        """Whether its constructor takes the seed model."""
        return "policy" in self.wants

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return an instance of the class, whose answers are checked."""
        return CheckedJudge(self.create(policy=policy), self._target_)


@dataclass
class CustomPairwiseJudge(Custom, PairwiseJudgeConfig):
    """A class that compares two responses at a time; one whose constructor takes `policy` gets the seed model."""

    needs: ClassVar[tuple[str, ...]] = ("compare",)
    offers: ClassVar[tuple[str, ...]] = ("policy",)

    kind: str = setting("custom")

    @property
    def uses_seed_model(self) -> bool:
        """Whether its constructor takes the seed model."""
        return "policy" in self.wants

    def make(self, *, policy: Policy | None, answers_path: Path) -> PairwiseJudge:
        """Return an instance of the class, whose answers are checked."""
        return CheckedPairwiseJudge(self.create(policy=policy), self._target_)


class CheckedJudge:
    """A judge that scores as one of the user's own does, and says in a sentence what is wrong with an answer."""

    def __init__(self, judge: Judge, name: str) -> None:
        """Wrap `judge`, a class of this name."""
        self.judge, self.name = judge, name

    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return one judgement per response, in the order given.

        Raises:
            TpoError: If the class fails, or returns anything else.
        """
        found = _call(self.judge.score, candidates, self.name)
        counts = [len(group) if isinstance(group, Sequence) else None for group in found]
        if counts != [len(item.responses) for item in candidates]:
            raise TpoError(f"judge._target_={self.name}: score returned no list of a judgement for each response")
        for group in found:
            _check(group, self.name)
        return found


class CheckedPairwiseJudge:
    """The same for a judge that compares."""

    def __init__(self, judge: PairwiseJudge, name: str) -> None:
        """Wrap `judge`, a class of this name."""
        self.judge, self.name = judge, name

    def compare(self, pairs: Sequence[Candidates]) -> list[Judgement]:
        """Return one judgement per pair, in the order given.

        Raises:
            TpoError: If the class fails, or returns anything else.
        """
        found = _call(self.judge.compare, pairs, self.name)
        if len(found) != len(pairs):
            raise TpoError(
                f"judge._target_={self.name}: compare returned {len(found)} judgements of {len(pairs)} pairs"
            )
        _check(found, self.name)
        return found


def _call(method: Callable[[Sequence[Candidates]], Any], candidates: Sequence[Candidates], name: str) -> list[Any]:
    try:
        found = method(candidates)
    except TpoError:
        raise
    except Exception as error:  # whatever a class of the user's does
        line = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{line.filename}, line {line.lineno}"
        raise TpoError(f"judge._target_={name} failed: {type(error).__name__}: {error} ({where})") from error
    if not isinstance(found, list):
        raise TpoError(f"judge._target_={name}: expected a list of judgements, not {type(found).__name__}")
    return found


def _check(judgements: Sequence[Any], name: str) -> None:
    for judgement in judgements:
        if not isinstance(judgement, Judgement):
            raise TpoError(f"judge._target_={name}: expected a Judgement, not {judgement!r}")
        if (judgement.value is None) == (judgement.unscored_reason is None):
            raise TpoError(f"judge._target_={name}: {judgement!r} has to have a value, or else a reason for none")
        if judgement.value is not None and not math.isfinite(judgement.value):
            raise TpoError(f"judge._target_={name}: {judgement!r} is no finite number; Judgement(None, reason) is none")
