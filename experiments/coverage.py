"""Do the stated intervals hold the truth, and are 20 null categories left alone?

python experiments/coverage.py [--num_experiments 1000] [--num_samples 10000] [--seed 0] [--tables 1 2 3]

Simulates evaluations whose true win rate is known, and runs `tpo.results.stats` on them as `tpo.results.winrate` does.
The first table is of one mean: how often its 95 % interval holds the truth. The second is of an evaluation in
categories, the paper's
20 of 200 instructions and smaller ones: with true rates from 0.3 to 0.7, how often the intervals hold them, per
category (pooled, and the worst and best category) and overall; with all true rates one half, in how many evaluations
at least one category is called different, by plain p-values and intervals, after Holm, and by simultaneous intervals.
The third is of what a run reports: several samples of the policy against several of the baseline, instructions made of
one base instruction, and changes between two policies on the same instructions.

An instruction's outcome is one of a few kinds, each a tuple of values (several where a response is sampled more than
once; then they are a cluster), so an evaluation is a draw of how many instructions are of each kind. All in percent.
In the third table a response has a normal quality, shared by an instruction's responses as far as `spread` says, and
the better one wins.

The overall interval takes instructions for a sample of all, although each category's number of them is fixed here; what
categories differ by is then no chance, and it holds the truth a little too often. Some minutes of one core, of which
`--tables 3` takes one or two.
"""

import argparse
import math
from collections.abc import Callable
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import betabinom

from tpo.results.stats import (
    difference_interval,
    holm,
    mean_interval,
    sign_flip_test,
    simultaneous_confidence,
    wilson_interval,
)
from tpo.store.seeds import derive_seed

CONFIDENCE = 0.95
NUM_CATEGORIES = 20
COUNTS = (20, 40, 60, 200, 805)
RATES = (0.1, 0.3, 0.5, 0.7, 0.9)

Chances = NDArray[np.float64]


class Scenario(NamedTuple):
    """What can come of an instruction."""

    kinds: list[tuple[float, ...]]
    chances: Callable[[float], Chances | None]  # of the kinds at a true rate; None where it cannot be


def ties(fraction: float) -> Scenario:
    """Losses, ties and wins."""

    def chances(rate: float) -> Chances | None:
        found = np.array([1 - rate - fraction / 2, fraction, rate - fraction / 2])
        return None if found.min() < -1e-9 else np.maximum(found, 0)

    return Scenario([(0.0,), (0.5,), (1.0,)], chances)


def soft(concentration: float) -> Scenario:
    """Preferences in tenths, beta-binomial: the higher the concentration, the closer to the true rate."""
    return Scenario(
        [(tenth / 10,) for tenth in range(11)],
        lambda rate: betabinom.pmf(np.arange(11), 10, concentration * rate, concentration * (1 - rate)),
    )


def repeated(sizes: dict[int, float], concentration: float) -> Scenario:
    """Several samples per instruction, whose own rate is a beta draw; `sizes` are how many, with their chances."""
    return Scenario(
        [(1.0,) * wins + (0.0,) * (size - wins) for size in sizes for wins in range(size + 1)],
        lambda rate: np.concatenate(
            [
                chance * betabinom.pmf(np.arange(size + 1), size, concentration * rate, concentration * (1 - rate))
                for size, chance in sizes.items()
            ]
        ),
    )


SCENARIOS = {
    "wins and losses": ties(0.0),
    "ties 0.1": ties(0.1),
    "ties 0.3": ties(0.3),
    "ties 0.6": ties(0.6),
    "soft preferences, sd 0.26 at 0.5": soft(4),
    "soft preferences, sd 0.18 at 0.5": soft(30),
    "difficulty varies, 3 samples each": repeated({3: 1.0}, 2),
    "difficulty varies, 1 to 5 samples": repeated(dict.fromkeys(range(1, 6), 0.2), 2),
    "one instruction in ten with 20 samples": repeated({1: 0.9, 20: 0.1}, 2),
}
IN_CATEGORIES = (
    "wins and losses",
    "ties 0.3",
    "ties 0.6",
    "soft preferences, sd 0.26 at 0.5",
    "difficulty varies, 3 samples each",
)


def main(options: argparse.Namespace) -> None:
    """Print the tables."""
    for number, table in enumerate((one_mean, many_categories, what_a_run_reports), start=1):
        if number in options.tables:
            table(options, np.random.default_rng([options.seed, number]))


def one_mean(options: argparse.Namespace, generator: np.random.Generator) -> None:
    """Print the first table."""
    print(f"One mean: coverage of {CONFIDENCE:.0%} intervals at true rates {RATES}")
    print(f"{'':40}" + "".join(f"{f'n = {count}':>32}" for count in COUNTS))
    for name, scenario in SCENARIOS.items():
        cells = [coverage(scenario, count, options.num_samples, generator) for count in COUNTS]
        print(f"{name:40}" + "".join(f"{cell:>32}" for cell in cells), flush=True)
    clustered = SCENARIOS["difficulty varies, 3 samples each"]
    cells = [coverage(clustered, count, options.num_samples, generator, naive=True) for count in COUNTS]
    print(f"{'  the same, clusters ignored':40}" + "".join(f"{cell:>32}" for cell in cells))
    print(f"simulation error of a coverage of 95: {error(0.95, options.num_samples)}\n")


def many_categories(options: argparse.Namespace, generator: np.random.Generator) -> None:
    """Print the second table."""
    print(f"{NUM_CATEGORIES} categories, {options.num_experiments} evaluations")
    head = ("scenario", "n each", "per category", "worst", "best", "overall", "plain p", "plain iv", "Holm", "joint iv")
    print(f"{'':42}{'coverage at rates 0.3 to 0.7':>40}{'evaluations with a false category':>40}")
    print(f"{head[0]:36}{head[1]:>8}" + "".join(f"{cell:>{14 if cell == 'per category' else 9}}" for cell in head[2:]))
    for name in IN_CATEGORIES:
        for count in (200, 40, 10):
            row = categories(SCENARIOS[name], count, options.num_experiments, generator)
            cells = [f"{100 * value:.1f}" for value in row]
            print(f"{name:36}{count:>8}{cells[0]:>14}" + "".join(f"{cell:>9}" for cell in cells[1:]), flush=True)
    num_intervals = NUM_CATEGORIES * options.num_experiments
    print(f"simulation error of 95: per category {error(0.95, num_intervals)}, one of them, overall, and of 5 % false:")
    print(f"{error(0.95, options.num_experiments)}; the worst and best of 20 lie about twice that from the mean\n")


class Design(NamedTuple):
    """What a run reports, and how often its instructions are drawn.

    Attributes:
        num_instructions: Of the test.
        num_policy: Responses of the policy to each.
        num_baseline: Of the baseline.
        spread: Standard deviation of how much better the policy is at an instruction than at others; responses to one
            instruction have a deviation of 1.
        is_matched: Whether sample i meets only i mod `num_baseline`.
        twins: Instructions made of one base instruction, which share the advantage.
        missing: Chance that a response of the policy is missing; then its pairs are left out.
        change: How much better the trained policy is than the untrained one on average, whose change is reported;
            None where the win rate of one policy is.
    """

    num_instructions: int
    num_policy: int
    num_baseline: int
    spread: float
    is_matched: bool = False
    twins: int = 1
    missing: float = 0.0
    change: float | None = None


DESIGNS = {
    "60 x 4 x 4": Design(60, 4, 4, 1.0),
    "60 x 4 x 4, no spread": Design(60, 4, 4, 0.0),
    "60 x 4 x 4, spread 2": Design(60, 4, 4, 2.0),
    "60 x 4 x 4, matched pairs": Design(60, 4, 4, 1.0, is_matched=True),
    "60 x 1 x 4": Design(60, 1, 4, 1.0),
    "60 x 4 x 4, answered pairs of 80 %": Design(60, 4, 4, 1.0, missing=0.2),
    "320 x 1 x 1 in 160 twins": Design(320, 1, 1, 1.0, twins=2),
    "320 x 1 x 1 in 160 twins, spread 2": Design(320, 1, 1, 2.0, twins=2),
    "change, 60 x 4 x 4": Design(60, 4, 4, 1.0, change=0.4),
    "change, 60 x 4 x 4, no change": Design(60, 4, 4, 1.0, change=0.0),
    "change, 60 x 4 x 4, spread 2": Design(60, 4, 4, 2.0, change=0.4),
    "change, 320 x 1 x 1": Design(320, 1, 1, 1.0, change=0.4),
    "change, 320 x 1 x 1, no change": Design(320, 1, 1, 1.0, change=0.0),
    "change, 320 x 1 x 1 in 160 twins": Design(320, 1, 1, 1.0, twins=2, change=0.4),
}
#: How much an instruction's own change varies.
CHANGE_SPREAD = 0.5


def what_a_run_reports(options: argparse.Namespace, generator: np.random.Generator) -> None:
    """Print the third table."""
    print(f"What a run reports: coverage of {CONFIDENCE:.0%} intervals at (untrained) win rates {RATES[:3]}")
    print(f"{'instructions x policy x baseline':40}{'coverage':>24}{'clusters ignored':>24}")
    for name, design in DESIGNS.items():
        cells = [
            " ".join(
                f"{100 * reported(design, rate, options.num_samples, generator, naive=naive):>6.1f}"
                for rate in RATES[:3]
            )
            if not naive or design.twins > 1 or design.missing
            else ""
            for naive in (False, True)
        ]
        print(f"{name:40}" + "".join(f"{cell:>24}" for cell in cells), flush=True)
    print(f"simulation error of a coverage of 95: {error(0.95, options.num_samples)}")


def reported(design: Design, rate: float, num_samples: int, generator: np.random.Generator, *, naive: bool) -> float:
    """Return how often the interval of a design holds the truth, where the (untrained) policy's win rate is `rate`."""
    deviation = math.sqrt(design.spread**2 + 2)
    mean = deviation * NormalDist().inv_cdf(rate)
    truth = rate
    if design.change is not None:
        varied = math.sqrt(deviation**2 + CHANGE_SPREAD**2)
        truth = NormalDist().cdf((mean + design.change) / varied) - rate
    num_held = 0
    for _ in range(num_samples):
        values, clusters = draw(design, mean, generator)
        names = None if naive else clusters
        if design.change is None:
            edges = mean_interval(values, confidence=CONFIDENCE, clusters=names)
        else:
            edges = difference_interval(values, confidence=CONFIDENCE, clusters=names) or (0.0, 0.0)
        num_held += edges[0] <= truth + 1e-12 and truth - 1e-12 <= edges[1]
    return num_held / num_samples


def draw(design: Design, mean: float, generator: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return what one evaluation reports its interval of, a value a row, and the rows' clusters."""
    count, bases = design.num_instructions, design.num_instructions // design.twins
    advantage = np.tile(generator.normal(mean, design.spread, bases), design.twins)
    clusters = np.tile(np.arange(bases), design.twins)
    baseline = generator.normal(size=(count, 1, design.num_baseline))

    def wins(advantage: NDArray[np.float64]) -> NDArray[np.float64]:
        policy = advantage[:, None, None] + generator.normal(size=(count, design.num_policy, 1))
        won = (policy > baseline).astype(float)
        if design.is_matched:
            indices = np.arange(design.num_policy)
            return won[:, indices, indices % design.num_baseline]
        return won.mean(axis=2)

    if design.change is not None:
        change = np.tile(generator.normal(design.change, CHANGE_SPREAD, bases), design.twins)
        return wins(advantage + change).mean(axis=1) - wins(advantage).mean(axis=1), clusters
    found = wins(advantage)
    if design.missing:
        is_there = generator.random(found.shape) >= design.missing
        return found[is_there], np.broadcast_to(clusters[:, None], found.shape)[is_there]
    return found.mean(axis=1), clusters


def coverage(
    scenario: Scenario, count: int, num_samples: int, generator: np.random.Generator, *, naive: bool = False
) -> str:
    """Return, for every rate of `RATES`, how often the interval of one mean holds it, in percent; a dash where none."""
    cells = []
    for rate in RATES:
        chances = scenario.chances(rate)
        if chances is None:
            cells.append("-")
            continue
        drawn, times = np.unique(generator.multinomial(count, chances, size=num_samples), axis=0, return_counts=True)
        edges = np.array([interval(scenario, row, CONFIDENCE, naive=naive) for row in drawn])
        cells.append(f"{100 * np.average(holds(edges, rate), weights=times):.1f}")
    return " ".join(f"{cell:>5}" for cell in cells)


def categories(scenario: Scenario, count: int, num_experiments: int, generator: np.random.Generator) -> list[float]:
    """Return the figures of a line: coverage per category, its worst, its best, overall; the false categories."""
    rates = np.linspace(0.3, 0.7, NUM_CATEGORIES)
    drawn = np.stack(
        [generator.multinomial(count, scenario.chances(rate), size=num_experiments) for rate in rates], axis=1
    )
    edges = evaluate(drawn, lambda row: interval(scenario, row, CONFIDENCE))
    by_category = np.array([holds(edges[:, place], rate).mean() for place, rate in enumerate(rates)])
    overall = np.array([interval(scenario, row, CONFIDENCE) for row in drawn.sum(axis=1)])
    null = generator.multinomial(count, scenario.chances(0.5), size=(num_experiments, NUM_CATEGORIES))
    joint = simultaneous_confidence(CONFIDENCE, NUM_CATEGORIES)
    is_false = [
        ~holds(evaluate(null, lambda row, at=at: interval(scenario, row, at)), 0.5) for at in (CONFIDENCE, joint)
    ]
    p_values = evaluate(null, lambda row: [p_value(scenario, row)])[..., 0]
    adjusted = np.array([holm(row) for row in p_values.tolist()])
    return [
        by_category.mean(),
        by_category.min(),
        by_category.max(),
        holds(overall, float(rates.mean())).mean(),
        *(wrong.any(axis=1).mean() for wrong in (p_values <= 1 - CONFIDENCE, is_false[0])),
        *(wrong.any(axis=1).mean() for wrong in (adjusted <= 1 - CONFIDENCE, is_false[1])),
    ]


def evaluate(drawn: NDArray[np.int64], function: Callable[[NDArray[np.int64]], object]) -> NDArray[np.float64]:
    """Return what the function makes of every draw, each different one computed once."""
    different, places = np.unique(drawn.reshape(-1, drawn.shape[-1]), axis=0, return_inverse=True)
    found = np.array([function(row) for row in different], dtype=np.float64)
    return found[places.ravel()].reshape(*drawn.shape[:-1], -1)


def interval(
    scenario: Scenario, row: NDArray[np.int64], confidence: float, *, naive: bool = False
) -> tuple[float, float]:
    """Return the interval of `row[k]` instructions of each kind k; `naive`: as if all values were independent."""
    values, clusters = expand(scenario, row)
    if naive:
        return wilson_interval(float(values.mean()), len(values), confidence=confidence)
    return mean_interval(values, confidence=confidence, clusters=clusters)


def p_value(scenario: Scenario, row: NDArray[np.int64]) -> float:
    """Return the sign-flip p-value against one half; 2,000 flips where they cannot be enumerated."""
    values, clusters = expand(scenario, row)
    return sign_flip_test(values - 0.5, seed=derive_seed(0, *row.tolist()), num_flips=2000, clusters=clusters)


def expand(scenario: Scenario, row: NDArray[np.int64]) -> tuple[NDArray[np.float64], list[int] | None]:
    """Return the values of `row[k]` instructions of each kind k, and their clusters where there are any."""
    instructions = [kind for kind, times in zip(scenario.kinds, row.tolist(), strict=True) for _ in range(times)]
    if max(len(kind) for kind in scenario.kinds) == 1:
        return np.array([value for [value] in instructions]), None
    values = [value for kind in instructions for value in kind]
    return np.array(values), [number for number, kind in enumerate(instructions) for _ in kind]


def holds(edges: NDArray[np.float64], rate: float) -> NDArray[np.bool_]:
    """Return which intervals, low and high along the last axis, hold the rate."""
    return (edges[..., 0] <= rate + 1e-12) & (rate - 1e-12 <= edges[..., 1])


def error(chance: float, count: int) -> str:
    """Return the standard error of a simulated chance."""
    return f"{100 * math.sqrt(chance * (1 - chance) / count):.2f}"


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_experiments", type=int, default=1000)
    parser.add_argument("--num_samples", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tables", type=int, nargs="+", default=[1, 2, 3])
    main(parser.parse_args())
