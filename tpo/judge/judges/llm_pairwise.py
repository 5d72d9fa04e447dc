"""A language model that compares two responses and writes its reasons, then a verdict: the LLM-as-a-judge of the paper.

It judges each pair as shown. Against position bias the caller asks for both orders.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from tpo.config.fields import setting
from tpo.judge.llm.ask import load_llm
from tpo.judge.llm.question import Answer, Question
from tpo.judge.llm.settings import PromptedLLMConfig
from tpo.judge.protocol import Candidates, Judgement, PairwiseJudge, PairwiseJudgeConfig
from tpo.judge.verdicts import MENUS, fill, parse_verdict, require_places
from tpo.model.policy import Policy


@dataclass
class PairwiseLLMJudge(PromptedLLMConfig, PairwiseJudgeConfig):
    """Which model is asked what, and what its verdicts count."""

    kind: str = setting("llm_pairwise")
    verdicts: str = setting(choices=tuple(MENUS))
    strong_weight: float = setting(3.0, minimum=1)

    def check(self, at: str) -> None:
        """Check that the prompt holds what is judged."""
        super().check(at)
        require_places(f"{at}.prompt", self.prompt, ("{instruction}", "{first}", "{second}"))

    def make(self, *, policy: Policy | None, answers_path: Path) -> PairwiseJudge:
        """Return the judge; the model is started, or its server reached, when there is something to ask."""
        return PairwiseLLM(self, policy=policy, cache_path=answers_path)


class PairwiseLLM:
    """Asks for a verdict on each pair."""

    def __init__(self, settings: PairwiseLLMJudge, *, policy: Policy | None, cache_path: Path) -> None:
        """Set up the judge.

        Args:
            settings: Of the judge.
            policy: The seed model, for a judge without a model of its own.
            cache_path: File that keeps the answers.
        """
        self.settings = settings
        self.llm = load_llm(settings, policy=policy, cache_path=cache_path)

    def compare(self, pairs: Iterable[Candidates]) -> Iterator[Judgement]:
        """Yield one judgement per pair, in order; equal pairs are asked about once."""
        for answer in self.llm.ask(map(self._question, pairs)):
            yield self._decide(answer)

    def _question(self, pair: Candidates) -> Question:
        return Question(
            system=self.settings.system,
            user=fill(
                self.settings.prompt, instruction=pair.instruction, first=pair.responses[0], second=pair.responses[1]
            ),
            temperature=self.settings.temperature,
            max_tokens=self.settings.max_tokens,
        )

    def _decide(self, answer: Answer) -> Judgement:
        if answer.error is not None:
            return Judgement(None, answer.error, weight=0.0)
        judgement = parse_verdict(
            answer.text,
            verdicts=self.settings.verdicts,
            strong_weight=self.settings.strong_weight,
            is_cut=answer.is_cut,
        )
        return judgement._replace(raw=answer.text, num_tokens=answer.num_tokens)
