"""Who won on each instruction that two sides answered, where that can be said, and by what.

Scores compare where the same judge gave both, each response by itself. A judge that compares responses with a
baseline's says which side does better against the same one. Between other judges a program may still decide, which
checks both sides alike. Nobody wins otherwise: scores of different judges have no unit in common.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from tpo.results.rate import Rate
from tpo.results.sides import Answers, Side
from tpo.results.stats import mean_interval
from tpo.results.winrate import outcome
from tpo.store.records import Prompt

Decide = Callable[[Answers, Answers], float | None]
#: What came out for the second side.
OUTCOMES = ("first", "second", "tie", "undecided")


@dataclass(frozen=True)
class Versus:
    """Two sides on the instructions that both answered.

    Attributes:
        by: What decides: "score", "comparison", "checks", or "" where nothing can.
        text: The same for people, in a sentence.
        wins: By prompt_id, the second's win over the first: 1, 0, one half for a tie, a preference in between; None
            where nobody is said to have won.
    """

    by: str
    text: str
    wins: Mapping[str, float | None]

    def outcome(self, prompt_id: str) -> str:
        """Return which of `OUTCOMES` came out."""
        win = self.wins[prompt_id]
        return "undecided" if win is None else "tie" if win == 0.5 else "second" if win > 0.5 else "first"

    def counts(self, prompt_ids: Sequence[str]) -> dict[str, int]:
        """Return how often each of `OUTCOMES` came out."""
        found = Counter(self.outcome(prompt_id) for prompt_id in prompt_ids)
        return {name: found[name] for name in OUTCOMES}

    def rate(self, prompts: Sequence[Prompt], *, confidence: float) -> Rate:
        """Return the second's win rate over the first, a tie one half, its interval clustered by base instruction."""
        decided = [(win, prompt.base_id) for prompt in prompts if (win := self.wins[prompt.prompt_id]) is not None]
        if not decided:
            return Rate(None, None, 0, len(prompts))
        values, clusters = zip(*decided, strict=True)
        interval = mean_interval(values, confidence=confidence, clusters=clusters)
        return Rate(mean(values), interval, len(values), len(prompts) - len(values))


def versus(sides: tuple[Side, Side], answers: tuple[Mapping[str, Answers], Mapping[str, Answers]]) -> Versus:
    """Return who won on every instruction that both sides answered.

    Args:
        sides: The first and the second.
        answers: Theirs to the same instructions.
    """
    by, text, decide = _rule(*sides, has_checks=any(one.passed for one in answers[0].values()))
    first, second = answers
    return Versus(by, text, {name: decide(first[name], second[name]) for name in second if name in first})


def _rule(first: Side, second: Side, *, has_checks: bool) -> tuple[str, str, Decide]:
    judge = second.judge
    if first.judge_id == second.judge_id:
        if first.is_scored_alone and second.is_scored_alone:
            loses = first.loses_without_response and second.loses_without_response
            text = f"The higher score by the judge, {judge}, wins"
            return "score", f"{text}, and no response loses." if loses else f"{text}.", _by_score(loses=loses)
        if first.baseline_id == second.baseline_id:
            direct = f"The judge, {judge}, compared the two."
            if first.is_baseline:
                return "comparison", direct, lambda _, policy: policy.win
            if second.is_baseline:
                return "comparison", direct, lambda policy, _: None if policy.win is None else 1 - policy.win
            text = f"What does better against the same baseline's answers, by the judge, {judge}, wins."
            return "comparison", text, _by_comparison
        why = f"The judge, {judge}, compared the two sides with different baselines"
    elif first.judge != second.judge:
        why = f"The judges differ, {first.judge} and {judge}, and their scores do not compare"
    else:
        why = f"The judges differ, both {judge}, by settings or model, and their scores do not compare"
    if has_checks:
        return "checks", f"{why}: the one that passes all checks wins.", _by_checks
    return "", f"{why}; without checks nobody is said to have won.", lambda *_: None


def _by_score(*, loses: bool) -> Decide:
    """Decide as a comparison of a run does: each sample meets each, equal responses tie, no response may lose."""

    def meet(ours: tuple[str | None, float | None], theirs: tuple[str | None, float | None]) -> float | None:
        (text, score), (other_text, other) = ours, theirs
        if text is None or other_text is None:
            return outcome(text is not None, other_text is not None) if loses else None
        if text == other_text:
            return 0.5
        return None if score is None or other is None else outcome(score, other)

    def decide(first: Answers, second: Answers) -> float | None:
        left, right = (
            [(sample.response, score) for sample, score in zip(side.samples, side.scores, strict=True)]
            for side in (first, second)
        )
        met = [win for ours in right for theirs in left if (win := meet(ours, theirs)) is not None]
        return mean(met) if met else None

    return decide


def _by_comparison(first: Answers, second: Answers) -> float | None:
    return None if first.win is None or second.win is None else outcome(second.win, first.win)


def _by_checks(first: Answers, second: Answers) -> float | None:
    ours, theirs = second.share_passed, first.share_passed
    return None if ours is None or theirs is None else outcome(ours, theirs)
