"""A language model that grades one response at a time by a rubric.

With `use_logprobs` the score is the expected value over the grades that the model might have written, which tells apart
responses with the same grade.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tpo.config.fields import ConfigError, setting
from tpo.judge.llm.ask import load_llm
from tpo.judge.llm.question import Answer, Question
from tpo.judge.llm.settings import PromptedLLMConfig
from tpo.judge.protocol import Candidates, Judge, Judgement, PointwiseJudgeConfig
from tpo.judge.verdicts import ParsedScore, expected_score, fill, parse_score, require_places
from tpo.model.policy import Policy
from tpo.store.errors import TpoError

log = logging.getLogger(__name__)

NUM_SURE = 20  # grades, of which none has log-probabilities where it stands: then none ever will


@dataclass
class PointwiseLLMJudge(PromptedLLMConfig, PointwiseJudgeConfig):
    """Which model is asked what, and the range of its scores."""

    kind: str = setting("llm_pointwise")
    min_score: int = setting(1)
    max_score: int = setting(5)
    use_logprobs: bool = setting(True)

    def check(self, at: str) -> None:
        """Check that the prompt holds what is judged, and that the scores are a range that can be read."""
        super().check(at)
        require_places(f"{at}.prompt", self.prompt, ("{instruction}", "{response}"))
        if self.min_score >= self.max_score:
            raise ConfigError(f"{at}.min_score={self.min_score} must be below {at}.max_score={self.max_score}")
        if self.use_logprobs and not (self.min_score >= 0 and self.max_score <= 9):
            raise ConfigError(f"{at}.use_logprobs needs scores of one digit, 0 to 9: one token has to hold a score")

    def make(self, *, policy: Policy | None, answers_path: Path) -> Judge:
        """Return the judge; the model is started, or its server reached, when there is something to ask."""
        return PointwiseLLM(self, policy=policy, cache_path=answers_path)


class PointwiseLLM:
    """Asks for a score of each response."""

    def __init__(self, settings: PointwiseLLMJudge, *, policy: Policy | None, cache_path: Path) -> None:
        """Set up the judge.

        Args:
            settings: Of the judge.
            policy: The seed model, for a judge without a model of its own.
            cache_path: File that keeps the answers.
        """
        self.settings, self.low, self.high = settings, settings.min_score, settings.max_score
        self.watch = tuple(str(score) for score in range(self.low, self.high + 1)) if settings.use_logprobs else ()
        self.llm = load_llm(settings, policy=policy, cache_path=cache_path)
        self._num_graded = self._num_unwatched = self._num_whole = 0

    def score(self, candidates: Iterable[Candidates]) -> Iterator[list[Judgement]]:
        """Yield one judgement per response; equal responses to one instruction are asked about once.

        Raises:
            TpoError: If expected values are wanted, and the model's grades have no log-probabilities.
        """
        self._num_graded = self._num_unwatched = self._num_whole = 0
        waiting: deque[Candidates] = deque()  # taken, and not yet judged whole

        def questions() -> Iterator[Question]:
            for item in candidates:
                waiting.append(item)
                for response in item.responses:
                    yield self._question(item.instruction, response)

        judged: list[Judgement] = []
        for answer in self.llm.ask(questions()):
            while not waiting[0].responses:
                waiting.popleft()
                yield []
            judged.append(self._judge(answer))
            if len(judged) == len(waiting[0].responses):
                waiting.popleft()
                yield judged
                judged = []
        for _ in waiting:  # without a response
            yield []
        if self._num_whole:
            log.warning(
                "%d of %d grades are whole numbers, not expected values: %d have no log-probabilities where they "
                "stand, and of the others the judge hardly meant a grade",
                self._num_whole,
                self._num_graded,
                self._num_unwatched,
            )

    def _question(self, instruction: str, response: str) -> Question:
        return Question(
            system=self.settings.system,
            user=fill(self.settings.prompt, instruction=instruction, response=response),
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens,
            watch=self.watch,
        )

    def _judge(self, answer: Answer) -> Judgement:
        if answer.error is not None:
            return Judgement(None, answer.error)
        parsed = parse_score(answer.text, low=self.low, high=self.high, is_cut=answer.is_cut)
        if parsed.value is None:
            return Judgement(None, parsed.unscored_reason, answer.text, answer.num_tokens)
        value = float(parsed.value) if not self.watch else self._expected(answer, parsed)
        return Judgement(value, None, answer.text, answer.num_tokens)

    def _expected(self, answer: Answer, parsed: ParsedScore) -> float:
        """Return the expected grade; where the judge hardly meant one, or it stands in no token, what was written."""
        watched = dict(answer.watched)
        self._num_graded += 1
        self._num_unwatched += parsed.position not in watched
        if self._num_unwatched == self._num_graded == NUM_SURE:
            raise TpoError(
                f"judge.use_logprobs: none of {NUM_SURE} grades has log-probabilities where it stands, so that scores "
                "would be whole numbers: the model writes a grade together with other characters in one token, or its "
                "server puts a thought apart and does not show where it ends. Set judge.use_logprobs=false, or take "
                "another model"
            )
        expected = expected_score(watched.get(parsed.position, {}), low=self.low, high=self.high)
        self._num_whole += expected is None
        return float(parsed.value or 0) if expected is None else expected
