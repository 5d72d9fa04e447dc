"""A chat model behind a cache of answers, which is never asked the same question twice."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tpo.judge.llm.question import Answer, Backend, Question
from tpo.judge.llm.settings import LLMConfig
from tpo.model.policy import Policy
from tpo.store.errors import TpoError

log = logging.getLogger(__name__)


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
        from tpo.judge.llm.cache import AnswerCache

        self.backend, self.max_calls = backend, max_calls
        self.cache = AnswerCache(cache_path)

    def ask(self, questions: Sequence[Question]) -> list[Answer]:
        """Return one answer per question, in order; answers in the cache, of any run, are not asked for again.

        Raises:
            TpoError: If the model cannot be asked or the budget is spent. Answers that came before are kept.
        """
        from tpo.judge.llm.cache import Asked

        if not questions:
            return []
        identity = self.backend.identity()
        asked = [Asked(identity, question) for question in questions]
        answers = self.cache.find(item.key for item in asked)
        missing = {item.key: item for item in asked if item.key not in answers}

        def save(key: str, answer: Answer) -> None:
            # A question that does not fit is cheap to ask again, and a server restarted with a longer context answers.
            answers[key] = answer if answer.error else self.cache.put(missing[key], answer)

        allowed = self._allowed(identity, len(missing))
        log.info("%d questions: %d answered before, %d to ask", len(asked), len(answers), len(missing))
        if missing and allowed > 0:
            self.backend.answer({key: missing[key].question for key in list(missing)[:allowed]}, save)
        if allowed < len(missing):
            raise TpoError(
                f"the judge's budget is spent: {self.cache.count(identity)} calls were made, judge.max_calls="
                f"{self.max_calls}, and {len(missing) - allowed} questions are still open. The answers are kept in "
                f"{self.cache.path}: raise judge.max_calls and run the same command again"
            )
        unanswered = sum(answers[item.key].error is not None for item in asked)
        if unanswered:
            log.warning("%d of %d questions are too long for the model's context", unanswered, len(asked))
        return [answers[item.key] for item in asked]

    def _allowed(self, identity: dict[str, Any], num_missing: int) -> int:
        if self.max_calls is None:
            return num_missing
        return min(num_missing, max(0, self.max_calls - self.cache.count(identity)))


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
