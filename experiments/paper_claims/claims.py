"""The paper's claims, and what the runs say of each: yes, no, or cannot tell. Pure.

A claim is measured once per seed, on instructions of which a program checks the responses. Its difference is the mean
over seeds with Student's t interval over seeds; its verdict follows from Student's t test, corrected by Holm for all
claims that are tested together.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import mean

from experiments.paper_claims.arms import NAMES, Arms
from experiments.paper_claims.quantities import (
    Measure,
    Values,
    both,
    gain,
    lead,
    length_control,
    likelihood_term,
    prompt_cost,
    response_growth,
    step,
    thought_growth,
    thoughts_cut,
    unseen_gain,
)
from experiments.paper_claims.verdicts import CANNOT_TELL, MARGIN, NO, YES, over_seeds, verdict
from tpo.results.rate import Rate
from tpo.results.stats import holm


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        text: What it says.
        paper: The paper's figures, where it has some.
        quantity: What is measured here instead.
        measure: By seed; a fraction, or a difference of two.
        direction: 1 where the paper has an increase, -1 a decrease, 0 none to speak of.
        is_relative: Whether it is a change relative to what was before, not in points of a rate.
        needs: Arms beside `thoughts`.
        obstacle: Returns why the runs cannot tell whatever is measured, None where they can.
    """

    text: str
    paper: str
    quantity: str
    measure: Measure
    direction: int
    is_relative: bool = False
    needs: tuple[str, ...] = ()
    obstacle: Callable[[Arms], str | None] = lambda _: None


@dataclass(frozen=True)
class Finding:
    """What the runs say of a claim.

    Attributes:
        claim: Which.
        values: By seed; empty where runs are missing.
        difference: Their mean, with its interval over seeds and p-values; `num_prompts` counts seeds.
        verdict: `YES`, `NO` or `CANNOT_TELL`.
        reason: Why it cannot be told, where more seeds would not help.
    """

    claim: Claim
    values: Values
    difference: Rate
    verdict: str
    reason: str | None = None


def claims(arms: Arms) -> list[Claim]:
    """Return what the paper claims and these runs can measure, in the order of the paper."""
    num_iterations = max(run.summary["iterations"][-1]["iteration"] for run in arms.thoughts.values())
    steps = [
        Claim(
            f"it gains in iteration {number}",
            "the win rate grows with iterations [a]",
            f"checked rate, iteration {number} minus {number - 1}",
            step(number),
            1,
        )
        for number in range(1, num_iterations + 1)
    ]
    return [
        Claim(
            "the untrained thought prompt hurts",
            "24.9 to 17.3 % [a]",
            "checked rate, untrained: thoughts minus direct",
            prompt_cost,
            -1,
        ),
        Claim(
            "TPO gains over all iterations",
            "17.3 to 52.5 % [a]",
            "checked rate, last iteration minus untrained",
            gain,
            1,
        ),
        *(steps if num_iterations > 1 else ()),
        Claim(
            "TPO passes the direct baseline trained the same way",
            "48.4 and 52.5 % [a]",
            "checked rate after training: thoughts minus direct",
            lead,
            1,
            needs=("direct",),
        ),
        Claim(
            "thoughts become shorter",
            "-61 % (generic), -30 % (specific) in 4 iterations [a]",
            "mean thought tokens, last iteration against untrained",
            thought_growth,
            -1,
            is_relative=True,
            obstacle=thoughts_cut,
        ),
        Claim(
            "responses grow without length control",
            "about +15 % per iteration [a]",
            "mean response tokens, per iteration",
            response_growth,
            1,
            is_relative=True,
        ),
        Claim(
            "length control makes them grow less",
            "what it is for [a]",
            "growth of response tokens per iteration, with minus without",
            length_control,
            -1,
            is_relative=True,
            needs=("length_control",),
        ),
        Claim(
            "IRPO's likelihood term makes a negligible difference",
            "no figure [a]",
            "change of the checked rate, with minus without",
            likelihood_term,
            0,
            needs=("other_likelihood",),
        ),
        Claim(
            "what is not trained is forgotten",
            "of mathematics, see below [a]",
            "checked rate of unseen types, last iteration minus untrained",
            unseen_gain,
            -1,
        ),
    ]


def findings(arms: Arms) -> list[Finding]:
    """Return what the runs say of each claim, all tests as one family."""
    confidence, found = arms.confidence, []
    for claim in claims(arms):
        values = claim.measure(arms)
        reason = _missing(claim, values, arms) or claim.obstacle(arms)
        difference = over_seeds(values, confidence=confidence, margin=None if claim.direction else MARGIN)
        if reason is not None:  # no test, so none in the family
            difference = replace(difference, p_value=None)
        found.append(Finding(claim, values, difference, CANNOT_TELL, reason))
    return [
        replace(
            one,
            difference=difference,
            verdict=verdict(difference, direction=one.claim.direction, confidence=confidence),
        )
        for one, p_value in zip(found, holm([one.difference.p_value for one in found]), strict=True)
        for difference in [replace(one.difference, adjusted_p_value=p_value)]
    ]


def _missing(claim: Claim, values: Values, arms: Arms) -> str | None:
    for name in claim.needs:
        if not both(arms, name):
            return f"no run of the arm with {NAMES[name]} shares a seed with one of thoughts"
    return None if values else "no run has what it takes"


def conjunction(*parts: Finding) -> str:
    """Return the verdict of several claims together: yes where all are, no where one is."""
    verdicts = {part.verdict for part in parts}
    return NO if NO in verdicts else YES if verdicts == {YES} else CANNOT_TELL


@dataclass(frozen=True)
class TypeChange:
    """The rate of a type of request before and after training, and its change, means over seeds."""

    name: str
    is_unseen: bool
    before: float
    after: float
    change: Rate  # with p-values, Holm's over types


def type_changes(arms: Arms) -> list[TypeChange]:
    """Return the change of each type of request, the largest fall first; all types are one family of tests."""
    rates: dict[str, list[tuple[float, float]]] = {}
    unseen: set[str] = set()
    for run in arms.thoughts.values():
        first, last = (run.summary["iterations"][place]["checked"] for place in (0, -1))
        unseen |= set(last["unseen_types"])
        for name, after in last["types"].items():
            if (before := first["types"].get(name)) is not None:
                rates.setdefault(name, []).append((before["rate"], after["rate"]))
    changes = {
        name: over_seeds(
            {seed: after - before for seed, (before, after) in enumerate(pairs)}, confidence=arms.confidence
        )
        for name, pairs in rates.items()
    }
    adjusted = holm([changes[name].p_value for name in rates])
    found = [
        TypeChange(
            name,
            name in unseen,
            mean(before for before, _ in pairs),
            mean(after for _, after in pairs),
            replace(changes[name], adjusted_p_value=p_value),
        )
        for (name, pairs), p_value in zip(rates.items(), adjusted, strict=True)
    ]
    return sorted(found, key=lambda one: (one.change.rate or 0.0, one.name))
