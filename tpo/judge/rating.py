"""Stage "rate": verdicts on pairs of responses -> one rating per response, as `Score` rows. Pure numpy.

Reads the `Response` rows that were judged and the judge's `Verdict` rows. Every kind of rating gets the verdicts of one
prompt as a matrix of games won; an unscored verdict is left out, and is neither a tie nor a loss.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tpo.config.fields import setting
from tpo.config.groups import RatingConfig
from tpo.store.errors import TpoError
from tpo.store.records import Response, Score, Verdict
from tpo.store.seeds import derive_seed

ELO_START, ELO_SCALE = 1000.0, 400.0
MAX_STEPS = 200  # of Newton; 5 to 10 are usual

Matrix = NDArray[np.float64]


class RatingError(TpoError):
    """Verdicts that the configured rating cannot rate; says what to set instead."""


@dataclass
class Rating(RatingConfig):
    """Settings of a rating, and the rating itself."""

    def rate(self, wins: Matrix, *, seed: int) -> Matrix:
        """Return the ratings (responses,); higher is better.

        Args:
            wins: (responses, responses) from `count_wins`; each has played.
            seed: Of what is random.

        Raises:
            RatingError: If there is no solution for these games.
        """
        raise NotImplementedError


@dataclass
class EloRating(Rating):
    """Elo, averaged over orders of the games."""

    kind: str = setting("elo")
    k_factor: float = setting(above=0)
    num_orders: int = setting(minimum=1)

    def rate(self, wins: Matrix, *, seed: int) -> Matrix:
        """Return the ratings of `elo`."""
        return elo(wins, k_factor=self.k_factor, num_orders=self.num_orders, seed=seed)


@dataclass
class BradleyTerryRating(Rating):
    """The Bradley-Terry model's strengths."""

    kind: str = setting("bradley_terry")
    prior_precision: float = setting(minimum=0)

    def rate(self, wins: Matrix, *, seed: int) -> Matrix:
        """Return the strengths of `bradley_terry`; the seed is not used."""
        return bradley_terry(wins, prior_precision=self.prior_precision)


@dataclass
class WinCountRating(Rating):
    """The fraction of games won."""

    kind: str = setting("win_count")

    def rate(self, wins: Matrix, *, seed: int) -> Matrix:
        """Return the fractions of `win_count`; the seed is not used."""
        return win_count(wins)


def rate_responses(
    responses: Sequence[Response], verdicts: Sequence[Verdict], *, rating: Rating, seed: int
) -> list[Score]:
    """Return one score per response, in the order given.

    Equal texts of one prompt are compared once: verdicts name only the lowest `sample_index` of each text, and all
    responses of that text share its rating. Unscored, with the reason, are a response without text (its own error),
    the only distinct text of a prompt ("no_opponent"), and one without a scored verdict ("no_verdict").

    Args:
        responses: Of any number of prompts.
        verdicts: Of the same prompts, in any order; not every pair needs one.
        rating: How games become ratings.
        seed: Of the orders in which Elo plays the games; the other kinds use none.

    Raises:
        RatingError: If the configured model has no solution for these verdicts.
        ValueError: If a verdict is on a response that is not there or does not represent its text.
    """
    representatives: dict[str, dict[str, int]] = {}
    for row in sorted(responses, key=lambda row: row.sample_index):
        texts = representatives.setdefault(row.prompt_id, {})
        if row.text:
            texts.setdefault(row.text, row.sample_index)
    games: dict[str, list[Verdict]] = {prompt_id: [] for prompt_id in representatives}
    for verdict in verdicts:
        if verdict.prompt_id not in games:
            raise ValueError(
                f"a verdict on prompt {verdict.prompt_id}, which has no response: other responses' verdicts"
            )
        games[verdict.prompt_id].append(verdict)
    ratings = {
        prompt_id: rate(
            games[prompt_id],
            sample_indices=list(texts.values()),
            rating=rating,
            seed=derive_seed(seed, "rate", prompt_id),
        )
        for prompt_id, texts in representatives.items()
    }
    scores = []
    for row in responses:
        texts = representatives[row.prompt_id]
        found = ratings[row.prompt_id][texts[row.text]] if row.text else None
        reason = None
        if not row.text:
            reason = row.error or "empty"
        elif found is None:
            reason = "no_opponent" if len(texts) == 1 else "no_verdict"
        scores.append(Score(row.prompt_id, row.sample_index, found, reason, None, 0))
    return scores


def rate(
    verdicts: Sequence[Verdict], *, sample_indices: Sequence[int], rating: Rating, seed: int
) -> dict[int, float | None]:
    """Return the rating of every response to one prompt; None where it has no scored verdict.

    The result does not depend on the order of the verdicts, to the last bit.

    Args:
        verdicts: On responses of `sample_indices`. One of weight w counts as w games; fractions are allowed.
        sample_indices: The responses to rate, all different.
        rating: How games become ratings.
        seed: Of Elo's orders.

    Raises:
        RatingError: If the configured model has no solution for these verdicts.
        ValueError: If a verdict is on another response, on a response and itself, or its outcome or weight is not
            one of a game.
    """
    wins = count_wins(verdicts, sample_indices=sample_indices)
    played = np.flatnonzero((wins + wins.T).any(axis=1))
    ratings: dict[int, float | None] = dict.fromkeys(sample_indices)
    if len(played) == 0:
        return ratings
    wins = wins[np.ix_(played, played)]
    try:
        values = rating.rate(wins, seed=seed)
    except RatingError as error:
        raise RatingError(f"prompt {verdicts[0].prompt_id}: {error}") from error
    for position, value in zip(played, values, strict=True):
        ratings[sample_indices[position]] = float(value)
    return ratings


def count_wins(verdicts: Sequence[Verdict], *, sample_indices: Sequence[int]) -> Matrix:
    """Return (responses, responses): the weight of the games that row won against column; a tie is half a win each.

    Sums are correctly rounded (`math.fsum`), so that they do not depend on the order of the verdicts.

    Raises:
        ValueError: As `rate` does.
    """
    position = {index: number for number, index in enumerate(sample_indices)}
    won: dict[tuple[int, int], list[float]] = {}
    for verdict in verdicts:
        pair = (verdict.first_index, verdict.second_index)
        if pair[0] == pair[1] or not position.keys() >= set(pair):
            raise ValueError(
                f"prompt {verdict.prompt_id}: a verdict on responses {pair}; expected two different ones of "
                f"{sorted(position)}"
            )
        if verdict.outcome is None:
            continue
        if not (0 <= verdict.outcome <= 1 and 0 < verdict.weight < math.inf):
            raise ValueError(
                f"prompt {verdict.prompt_id}: a verdict with outcome {verdict.outcome} and weight {verdict.weight} is "
                "no game"
            )
        first, second = position[pair[0]], position[pair[1]]
        won.setdefault((first, second), []).append(verdict.weight * verdict.outcome)
        won.setdefault((second, first), []).append(verdict.weight * (1 - verdict.outcome))
    wins = np.zeros((len(position), len(position)))
    for entry, weights in won.items():
        wins[entry] = math.fsum(weights)
    return wins


def win_count(wins: Matrix) -> Matrix:
    """Return the fraction of its games that each response won, in [0, 1]; ties are half won.

    Args:
        wins: (responses, responses) from `count_wins`; each has played.

    Returns:
        (responses,).
    """
    return np.array([math.fsum(won) / math.fsum([*won, *lost]) for won, lost in zip(wins, wins.T, strict=True)])


def bradley_terry(wins: Matrix, *, prior_precision: float) -> Matrix:
    r"""Return the Bradley-Terry strengths with the highest posterior, in nats (log-odds), with mean zero.

        maximize  sum_ij wins_ij log sigmoid(s_i - s_j) - prior_precision / 2 sum_i s_i^2

    Bradley & Terry 1952; the Gaussian prior keeps the strength of a response that won all its games finite. Solved by
    Newton's method, with halved steps where a full one does not increase this concave function. Where all pairs have
    equally many games, the order is that of `win_count` for any prior: at the maximum,
    wins_i = sum_j games sigmoid(s_i - s_j) + prior_precision s_i, whose right side is the same increasing function of
    s_i for every i.

    Args:
        wins: (responses, responses) from `count_wins`; each has played.
        prior_precision: 1 / variance of the prior in nats^-2, >= 0; 0 is maximum likelihood.

    Returns:
        (responses,), rounded to nine decimals, so that equal strengths are equal numbers.

    Raises:
        RatingError: If there is no maximum, which needs `prior_precision` 0 and responses that won all their games
            against the others (Ford 1957: each must be linked to each other by a chain of wins).
    """
    games = wins + wins.T
    if prior_precision == 0 and not _is_strongly_connected(wins > 0):
        raise RatingError(
            "some responses won all, or played none, of their games against the others, so their Bradley-Terry "
            "strengths are infinite without a prior: set rating.prior_precision above 0"
        )

    def objective(strengths: Matrix) -> float:
        gaps = strengths[:, None] - strengths
        return float(-(wins * np.logaddexp(0, -gaps)).sum() - 0.5 * prior_precision * (strengths**2).sum())

    strengths = np.zeros(len(wins))
    value = objective(strengths)
    for _ in range(MAX_STEPS):
        chance = 1 / (1 + np.exp(strengths - strengths[:, None]))  # of row against column
        # Not wins - games * chance, which cancels where strengths are far apart, nor 1 - chance for its transpose.
        gradient = (wins * chance.T - wins.T * chance).sum(axis=1) - prior_precision * strengths
        information = -games * chance * chance.T
        np.fill_diagonal(information, prior_precision - information.sum(axis=1))
        # The likelihood says nothing about the mean. Adding a constant to all entries fixes it at zero, where the
        # prior also wants it, and makes the matrix invertible.
        step = np.linalg.solve(information + 1 / len(wins), gradient)
        size = 1.0
        floor = value - 1e-12 * (1 + abs(value))  # a climb smaller than the rounding must not halve the last steps
        while size > 1e-6 and objective(strengths + size * step) < floor:
            size /= 2
        strengths = strengths + size * step
        strengths -= strengths.mean()
        value = objective(strengths)
        if np.abs(step).max() <= 1e-10:
            rounded: Matrix = np.round(strengths, 9) + 0.0  # no negative zero
            return rounded
    raise RatingError(
        f"the Bradley-Terry strengths did not converge with rating.prior_precision={prior_precision:g}: set it higher"
    )


def _is_strongly_connected(edges: NDArray[np.bool_]) -> bool:
    reach = edges | np.eye(len(edges), dtype=bool)
    for _ in range(len(edges).bit_length()):
        reach = reach @ reach
    return bool(reach.all())


def elo(wins: Matrix, *, k_factor: float, num_orders: int, seed: int) -> Matrix:
    """Return Elo ratings, averaged over the orders in which the games are played.

    After each game, with s the fraction that the first player won of it and w its weight,

        r_first += k_factor w (s - 1 / (1 + 10^((r_second - r_first) / 400))),  r_second -= the same.

    Elo's result depends on the order of the games, which has no meaning here. Three things remove this dependence:

    - All games of a pair are one game of their total weight. A judge that always prefers the response shown first
      then leaves all ratings exactly equal.
    - Every order drawn is also played backwards. Of two games each then comes first once, which cancels the order's
      effect to second order in `k_factor`.
    - Ratings are rounded to `k_factor` / 100: responses that are equal must not differ by what the order still does.
      Divided by the standard deviation, it would look like a preference.

    Args:
        wins: (responses, responses) from `count_wins`; each has played.
        k_factor: Points at stake in a game of weight 1.
        num_orders: Orders drawn, each played forwards and backwards.
        seed: Of the orders.

    Returns:
        (responses,), in points; all start at 1000, the mean stays there up to rounding.
    """
    games = wins + wins.T
    first, second = np.nonzero(np.triu(games))
    weight = games[first, second]
    outcome = wins[first, second] / weight
    generator = np.random.default_rng(seed)
    forwards = generator.permuted(np.tile(np.arange(len(first)), (num_orders, 1)), axis=1)
    orders = np.concatenate([forwards, forwards[:, ::-1]])
    ratings = np.zeros((len(orders), len(wins)))  # from the start, so that no digits go to it
    row = np.arange(len(orders))
    for game in orders.T:
        white, black = first[game], second[game]
        gap = ratings[row, black] - ratings[row, white]
        change = k_factor * weight[game] * (outcome[game] - 1 / (1 + 10 ** (gap / ELO_SCALE)))
        ratings[row, white] += change
        ratings[row, black] -= change
    unit = k_factor / 100
    averaged: Matrix = ELO_START + unit * np.round(ratings.mean(axis=0) / unit)
    return averaged
