import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from tpo.config.kinds import load_settings
from tpo.judge.rating import (
    BradleyTerryRating,
    EloRating,
    Rating,
    RatingError,
    WinCountRating,
    bradley_terry,
    count_wins,
    elo,
    rate,
    rate_responses,
    win_count,
)
from tpo.store.records import Response, Verdict

ELO = EloRating(k_factor=4.0, num_orders=5)
BRADLEY_TERRY = BradleyTerryRating(prior_precision=0.1)
WIN_COUNT = WinCountRating()
KINDS = pytest.mark.parametrize("rating", [ELO, BRADLEY_TERRY, WIN_COUNT], ids=lambda rating: rating.kind)


def verdict(first: int, second: int, outcome: float | None, *, weight: float = 1.0, prompt_id: str = "p") -> Verdict:
    reason = None if outcome is not None else "no_verdict_found"
    return Verdict(prompt_id, first, second, outcome, weight if outcome is not None else 0.0, reason, "raw", 7)


def rated(verdicts: Sequence[Verdict], rating: Rating, count: int, seed: int = 0) -> dict[int, float | None]:
    return rate(verdicts, sample_indices=range(count), rating=rating, seed=seed)


def round_robin(count: int, outcomes: Sequence[float]) -> list[Verdict]:
    """Every ordered pair once, the outcomes taken in turn."""
    pairs = itertools.permutations(range(count), 2)
    return [verdict(first, second, outcome) for (first, second), outcome in zip(pairs, outcomes, strict=True)]


@st.composite
def round_robins(draw: st.DrawFn) -> tuple[int, list[Verdict]]:
    count = draw(st.integers(2, 6))
    number = count * (count - 1)
    return count, round_robin(count, draw(st.lists(st.sampled_from([0.0, 0.5, 1.0]), min_size=number, max_size=number)))


@st.composite
def games(draw: st.DrawFn) -> tuple[int, list[Verdict]]:
    """Any games: missing pairs, repeated ones, weights with fractions, unscored verdicts."""
    count = draw(st.integers(2, 6))
    pair = st.tuples(st.integers(0, count - 1), st.integers(0, count - 1)).filter(lambda pair: pair[0] != pair[1])
    outcome = st.sampled_from([0.0, 0.5, 1.0, None])
    weight = st.sampled_from([1.0, 3.0, 0.1, 0.7])
    drawn = draw(st.lists(st.tuples(pair, outcome, weight), max_size=20))
    return count, [verdict(*indices, result, weight=size) for indices, result, size in drawn]


# --- win count --------------------------------------------------------------------------------------------------


def test_win_count_by_hand() -> None:
    verdicts = [verdict(0, 1, 1), verdict(1, 0, 0.5), verdict(2, 1, 0, weight=3), verdict(0, 2, None)]
    # 0: 1.5 of 2; 1: 0.5 of 2 and 3 of 3; 2: 0 of 3; 3 has not played.
    assert rated(verdicts, WIN_COUNT, 4) == {0: 0.75, 1: 0.7, 2: 0.0, 3: None}


def test_sums_of_wins_do_not_depend_on_the_order() -> None:
    verdicts = [verdict(0, 1, 1, weight=weight) for weight in (0.1, 0.2, 0.3, 0.7, 1e16)]
    sums = {tuple(count_wins(shuffled, sample_indices=[0, 1]).ravel()) for shuffled in itertools.permutations(verdicts)}
    assert len(sums) == 1
    assert count_wins(verdicts[:3], sample_indices=[5, 1, 0]).tolist() == [[0, 0, 0], [0, 0, 0], [0, 0.6, 0]]


# --- Bradley-Terry ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("won", "lost"), [(3, 1), (1, 3), (2.5, 2.5), (7.25, 0.75)])
def test_two_players_have_the_closed_form(won: float, lost: float) -> None:
    wins = np.array([[0, won], [lost, 0]])
    found = bradley_terry(wins, prior_precision=0)
    gap = math.log(won / lost)  # P(win) = sigmoid(gap) is the observed fraction
    assert found == pytest.approx([gap / 2, -gap / 2], abs=1e-9)


def independent_fit(wins: np.ndarray, prior_precision: float) -> np.ndarray:
    """The same posterior in other parameters (log-strengths against the last player's) by another optimizer."""
    basis = np.vstack([np.eye(len(wins) - 1), np.zeros(len(wins) - 1)])
    basis -= basis.mean(axis=0)  # mean zero, which the prior's maximum has

    def loss(parameters: np.ndarray) -> float:
        strengths = basis @ parameters
        total = 0.5 * prior_precision * float(strengths @ strengths)
        for i, j in itertools.permutations(range(len(wins)), 2):
            total += wins[i, j] * math.log1p(math.exp(strengths[j] - strengths[i]))
        return total

    start = np.zeros(len(wins) - 1)
    for _ in range(3):  # restarted, because the simplex can stall
        start = minimize(loss, start, method="Powell", options={"xtol": 1e-11, "ftol": 1e-15, "maxiter": 20_000}).x
    return np.asarray(basis @ start)


@pytest.mark.parametrize("prior_precision", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("seed", range(3))
def test_bradley_terry_equals_an_independent_fit(seed: int, prior_precision: float) -> None:
    generator = np.random.default_rng(seed)
    count = 5
    verdicts = [
        verdict(i, j, float(generator.choice([0, 0.5, 1])), weight=float(generator.choice([1, 3, 0.5])))
        for i, j in itertools.permutations(range(count), 2)
        if generator.random() < 0.7
    ]
    verdicts += [verdict(i, (i + 1) % count, 1) for i in range(count)]  # a cycle, so that no strength is infinite
    wins = count_wins(verdicts, sample_indices=range(count))
    found = bradley_terry(wins, prior_precision=prior_precision)
    assert found == pytest.approx(independent_fit(wins, prior_precision), abs=1e-6)
    assert found.mean() == pytest.approx(0, abs=1e-9)


def test_a_stronger_prior_shrinks_and_keeps_the_order() -> None:
    wins = count_wins(round_robin(3, [1, 1, 0, 1, 0, 0.5]), sample_indices=range(3))
    spreads = [np.ptp(bradley_terry(wins, prior_precision=precision)) for precision in (1e-6, 0.1, 1, 10, 1e6)]
    assert spreads == sorted(spreads, reverse=True) and spreads[0] > 10 and spreads[-1] < 1e-5


@pytest.mark.parametrize(
    "verdicts",
    [
        pytest.param([verdict(0, 1, 1), verdict(1, 0, 0), verdict(1, 2, 0.5)], id="won_all"),
        pytest.param([verdict(0, 1, 0.5), verdict(2, 3, 0.5)], id="two_groups_never_met"),
        pytest.param([verdict(0, 1, 0.5), verdict(2, 3, 0.5), verdict(1, 2, 1)], id="one_group_won_all"),
    ],
)
def test_infinite_strengths_need_a_prior(verdicts: list[Verdict]) -> None:
    with pytest.raises(RatingError, match="prompt p: .* set rating.prior_precision above 0"):
        rated(verdicts, replace(BRADLEY_TERRY, prior_precision=0.0), 4)
    ratings = rated(verdicts, BRADLEY_TERRY, 4)
    assert all(value is None or abs(value) < 10 for value in ratings.values())


def test_maximum_likelihood_needs_only_those_who_played() -> None:
    ratings = rated([verdict(0, 2, 1, weight=3), verdict(2, 0, 1)], replace(BRADLEY_TERRY, prior_precision=0.0), 3)
    assert ratings == {0: pytest.approx(math.log(3) / 2), 1: None, 2: pytest.approx(-math.log(3) / 2)}


@pytest.mark.parametrize("prior_precision", [1e-6, 1e-3, 1.0])
@pytest.mark.parametrize("weight", [0.01, 1.0, 1000.0])
def test_newton_converges_where_strengths_are_far_apart(weight: float, prior_precision: float) -> None:
    count = 8
    verdicts = [verdict(i, j, float(i < j), weight=weight) for i, j in itertools.permutations(range(count), 2)]
    wins = count_wins(verdicts, sample_indices=range(count))
    strengths = bradley_terry(wins, prior_precision=prior_precision)
    chance = 1 / (1 + np.exp(strengths - strengths[:, None]))
    gradient = (wins - (wins + wins.T) * chance).sum(axis=1) - prior_precision * strengths
    assert np.abs(gradient).max() < 1e-6 * weight + 1e-9
    assert sorted(strengths, reverse=True) == strengths.tolist()


def test_full_newton_steps_that_overshoot_are_halved() -> None:
    # Found by search: with full steps alone, Newton's method jumps back and forth on these.
    wins = np.array([[0, 0, 0, 0], [0, 0, 0.01, 0], [10, 0, 0, 0], [10, 100, 0, 0]], dtype=float)
    strengths = bradley_terry(wins, prior_precision=1e-5)
    chance = 1 / (1 + np.exp(strengths - strengths[:, None]))
    assert (wins * chance.T - wins.T * chance).sum(axis=1) == pytest.approx(1e-5 * strengths, rel=1e-3)


def test_a_cycle_of_wins_links_all() -> None:
    cycle = [verdict(index, (index + 1) % 7, 1) for index in range(7)]
    ratings = rated(cycle, replace(BRADLEY_TERRY, prior_precision=0.0), 7)
    assert set(ratings.values()) == {0.0}
    with pytest.raises(RatingError):
        rated(cycle[:-1], replace(BRADLEY_TERRY, prior_precision=0.0), 7)


@pytest.mark.parametrize("seed", range(5))
def test_equal_win_counts_give_equal_ratings_exactly(seed: int) -> None:
    # Not only nearly: the best of equals is chosen by comparing.
    generator = np.random.default_rng(seed)
    verdicts = round_robin(8, generator.choice([0.0, 0.5, 1.0], size=56).tolist())
    configs = (WIN_COUNT, BRADLEY_TERRY, replace(ELO, num_orders=50))
    counted, fitted, played = ([*rated(verdicts, rating, 8).values()] for rating in configs)
    assert 1 < len(set(counted)) == len(set(fitted)) == len(set(played)) < 8


@given(round_robins(), st.sampled_from([1e-3, 0.1, 5.0]))
@settings(max_examples=60, deadline=None)
def test_bradley_terry_orders_a_round_robin_as_win_count_does(
    drawn: tuple[int, list[Verdict]], prior_precision: float
) -> None:
    count, verdicts = drawn
    wins = count_wins(verdicts, sample_indices=range(count))
    strengths, fractions = bradley_terry(wins, prior_precision=prior_precision), win_count(wins)
    for i, j in itertools.combinations(range(count), 2):
        assert np.sign(round(strengths[i] - strengths[j], 8)) == np.sign(fractions[i] - fractions[j])


# --- Elo --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("outcome", "change"), [(1.0, 16.0), (0.5, 0.0), (0.0, -16.0)])
def test_one_game_of_elo_by_hand(outcome: float, change: float) -> None:
    # Equal players expect one half, so a win moves k / 2 points.
    assert rated([verdict(0, 1, outcome)], replace(ELO, k_factor=32.0), 2) == {0: 1000 + change, 1: 1000 - change}


def test_a_weighted_verdict_is_as_many_games() -> None:
    strong = rated([verdict(1, 0, 1, weight=3)], ELO, 2)
    assert strong == {0: 994, 1: 1006} == rated([verdict(1, 0, 1)] * 3, ELO, 2)


def test_two_games_of_elo_by_hand() -> None:
    # 0 beats 1 and 1 beats 2; played either way round, the second game starts from a gap of 16 points.
    expected = 1 / (1 + 10 ** (16 / 400))
    second = 32 * (1 - expected)
    ratings = rated([verdict(0, 1, 1), verdict(1, 2, 1)], replace(ELO, k_factor=32.0), 3)
    average = {0: (16 + 32 * (1 - expected)) / 2, 1: (-16 + second + 16 - 32 * (1 - expected)) / 2}
    assert ratings[0] == pytest.approx(1000 + average[0], abs=0.17)
    assert ratings[1] == pytest.approx(1000 + average[1], abs=0.17)
    assert ratings[2] == pytest.approx(1000 - average[0], abs=0.17)  # half of the rounding's unit, 0.32


def plain_elo(wins: np.ndarray, *, k_factor: float, orders: Sequence[Sequence[tuple[int, int]]]) -> np.ndarray:
    """Textbook Elo, one game at a time."""
    total = np.zeros(len(wins))
    for order in orders:
        ratings = [1000.0] * len(wins)
        for i, j in order:
            weight = wins[i, j] + wins[j, i]
            change = k_factor * weight * (wins[i, j] / weight - 1 / (1 + 10 ** ((ratings[j] - ratings[i]) / 400)))
            ratings[i] += change
            ratings[j] -= change
        total += ratings
    return total / len(orders)


def test_elo_equals_the_average_over_all_orders() -> None:
    wins = np.array([[0, 2.0, 1.5], [0, 0, 1.0], [0.5, 3.0, 0]])
    expected = plain_elo(wins, k_factor=32, orders=list(itertools.permutations([(0, 1), (0, 2), (1, 2)])))
    found = elo(wins, k_factor=32, num_orders=2000, seed=0)
    assert found == pytest.approx(expected, abs=0.2)  # half of the rounding's unit, 0.32, and what chance leaves
    assert np.ptp(expected) > 40
    one_order = plain_elo(wins, k_factor=32, orders=[[(0, 1), (0, 2), (1, 2)]])
    assert np.abs(one_order - expected).max() > 0.5, "the order does not matter here, so the test cannot fail"


@given(round_robins(), st.integers(0, 3))
@settings(max_examples=40, deadline=None)
def test_the_mean_of_elo_stays(drawn: tuple[int, list[Verdict]], seed: int) -> None:
    ratings = rated(drawn[1], ELO, drawn[0], seed)
    assert sum(value for value in ratings.values() if value is not None) / drawn[0] == pytest.approx(1000, abs=0.02)


def test_elo_is_decided_by_the_seed_and_hardly_by_its_value() -> None:
    generator = np.random.default_rng(0)
    verdicts = round_robin(8, generator.choice([0.0, 0.5, 1.0], size=56).tolist())
    rating = replace(ELO, num_orders=50)
    runs = [rated(verdicts, rating, 8, seed) for seed in (0, 0, 1, 2)]
    assert runs[0] == runs[1]
    for other in runs[2:]:
        assert list(other.values()) == pytest.approx(list(runs[0].values()), abs=0.05)
    coarse = [rated(verdicts, replace(rating, k_factor=32.0, num_orders=1), 8, seed) for seed in (0, 1)]
    assert coarse[0] != coarse[1]


# --- all kinds --------------------------------------------------------------------------------------------------


@KINDS
@given(games(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_order_of_the_verdicts_does_not_matter_at_all(
    rating: Rating, drawn: tuple[int, list[Verdict]], random: Any
) -> None:
    count, verdicts = drawn
    shuffled = random.sample(verdicts, len(verdicts))
    assert rated(shuffled, rating, count) == rated(verdicts, rating, count)


@KINDS
@given(games())
@settings(max_examples=40, deadline=None)
def test_showing_first_what_was_second_changes_nothing(rating: Rating, drawn: tuple[int, list[Verdict]]) -> None:
    count, verdicts = drawn
    swapped = [
        verdict(row.second_index, row.first_index, None if row.outcome is None else 1 - row.outcome, weight=row.weight)
        for row in verdicts
    ]
    assert rated(swapped, rating, count) == rated(verdicts, rating, count)


@pytest.mark.parametrize(
    ("rating", "tolerance"),
    # Elo draws other orders for other names; the drawn ones' effect is below one unit of its rounding, 0.04.
    [(WIN_COUNT, 0), (BRADLEY_TERRY, 2e-9), (replace(ELO, num_orders=50), 0.041)],
    ids=["win_count", "bradley_terry", "elo"],
)
@given(games(), st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
def test_relabelling_permutes_the_ratings(
    rating: Rating, tolerance: float, drawn: tuple[int, list[Verdict]], random: Any
) -> None:
    count, verdicts = drawn
    names = random.sample(range(count), count)
    renamed = [
        verdict(names[row.first_index], names[row.second_index], row.outcome, weight=row.weight) for row in verdicts
    ]
    before, after = rated(verdicts, rating, count), rated(renamed, rating, count)
    for index, value in before.items():
        other = after[names[index]]
        assert (value is None) == (other is None)
        if value is not None and other is not None:
            assert abs(value - other) <= tolerance


@KINDS
@given(games())
@settings(max_examples=40, deadline=None)
def test_opposite_outcomes_give_opposite_ratings(rating: Rating, drawn: tuple[int, list[Verdict]]) -> None:
    count, verdicts = drawn
    center = {"elo": 1000, "bradley_terry": 0, "win_count": 0.5}[rating.kind]
    opposite = [
        verdict(row.first_index, row.second_index, None if row.outcome is None else 1 - row.outcome, weight=row.weight)
        for row in verdicts
    ]
    before, after = rated(verdicts, rating, count), rated(opposite, rating, count)
    for index, value in before.items():
        other = after[index]
        assert (value is None) == (other is None)
        if value is not None and other is not None:
            assert value - center == pytest.approx(center - other, abs=1e-8)


@KINDS
def test_unscored_verdicts_are_no_games(rating: Rating) -> None:
    verdicts = round_robin(4, [1, 1, 0.5, 0, 1, 0, 1, 0, 0.5, 1, 1, 0])
    unscored = [verdict(first, second, None) for first, second in [(0, 1), (3, 0), (3, 1), (4, 0), (4, 3)]]
    found = rated([*unscored, *verdicts], rating, 5)
    assert found == rated(verdicts, rating, 5)
    assert found[4] is None and None not in [found[index] for index in range(4)]


@KINDS
def test_all_unscored_gives_no_ratings(rating: Rating) -> None:
    assert rated([verdict(0, 1, None), verdict(1, 0, None)], rating, 2) == {0: None, 1: None}
    assert rated([], rating, 2) == {0: None, 1: None}


@KINDS
@pytest.mark.parametrize("count", [2, 5, 8])
def test_a_judge_that_prefers_the_first_leaves_all_equal(rating: Rating, count: int) -> None:
    ratings = rated(round_robin(count, [1.0] * (count * (count - 1))), rating, count)
    assert len(set(ratings.values())) == 1


@KINDS
def test_a_cycle_leaves_all_equal(rating: Rating) -> None:
    ratings = rated([verdict(0, 1, 1), verdict(1, 2, 1), verdict(2, 0, 1)], rating, 3)
    assert len(set(ratings.values())) == 1


@KINDS
def test_unequal_numbers_of_games(rating: Rating) -> None:
    # 0 beats 1 in one of one, 1 beats 2 in seven of eight.
    verdicts = [verdict(0, 1, 1), *[verdict(1, 2, 1)] * 7, verdict(2, 1, 1)]
    ratings = rated(verdicts, rating, 3)
    assert None not in ratings.values()
    assert ratings[1] > ratings[2] and ratings[0] > ratings[2]  # type: ignore[operator]


def test_bradley_terry_takes_into_account_whom_a_response_met() -> None:
    # 0 won half of its games, against the strongest; 3 won half of its games, against the weakest.
    verdicts = [*[verdict(1, 2, 1)] * 9, verdict(2, 1, 1), verdict(0, 1, 1), verdict(1, 0, 1)]
    verdicts += [verdict(3, 2, 1), verdict(2, 3, 1)]
    counted, fitted = rated(verdicts, WIN_COUNT, 4), rated(verdicts, BRADLEY_TERRY, 4)
    assert counted[0] == counted[3] == 0.5
    assert fitted[0] > fitted[3] + 1  # type: ignore[operator]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(verdict(0, 0, 1), id="itself"),
        pytest.param(verdict(0, 3, 1), id="another_response"),
        pytest.param(verdict(0, 3, None), id="another_response_unscored"),
        pytest.param(verdict(0, 1, 1.5), id="outcome_above_1"),
        pytest.param(verdict(0, 1, math.nan), id="outcome_nan"),
        pytest.param(verdict(0, 1, 1, weight=0), id="weight_0"),
        pytest.param(verdict(0, 1, 1, weight=-1), id="weight_negative"),
        pytest.param(verdict(0, 1, 1, weight=math.inf), id="weight_infinite"),
    ],
)
def test_verdicts_that_are_no_games_are_refused(wrong: Verdict) -> None:
    with pytest.raises(ValueError, match="prompt p: a verdict "):
        rated([verdict(0, 1, 1), wrong], WIN_COUNT, 2)


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match=r"rating.kind=glicko"):
        load_settings(Rating, {"kind": "glicko"})


# --- the stage --------------------------------------------------------------------------------------------------


def response(sample_index: int, text: str | None, *, prompt_id: str = "p", error: str | None = None) -> Response:
    return Response(prompt_id, sample_index, text, error)


def test_every_response_gets_a_score_or_a_reason() -> None:
    responses = [
        response(4, "same"),  # represented by 1
        response(3, None, error="no_delimiter"),
        response(1, "same"),
        response(0, "other"),
        response(2, "third"),
        response(5, ""),
        response(6, "unjudged"),
        response(0, "alone", prompt_id="q"),
        response(1, "alone", prompt_id="q"),
        response(2, None, prompt_id="q", error="empty_response"),
        response(3, "", prompt_id="q"),
        response(0, "x", prompt_id="r"),
        response(1, "y", prompt_id="r"),
    ]
    verdicts = [
        verdict(1, 2, 1),
        verdict(2, 1, 0),
        verdict(0, 1, 0.5),
        verdict(6, 0, None),
        verdict(0, 1, None, prompt_id="r"),
    ]
    scores = rate_responses(responses, verdicts, rating=WIN_COUNT, seed=0)
    assert [(row.prompt_id, row.sample_index) for row in scores] == [
        (row.prompt_id, row.sample_index) for row in responses
    ]
    assert [row.score for row in scores] == [2.5 / 3, None, 2.5 / 3, 0.5, 0.0, *[None] * 8]
    assert [row.unscored_reason for row in scores] == [
        None,
        "no_delimiter",
        None,
        None,
        None,
        "empty",
        "no_verdict",
        "no_opponent",
        "no_opponent",
        "empty_response",
        "empty",
        "no_verdict",
        "no_verdict",
    ]
    assert {(row.raw, row.num_tokens) for row in scores} == {(None, 0)}


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        pytest.param(verdict(0, 1, 1, prompt_id="other"), "prompt other", id="another_prompt"),
        pytest.param(verdict(0, 2, 1), r"prompt p: .*\(0, 2\)", id="not_the_representative"),
        pytest.param(verdict(0, 3, None), r"prompt p: .*\(0, 3\)", id="no_text"),
    ],
)
def test_verdicts_of_other_responses_are_refused(wrong: Verdict, named: str) -> None:
    responses = [response(0, "a"), response(1, "b"), response(2, "b"), response(3, None, error="why")]
    with pytest.raises(ValueError, match=named):
        rate_responses(responses, [wrong], rating=ELO, seed=0)


@pytest.mark.parametrize("rating", [replace(ELO, k_factor=32.0), BRADLEY_TERRY, WIN_COUNT], ids=lambda item: item.kind)
def test_a_prompts_ratings_are_its_own(rating: Rating) -> None:
    generator = np.random.default_rng(1)
    responses, verdicts = [], []
    for prompt_id in ("p", "q", "r"):
        responses += [response(index, f"text {index}", prompt_id=prompt_id) for index in range(5)]
        verdicts += [
            verdict(i, j, float(generator.choice([0, 0.5, 1])), prompt_id=prompt_id)
            for i, j in itertools.permutations(range(5), 2)
        ]
    together = rate_responses(responses, verdicts, rating=rating, seed=3)
    shuffled = [verdicts[number] for number in generator.permutation(len(verdicts))]
    backwards = rate_responses(responses[::-1], shuffled, rating=rating, seed=3)
    assert backwards[::-1] == together
    for prompt_id in ("p", "q", "r"):
        alone = rate_responses(
            [row for row in responses if row.prompt_id == prompt_id],
            [row for row in verdicts if row.prompt_id == prompt_id],
            rating=rating,
            seed=3,
        )
        assert alone == [row for row in together if row.prompt_id == prompt_id]
