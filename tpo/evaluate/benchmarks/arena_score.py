"""Scores of Arena-Hard: two games per question, the policy against the baseline, as `Verdict` rows. Pure numpy.

In these rows response 0 is the policy's, response 1 the baseline's, and each question is played in both orders. A
verdict's weight says how many games it counts for: 3 for [[A>>B]] and [[B>>A]].

The official intervals are of other make. They resample *games*, a strong verdict as three separate ones, as if a
question's two games, and one verdict's three copies, were independent, which makes them too narrow; v0.1's script draws
100 resamples for 95 %, v2.0's 100 without a seed for 90 %. The ones here resample questions, seeded.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tpo.evaluate.benchmarks import Benchmark
from tpo.results.rate import Interval, Rate
from tpo.results.stats import percentile_interval
from tpo.store.records import Response, Verdict
from tpo.store.seeds import derive_seed

POLICY, BASELINE = 0, 1  # sample indices
NUM_RESAMPLES = 10_000

Games = tuple[Verdict, Verdict]  # the baseline shown first, then the policy: the benchmark's order


class ArenaScore(NamedTuple):
    """A score, and what it can be compared with."""

    score: Rate  # the policy's in [0, 1], its own against itself is 0.5; rows are games, one of weight 3 being one
    version: str  # "v0.1" or "v2.0"; scores of different versions cannot be compared
    baseline: str  # nor can those against different baselines
    unscored_reasons: dict[str, int]  # reason -> how many of the unscored games

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return {**self._asdict(), "score": self.score.to_dict()}


def complete_verdicts(
    verdicts: Sequence[Verdict],
    benchmark: Benchmark,
    responses: Sequence[Response],
    *,
    no_response: str,
) -> list[Verdict]:
    """Return two verdicts on every question: the judge's, and those on questions that it was not asked about.

    `tpo.judge.score.collect_verdicts` asks the judge nothing where two texts are equal or one is missing. Then follow:

    - a response equal to the baseline's: two ties;
    - no response: two losses, or two unscored games with the response's error as the reason;
    - no answer of the baseline's: two unscored games ("baseline: ...").

    Args:
        verdicts: The judge's, policy 0 against baseline 1.
        benchmark: All questions.
        responses: The policy's, one per prompt.
        no_response: What becomes of a question that the policy has no response to.

    Raises:
        ValueError: If a question has no response, or has two different ones and no verdict.
    """
    judged = {verdict.prompt_id for verdict in verdicts}
    policy = {row.prompt_id: row for row in responses}
    completed = list(verdicts)
    for baseline in benchmark.baseline:
        key = baseline.prompt_id
        if key in judged:
            continue
        if key not in policy:
            raise ValueError(f"prompt {key}: no response row of the policy")
        response = policy[key]
        win: float | None = None
        reason = None
        if not baseline.text:
            reason = f"baseline: {baseline.error or 'empty'}"
        elif not response.text and no_response == "unscored":
            reason = response.error or "empty"
        elif not response.text:
            win = 0.0
        elif response.text == baseline.text:
            win = 0.5
        else:
            raise ValueError(f"prompt {key}: the two responses differ, but there is no verdict")
        weight = 0.0 if win is None else 1.0
        completed += [
            Verdict(key, BASELINE, POLICY, None if win is None else 1 - win, weight, reason, None, 0),
            Verdict(key, POLICY, BASELINE, win, weight, reason, None, 0),
        ]
    return completed


def pair_games(verdicts: Sequence[Verdict]) -> dict[str, Games]:
    """Return prompt id -> its two games, the one that shows the baseline first, first.

    Raises:
        ValueError: If a prompt has not exactly one verdict in each order, or a verdict is on other responses or its
            outcome or weight is not one of a game.
    """
    orders: dict[str, dict[int, Verdict]] = {}
    for verdict in verdicts:
        where = f"prompt {verdict.prompt_id}"
        if {verdict.first_index, verdict.second_index} != {POLICY, BASELINE}:
            raise ValueError(f"{where}: a verdict on responses {verdict.first_index} and {verdict.second_index}")
        if verdict.outcome is not None and not (0 <= verdict.outcome <= 1 and 0 < verdict.weight < math.inf):
            raise ValueError(f"{where}: outcome {verdict.outcome} with weight {verdict.weight} is no game")
        games = orders.setdefault(verdict.prompt_id, {})
        if verdict.first_index in games:
            raise ValueError(f"{where}: two verdicts in the same order")
        games[verdict.first_index] = verdict
    for key, games in orders.items():
        if len(games) != 2:
            raise ValueError(f"prompt {key}: a verdict in one order only")
    return {key: (games[BASELINE], games[POLICY]) for key, games in orders.items()}


def arena_score(
    verdicts: Sequence[Verdict], *, seed: int, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> ArenaScore:
    r"""Return the score of Arena-Hard v0.1: the chance to beat gpt-4-0314 in the Bradley-Terry model.

    The official script fits the strengths s of all models at once by maximum likelihood, a tie being half a win
    each, and prints sigmoid(s_policy - s_baseline). Since every game is against the baseline, the likelihood is a
    product of one factor per model, and the maximum has a closed form that needs no other model:

        score = sum_games weight * points / sum_games weight,    points 1, 1/2 or 0.

    Where one side won all games the strengths are infinite; the score is their limit, 1 or 0. A game without a
    verdict is left out and the question's other one counts, as in the official script. The interval is the percentile
    bootstrap over questions. It has width zero where all questions have the same points, which says that nothing
    varied, not that the score is certain.

    Args:
        verdicts: Two per question (`complete_verdicts`).
        seed: Of the bootstrap.
        confidence: Nominal coverage in (0, 1).
        num_resamples: Of the bootstrap.

    Raises:
        ValueError: As `pair_games` does.
    """
    return _score(
        pair_games(verdicts),
        dropped={},
        version="v0.1",
        baseline="gpt-4-0314",
        what="Bradley-Terry chance to beat the baseline, maximum likelihood over games",
        seed=seed,
        confidence=confidence,
        num_resamples=num_resamples,
    )


def arena_score_v2(
    verdicts: Sequence[Verdict],
    *,
    baseline: str,
    seed: int,
    confidence: float = 0.95,
    num_resamples: int = NUM_RESAMPLES,
) -> ArenaScore:
    """Return the score of Arena-Hard v2.0 without style control: the mean of the points over all games.

    The official `show_result.py` without `-f` takes the mean over games in which a strong verdict stands three times
    (so it is no mean of questions' scores), and of a question with one unscored game it drops both; the other one is
    counted here as "other_game_unscored". The published leaderboard of hard prompts controls for style (`-f markdown
    length`) and is not comparable with this number; export the verdicts and run the official script for that.

    Args:
        verdicts: Two per question, all of questions with this baseline.
        baseline: "o3-mini-2025-01-31" or "gemini-2.0-flash-001"; each has a score of its own.
        seed: Of the bootstrap over questions, as in `arena_score`.
        confidence: Nominal coverage in (0, 1).
        num_resamples: Of the bootstrap.

    Raises:
        ValueError: As `pair_games` does.
    """
    games = pair_games(verdicts)
    whole = {key: pair for key, pair in games.items() if all(game.outcome is not None for game in pair)}
    return _score(
        whole,
        dropped={key: pair for key, pair in games.items() if key not in whole},
        version="v2.0",
        baseline=baseline,
        what="mean over games of questions with both games scored, no style control",
        seed=seed,
        confidence=confidence,
        num_resamples=num_resamples,
    )


def _score(
    games: Mapping[str, Games],
    *,
    dropped: Mapping[str, Games],
    version: str,
    baseline: str,
    what: str,
    seed: int,
    confidence: float,
    num_resamples: int,
) -> ArenaScore:
    rows = [game for pair in games.values() for game in pair]
    reasons = Counter(game.unscored_reason or "unknown" for game in rows if game.outcome is None)
    reasons.update(game.unscored_reason or "other_game_unscored" for pair in dropped.values() for game in pair)
    totals = [_points(games[key]) for key in sorted(games)]  # so that the interval does not depend on the rows' order
    points, weights = np.array([total for total in totals if total[1] > 0]).reshape(-1, 2).T
    score = Rate(
        rate=math.fsum(points) / math.fsum(weights) if len(points) else None,
        interval=_bootstrap(points, weights, seed=seed, confidence=confidence, num_resamples=num_resamples),
        num_prompts=len(points),
        num_unscored=reasons.total(),
        num_rows=sum(game.outcome is not None for game in rows),
        estimator=f"{what}, by weight, ties one half; percentile bootstrap over questions, {num_resamples} resamples",
    )
    return ArenaScore(score, version, baseline, dict(sorted(reasons.items())))


def _points(games: Games) -> tuple[float, float]:
    """Return the policy's points in one question's games, and how many there were to win."""
    points = weights = 0.0
    for game in games:
        if game.outcome is not None:
            points += game.weight * (game.outcome if game.first_index == POLICY else 1 - game.outcome)
            weights += game.weight
    return points, weights


def _bootstrap(
    points: NDArray[np.float64],
    weights: NDArray[np.float64],
    *,
    seed: int,
    confidence: float,
    num_resamples: int,
) -> Interval | None:
    """Return the percentile interval of sum(points) / sum(weights) over resampled questions."""
    count = len(points)
    if count < 2:
        return None
    generator = np.random.default_rng(derive_seed(seed, "arena_hard"))
    copies = generator.multinomial(count, np.full(count, 1 / count), size=num_resamples)  # of each question
    scores = (copies @ points) / (copies @ weights)
    return percentile_interval(scores, confidence=confidence)
