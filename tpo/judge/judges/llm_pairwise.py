"""A language model that compares two responses and writes its reasons, then a verdict: the LLM-as-a-judge of the paper.

It decides each match as shown. Against position bias the caller asks for both orders.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tpo.judge.llm.ask import load_llm
from tpo.judge.llm.question import Answer, Question
from tpo.judge.protocol import Decision, Match
from tpo.judge.verdicts import MENUS, fill, parse_verdict
from tpo.model.policy import Policy
from tpo.store.errors import TpoError


class PairwiseLLM:
    """Asks for a verdict on each match."""

    def __init__(self, config: dict[str, Any], *, policy: Policy | None, cache_path: Path) -> None:
        """Set up the judge; the model is started, or its server reached, when there is something to ask.

        Args:
            config: The `judge` group as a dictionary.
            policy: The seed model, for a judge without a model of its own.
            cache_path: File that keeps the answers.

        Raises:
            TpoError: If the prompt lacks a text that is to be judged, or the menu is unknown.
        """
        missing = [name for name in ("{instruction}", "{first}", "{second}") if name not in config["prompt"]]
        if missing:
            raise TpoError(f"judge.prompt has no {' and no '.join(missing)}")
        if config["verdicts"] not in MENUS:
            raise TpoError(f"judge.verdicts={config['verdicts']}: expected {' or '.join(MENUS)}")
        self.config = config
        self.llm = load_llm(config, policy=policy, cache_path=cache_path)

    def compare(self, matches: Sequence[Match]) -> list[Decision]:
        """Return one decision per match, in order; equal matches are asked about once."""
        return [self._decide(answer) for answer in self.llm.ask([self._question(match) for match in matches])]

    def _question(self, match: Match) -> Question:
        return Question(
            system=self.config["system"],
            user=fill(self.config["prompt"], instruction=match.instruction, first=match.first, second=match.second),
            temperature=self.config["temperature"],
            max_tokens=self.config["max_tokens"],
        )

    def _decide(self, answer: Answer) -> Decision:
        if answer.error is not None:
            return Decision(None, answer.error, weight=0.0)
        decision = parse_verdict(
            answer.text,
            verdicts=self.config["verdicts"],
            strong_weight=self.config["strong_weight"],
            is_cut=answer.is_cut,
        )
        return decision._replace(raw=answer.text, num_tokens=answer.num_tokens)
