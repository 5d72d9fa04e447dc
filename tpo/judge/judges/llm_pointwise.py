"""A language model that grades one response at a time by a rubric.

Where the model gives probabilities, the score is the expected value over the grades that it might have written, which
tells apart responses with the same grade.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tpo.judge.llm.ask import load_llm
from tpo.judge.llm.question import Answer, Question
from tpo.judge.protocol import Candidates, Judgement
from tpo.judge.verdicts import expected_score, fill, parse_score
from tpo.model.policy import Policy
from tpo.store.errors import TpoError


class PointwiseLLM:
    """Asks for a score of each response."""

    def __init__(self, config: dict[str, Any], *, policy: Policy | None, cache_path: Path) -> None:
        """Set up the judge; the model is started, or its server reached, when there is something to ask.

        Args:
            config: The `judge` group as a dictionary.
            policy: The seed model, for a judge without a model of its own.
            cache_path: File that keeps the answers.

        Raises:
            TpoError: If the prompt lacks a text that is to be judged, or the range of scores cannot be used.
        """
        missing = [name for name in ("{instruction}", "{response}") if name not in config["prompt"]]
        if missing:
            raise TpoError(f"judge.prompt has no {' and no '.join(missing)}")
        self.low, self.high = config["min_score"], config["max_score"]
        if self.low >= self.high:
            raise TpoError(f"judge.min_score={self.low} must be below judge.max_score={self.high}")
        self.watch = tuple(str(score) for score in range(self.low, self.high + 1)) if config["use_logprobs"] else ()
        if any(len(score) > 1 for score in self.watch):
            raise TpoError("judge.use_logprobs needs scores of one digit, 0 to 9: one token has to hold a score")
        self.config = config
        self.llm = load_llm(config, policy=policy, cache_path=cache_path)

    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return one judgement per response; equal responses to one instruction are asked about once."""
        answers = iter(
            self.llm.ask(
                [self._question(item.instruction, response) for item in candidates for response in item.responses]
            )
        )
        return [[self._judge(next(answers)) for _ in item.responses] for item in candidates]

    def _question(self, instruction: str, response: str) -> Question:
        return Question(
            system=self.config["system"],
            user=fill(self.config["prompt"], instruction=instruction, response=response),
            temperature=self.config["temperature"],
            max_tokens=self.config["max_tokens"],
            watch=self.watch,
        )

    def _judge(self, answer: Answer) -> Judgement:
        if answer.error is not None:
            return Judgement(None, answer.error)
        parsed = parse_score(answer.text, low=self.low, high=self.high, is_cut=answer.is_cut)
        if parsed.value is None:
            return Judgement(None, parsed.unscored_reason, answer.text, answer.num_tokens)
        # Where the judge hardly meant a score, or its server gives no probabilities, what it wrote counts as it is.
        alternatives = dict(answer.watched).get(parsed.position, {})
        expected = expected_score(alternatives, low=self.low, high=self.high)
        return Judgement(float(parsed.value) if expected is None else expected, None, answer.text, answer.num_tokens)
