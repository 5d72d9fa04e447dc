"""What a run did, as it is told first everywhere: trained minus untrained on the same instructions. Pure.

The untrained policy is iteration 0, the trained one the last iteration. The change of the checked rate comes first
where a program checks the instructions, then that of the win rate, then that of the judge's score. Tables, figures, the
page and tracking take the order, the names and the words from here.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from tpo.config.thought import TAKEN_OFF
from tpo.results.rate import Rate, format_count, format_rate


class Quantity(NamedTuple):
    """Something that is measured before and after training, and how it is shown.

    Attributes:
        key: Of an iteration's "change" in `summary.json`.
        name: For people.
        is_fraction: Whether it is a share of something, shown in percent and its change in points; else a mean.
    """

    key: str
    name: str
    is_fraction: bool = True

    @property
    def scale(self) -> float:
        """What numbers are multiplied by when they are shown."""
        return 100.0 if self.is_fraction else 1.0

    @property
    def unit(self) -> str:
        """What follows a number."""
        return " %" if self.is_fraction else ""

    def of(self, entry: dict[str, Any]) -> Rate | None:
        """Return the quantity in one of a summary's iterations; None where it was not measured."""
        found = _value(entry, self.key)
        if found is None:
            return None
        return Rate.from_dict(found) if isinstance(found, dict) else Rate(found, None, 0, 0)

    def change(self, entry: dict[str, Any]) -> Rate | None:
        """Return how much it changed since iteration 0; None at iteration 0 and where it was not measured."""
        found = (entry["change"] or {}).get(self.key)
        return None if found is None or self.of(entry) is None else Rate.from_dict(found)


CHECKED = Quantity("checked", "checked rate")
UNSEEN = Quantity("checked_unseen", "checked rate, unseen types")
WIN_RATE = Quantity("win_rate", "win rate")
SCORE = Quantity("score", "score", is_fraction=False)
RESPONSE_TOKENS = Quantity("response_tokens", "response tokens", is_fraction=False)
#: In the order in which they are told.
HEADLINE = (CHECKED, WIN_RATE, SCORE)


class Change(NamedTuple):
    """A quantity of the policy of iteration 0 and of the last iteration, and the paired change between them.

    Without training both are the same and there is no change.
    """

    quantity: Quantity
    before: Rate
    after: Rate
    change: Rate | None

    @property
    def digits(self) -> int:
        """Decimals that a number is shown with: three of a score near 0, one of all else."""
        is_small = max(abs(self.before.rate or 0.0), abs(self.after.rate or 0.0)) < 10
        return 3 if is_small and not self.quantity.is_fraction else 1

    def numbers(self, rate: Rate | None, *, sign: str = "", unit: str = "") -> str:
        """Return one of the three rates with its interval, in the quantity's unit."""
        return format_rate(rate, unit=unit, sign=sign, scale=self.quantity.scale, digits=self.digits)

    def sentence(self) -> str:
        """Return it in one line: "checked rate: 27.8 -> 40.9 %, change +13.1 points [+8.0, +18.2] (n = 320)"."""
        name, unit = self.quantity.name, self.quantity.unit
        if self.change is None:
            return f"{name}: {self.numbers(self.before, unit=unit)}, untrained{_count(self.before)}"
        before = self.numbers(replace(self.before, interval=None))
        after = self.numbers(replace(self.after, interval=None), unit=unit)
        points = " points" if self.quantity.is_fraction else ""
        change = self.numbers(self.change, sign="+", unit=points)
        return f"{name}: {before} -> {after}, change {change}{_count(self.change)}"


def changes(summary: dict[str, Any], *quantities: Quantity) -> list[Change]:
    """Return the change of each quantity that a run measured; of `HEADLINE`, in its order, unless others are named."""
    first, last = summary["iterations"][0], summary["iterations"][-1]
    found = []
    for quantity in quantities or HEADLINE:
        before, after = quantity.of(first), quantity.of(last)
        if before is not None and after is not None:
            found.append(Change(quantity, before, after, quantity.change(last)))
    return found


def collapses(summary: dict[str, Any]) -> list[str]:
    """Return a sentence for every iteration whose policy collapsed, or what the run as a whole says of it."""
    found = [
        f"iteration {entry['iteration']}: {entry['collapse']}" for entry in summary["iterations"] if entry["collapse"]
    ]
    return found or [sentence for sentence in [summary["collapse"]] if sentence]


def baseline_notes(summaries: Sequence[dict[str, Any]]) -> list[str]:
    """Return the baselines that think and whose thoughts are taken off: no direct answers like others."""
    names = sorted({summary["baseline"] for summary in summaries if TAKEN_OFF in summary["baseline"]})
    return [f"Baseline: {name}." for name in names]


def _value(entry: dict[str, Any], key: str) -> Any:
    """Return a quantity as an iteration of a summary holds it: a rate, a number, or None."""
    checked = entry["checked"] or {}
    places = {
        "checked": checked.get("strict"),
        "checked_unseen": checked.get("unseen"),
        "win_rate": entry["win_rate"],
        "score": entry["mean_score"],
        "response_tokens": entry["mean_response_tokens"],
    }
    return places[key]


def _count(rate: Rate) -> str:
    return f" (n = {format_count(rate.count, rate.num_unscored)})" if rate.count else ""
