"""A judge of the user's own: a class with `score`, or with `compare` (`tpo.judge.protocol`)."""

import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
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

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield one judgement per response, in the order given.

        Raises:
            TpoError: If the class fails, or yields anything else.
        """
        for item, group in _answers(self.judge.score, candidates, self.name):
            if not isinstance(group, list) or len(group) != len(item.responses):
                raise TpoError(
                    f"judge._target_={self.name}: expected a list of {len(item.responses)} judgements, one for each "
                    f"response, not {group!r:.200}"
                )
            for judgement in group:
                _check(judgement, self.name)
            yield group


class CheckedPairwiseJudge:
    """The same for a judge that compares."""

    def __init__(self, judge: PairwiseJudge, name: str) -> None:
        """Wrap `judge`, a class of this name."""
        self.judge, self.name = judge, name

    def compare(self, pairs: Iterable[Candidates]) -> Iterator[Judgement]:
        """Yield one judgement per pair, in the order given.

        Raises:
            TpoError: If the class fails, or yields anything else.
        """
        for _, judgement in _answers(self.judge.compare, pairs, self.name):
            _check(judgement, self.name)
            yield judgement


def _answers(
    method: Callable[[Iterable[Candidates]], Any], candidates: Iterable[Candidates], name: str
) -> Iterator[tuple[Candidates, Any]]:
    """Yield what a method yields, each answer with what it is about.

    Raises:
        TpoError: If it fails, or yields more or less than an answer for each of `candidates`.
    """
    waiting: deque[Candidates] = deque()  # taken, and not yet answered

    def taken() -> Iterator[Candidates]:
        for item in candidates:
            waiting.append(item)
            yield item

    given = taken()
    try:
        found = method(given)
        if not isinstance(found, Iterable):
            raise TpoError(f"judge._target_={name}: expected judgements that are yielded, not {type(found).__name__}")
        for answer in found:
            if not waiting:
                raise TpoError(f"judge._target_={name}: more was yielded than an answer for each of the instructions")
            yield waiting.popleft(), answer
    except TpoError:
        raise
    except Exception as error:  # whatever a class of the user's does
        line = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{line.filename}, line {line.lineno}"
        raise TpoError(f"judge._target_={name} failed: {type(error).__name__}: {error} ({where})") from error
    if waiting or next(given, None) is not None:
        raise TpoError(f"judge._target_={name}: less was yielded than an answer for each of the instructions")


def _check(judgement: Any, name: str) -> None:
    if not isinstance(judgement, Judgement):
        raise TpoError(f"judge._target_={name}: expected a Judgement, not {judgement!r:.200}")
    if (judgement.value is None) == (judgement.unscored_reason is None):
        raise TpoError(f"judge._target_={name}: {judgement!r} has to have a value, or else a reason for none")
