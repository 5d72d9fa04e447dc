"""A chat model behind a cache of answers, which is never asked the same question twice."""

import logging
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from itertools import chain
from pathlib import Path

from tpo.judge.llm.cache import AnswerCache, Asked
from tpo.judge.llm.question import UNANSWERED, Answer, Backend, Question
from tpo.judge.llm.settings import LLMConfig
from tpo.model.policy import Policy
from tpo.store.errors import TpoError

log = logging.getLogger(__name__)

LOOK_AHEAD = 8192  # questions that may be taken behind one that has no answer yet


class LLM:
    """A chat model that is never asked the same question twice."""

    def __init__(self, backend: Backend, cache_path: Path, *, max_calls: int | None) -> None:
        """Set up the model; nothing is started or opened before the first question.

        Args:
            backend: Who answers.
            cache_path: File that keeps the answers.
            max_calls: Most answers of this model that the file may come to hold, those of earlier runs
                included; None sets no limit.
        """
        self.backend, self.max_calls = backend, max_calls
        self.cache = AnswerCache(cache_path)

    def ask(self, questions: Iterable[Question]) -> Iterator[Answer]:
        """Yield one answer per question, in order; answers in the cache, of any run, are not asked for again.

        Questions are taken as the model has room for them, those with an answer in the cache one by one until the
        first without. Where `LOOK_AHEAD` questions wait behind one whose answer takes long, no more are taken until
        that answer is there.

        Behind a question that a server has left unanswered the others are asked, and nothing is yielded: a judgement
        of what is yielded is kept for good, and that question's answer may come when it is asked again.

        Raises:
            TpoError: If the model cannot be asked, the budget is spent, or, after all others, a question is unanswered.
                Answers that came before are kept.
        """
        asking = _Asking(self, questions)
        is_whole = True
        for answer in asking.answers():
            is_whole = is_whole and answer != UNANSWERED
            if is_whole:
                yield answer
        log.info("%d questions: %d answered before, %d asked", asking.num_taken, asking.num_found, asking.num_asked)
        if asking.errors:
            reasons = ", ".join(f"{count} {reason}" for reason, count in sorted(asking.errors.items()))
            total = asking.errors.total()
            more = "; they are unscored for good, and tpo/judge/README.md says how to ask again" if is_whole else ""
            log.warning("%d of %d questions have no answer: %s%s", total, asking.num_taken, reasons, more)
        if not is_whole:
            raise TpoError(
                f"{asking.errors['unanswered']} of {asking.num_taken} questions were answered with nothing, as often "
                f"as judge.server.max_retries allows. All other answers are kept in {self.cache.path}: see to the "
                "server and run the same command again, which asks these again, or set judge.server.accepts_empty=true "
                "to leave them unscored"
            )


class _Asking:
    """The questions of one call of `LLM.ask`, from being taken to being answered."""

    def __init__(self, llm: LLM, questions: Iterable[Question]) -> None:
        self._llm = llm
        self._model = llm.backend.identity()
        self._left = (Asked(self._model, question) for question in questions)
        self._order: deque[str] = deque()  # keys of the questions that were taken and whose turn is to come
        self._uses: Counter[str] = Counter()  # how often each key is in that order
        self._answers: dict[str, Answer] = {}  # to these, as far as known
        self._in_flight: dict[str, Asked] = {}
        self._budget: int | None = None  # calls that are left; None until the first
        self._is_spent = False
        self.num_taken = self.num_found = self.num_asked = 0
        self.errors: Counter[str] = Counter()  # questions without an answer, by reason

    def answers(self) -> Iterator[Answer]:
        """Yield the answers in order."""
        for asked in self._left:
            found = self._llm.cache.find(asked)
            if found is None:
                yield from self._answers_from(chain([asked], self._left))
                continue
            self.num_taken, self.num_found = self.num_taken + 1, self.num_found + 1
            yield found

    def _answers_from(self, asked: Iterator[Asked]) -> Iterator[Answer]:
        """Yield answers from the first question on that is not in the cache, while the model answers."""
        cache = self._llm.cache
        for key, answer in self._llm.backend.stream(self._missing(asked)):
            item = self._in_flight.pop(key)
            # No other is known here to a later judgement: a server that was mended answers it. The judgement that is
            # made now keeps it for good, as unscored, but for what is unanswered: see `LLM.ask`.
            self._answers[key] = cache.put(item, answer) if answer.is_whole(item.question) else answer
            yield from self._ready()
        yield from self._ready()  # what the cache answered behind the last of these
        if self._is_spent:
            raise TpoError(
                f"the judge's budget is spent: {cache.count(self._model)} calls were made, judge.max_calls="
                f"{self._llm.max_calls}, and questions are still open. The answers are kept in {cache.path}: raise "
                "judge.max_calls and run the same command again"
            )

    def _missing(self, asked: Iterator[Asked]) -> Iterator[tuple[str, Question]]:
        """Yield the questions that the model has to answer."""
        while len(self._order) < LOOK_AHEAD:
            item = next(asked, None)
            if item is None:
                return
            key = item.key
            is_known = key in self._answers or key in self._in_flight
            found = None if is_known else self._llm.cache.find(item)
            if found is not None:
                self._answers[key] = found
                self.num_found += 1
            is_asked = not is_known and found is None
            if is_asked and not self._may_call():
                self._is_spent = True
                return
            self.num_taken += 1
            self._order.append(key)
            self._uses[key] += 1
            if is_asked:
                self.num_asked += 1
                self._in_flight[key] = item
                yield key, item.question

    def _may_call(self) -> bool:
        """Return whether one more call is within the budget, which is then one less."""
        if self._llm.max_calls is None:
            return True
        if self._budget is None:
            self._budget = self._llm.max_calls - self._llm.cache.count(self._model)
        self._budget -= 1
        return self._budget >= 0

    def _ready(self) -> Iterator[Answer]:
        """Yield the answers whose turn it is."""
        while self._order and self._order[0] in self._answers:
            key = self._order.popleft()
            answer = self._answers[key]
            self._uses[key] -= 1
            if not self._uses[key]:
                del self._uses[key], self._answers[key]
            if answer.error is not None:
                self.errors[answer.error] += 1
            yield answer


def load_llm(settings: LLMConfig, *, policy: Policy | None, cache_path: Path) -> LLM:
    """Return the model that is asked for; nothing is started before the first question.

    Args:
        settings: `backend` selects where the model runs.
        policy: The seed model, used where the backend is vllm and `name` is None.
        cache_path: File that keeps the answers.
    """
    backend: Backend
    match settings.backend:
        case "vllm":
            from tpo.judge.llm.local import LocalBackend

            backend = LocalBackend(settings, policy)
        case "server":
            from tpo.judge.llm.server import ServerBackend

            backend = ServerBackend(settings)
        case kind:
            raise ValueError(f"judge.backend={kind}: expected vllm or server")
    return LLM(backend, cache_path, max_calls=settings.max_calls)
