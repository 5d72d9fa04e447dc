"""`Rate`: a mean measured over instructions, with its interval and what it leaves out; how it is stored and shown.

Win rates, also those at equal length, agreement with labels, accuracies, benchmark scores and differences of two means,
also of judge scores and of tokens, are all rates. Files hold each as a dictionary with the keys of `Rate.to_dict`.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from tpo.store.records import RecordError

Interval = tuple[float, float]


@dataclass(frozen=True)
class Rate:
    """A mean or a difference of means, with its interval.

    A fraction in [0, 1], a difference of two, in [-1, 1], or a difference in the unit of what was measured, such as a
    judge's scores or tokens.

    Attributes:
        rate: The mean or difference; None where nothing was scored.
        interval: Its edges; None also where too little was scored for one.
        num_prompts: Instructions that the rate is of.
        num_unscored: What would count, had it been scored: rows where `num_rows` is given, else instructions. Never
            counted as losses.
        num_rows: Scored rows that the rate is the mean of, where an instruction may have several.
        estimator: How the rate was estimated, where there are several ways.
        p_value: Two-sided, of even odds (a win rate of one half) or of no difference.
        adjusted_p_value: Holm's, for as many tests as were made together.
        simultaneous_interval: One of several that all hold at once with the confidence of `interval`.
    """

    rate: float | None
    interval: Interval | None
    num_prompts: int
    num_unscored: int
    num_rows: int | None = None
    estimator: str | None = None
    p_value: float | None = None
    adjusted_p_value: float | None = None
    simultaneous_interval: Interval | None = None

    @property
    def count(self) -> int:
        """What is shown as n: rows where an instruction may have several, else instructions."""
        return self.num_prompts if self.num_rows is None else self.num_rows

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types; the keys from `num_rows` on are there where they are not None."""
        plain = {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}
        return {name: value for name, value in plain.items() if value is not None or name in REQUIRED}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the rate that `to_dict` wrote.

        Raises:
            RecordError: If a key is missing or unknown: another version wrote it.
        """
        names = {field.name for field in dataclasses.fields(cls)}
        if not REQUIRED <= set(plain) <= names:
            raise RecordError(
                f"a rate has {', '.join(sorted(REQUIRED))}, not {', '.join(plain)}: another version wrote it. Repeat "
                "the command that made it"
            )
        fields: dict[str, Any] = {name: tuple(part) if isinstance(part, list) else part for name, part in plain.items()}
        return cls(**fields)


REQUIRED = {field.name for field in dataclasses.fields(Rate) if field.default is dataclasses.MISSING}


def format_rate(rate: Rate | None, *, unit: str = " %", sign: str = "", scale: float = 100.0, digits: int = 1) -> str:
    """Return a rate in percent with its interval, such as "61.2 % [57.0, 65.3]".

    Args:
        rate: None is a dash, as there is no such rate; one without a score is "unscored".
        unit: What follows the number.
        sign: "+" shows the sign of positive numbers, for differences.
        scale: What the numbers are multiplied by: 1 shows those that are no fractions, such as scores, as they are.
        digits: After the decimal point.
    """
    if rate is None:
        return "-"
    if rate.rate is None:
        return "unscored"

    def number(value: float) -> str:
        # To nine digits first: two means of the same numbers may differ in the last bit, and 22.75 is to be one number.
        return f"{round(scale * value, 9):{sign}.{digits}f}"

    interval = "" if rate.interval is None else " [{}, {}]".format(*map(number, rate.interval))
    return f"{number(rate.rate)}{unit}{interval}"


def format_count(count: int, missing: int, what: str = "unscored") -> str:
    """Return a count and what it leaves out, such as "57 (+3 unscored)"."""
    return f"{count:,}" + (f" (+{missing:,} {what})" if missing else "")


def format_p_value(p_value: float) -> str:
    """Return a p-value with three decimals, "<0.001" where these would be zeros."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"
