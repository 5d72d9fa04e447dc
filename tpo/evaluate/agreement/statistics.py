"""How well a judge agrees with labelled preferences, and which biases it has: statistics and tables.

Every number travels with its count, with what is missing, and with a percentile interval from a bootstrap over
instructions: comparisons of one instruction depend on each other, so whole instructions are drawn (the pairs cluster
bootstrap of Cameron, Gelbach & Miller 2008). Such intervals are too narrow for few instructions, so look at the counts;
a rate of 0 or 1, all of whose resamples are equal, has Wilson's interval for as many trials as instructions. Fractions
are in [0, 1]. A comparison that the judge did not score is missing: excluded, and counted with its reason.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tpo.evaluate.agreement.labelled import by_order
from tpo.judge.protocol import Judgement
from tpo.results.figures.judges import SLICES
from tpo.results.rate import Rate, format_rate
from tpo.results.stats import cluster_bootstrap, percentile_interval, wilson_interval
from tpo.results.text_table import TextTable, to_markdown
from tpo.store.records import LabelledPair, Verdict
from tpo.store.seeds import derive_seed

if TYPE_CHECKING:
    from rich.table import Table

NUM_RESAMPLES = 2000
EXCLUDED = ("identical_responses", "labelled_tie")

Values = NDArray[np.float64]
Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Agreement:
    """A judge's agreement with labels: how often its preference is the labelled one; a predicted tie is one half.

    Every rate has its `num_rows`, which are pairs. Counts add up: num_pairs = slices["all"].num_rows +
    slices["all"].num_unscored + sum(num_excluded.values()).
    """

    num_pairs: int
    num_excluded: dict[str, int]  # keys of EXCLUDED
    unscored_reasons: dict[str, int]  # of the pairs that are not excluded
    slices: dict[str, Rate]  # keys of SLICES
    groups: dict[str, Rate]  # by the pairs' group, in alphabetical order
    unscored_as_half: Rate  # agreement where a coin decides what the judge did not score
    shorter_minus_longer: Rate  # agreement where the shorter is preferred minus where the longer is
    prefers_longer: Rate  # how often the judge prefers the longer response, where lengths differ
    labels_prefer_longer: Rate  # how often the labels do, on the same rows
    confidence: float  # nominal coverage of the intervals

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return _plain(vars(self))


@dataclass(frozen=True)
class PositionBias:
    """What the order in which two responses are shown does to a pairwise judge."""

    first_wins: Rate  # of verdicts, how often the response shown first wins; a tie is one half
    consistent: Rate  # of pairs scored in both orders, how often both say the same: one winner, or a tie
    contradicting: Rate  # how often each order has another winner; in the rest only one order is a tie

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON types."""
        return _plain(vars(self))


def _plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: value.to_dict() if isinstance(value, Rate) else _plain(value) if isinstance(value, dict) else value
        for key, value in fields.items()
    }


# --- statistics -------------------------------------------------------------------------------------------------


def agreement(
    pairs: Sequence[LabelledPair],
    predictions: Sequence[Judgement],
    *,
    seed: int,
    confidence: float = 0.95,
    length_tolerance: float = 0.2,
    num_resamples: int = NUM_RESAMPLES,
) -> Agreement:
    """Return how often a judge's preference is the labelled one, overall and where length gives it away or not.

    Labelled ties and comparisons of a text with itself are excluded and counted: there is nothing to agree with.

    Args:
        pairs: In any order, which changes nothing.
        predictions: One per pair, from `predict_from_scores` or `predict_from_verdicts`.
        seed: Of the bootstrap.
        confidence: Nominal coverage of the intervals, in (0, 1).
        length_tolerance: Responses are length-matched where their characters differ by at most this fraction of the
            longer one's.
        num_resamples: Of the bootstrap.
    """
    excluded = Counter(dict.fromkeys(EXCLUDED, 0))
    excluded.update(reason for pair in pairs if (reason := _excluded(pair)))
    kept = [row for row in zip(pairs, predictions, strict=True) if not _excluded(row[0])]
    labels = _Labels([pair for pair, _ in kept], length_tolerance=length_tolerance)
    scored, sides = _sides([prediction.value for _, prediction in kept])
    longer = np.sign(labels.gap)
    columns = {
        f"slice {name}": _Column((1 + labels.side * sides) / 2, rows, scored) for name, rows in labels.slices.items()
    }
    names = sorted({pair.group for pair, _ in kept})
    columns |= {f"group {name}": columns["slice all"]._replace(rows=labels.group == name) for name in names}
    columns |= {
        "half": columns["slice all"]._replace(scored=labels.slices["all"]),  # an unscored pair has side 0
        "longer": _Column((1 + longer * sides) / 2, labels.gap != 0, scored),
        "labels": _Column((1 + longer * labels.side) / 2, labels.gap != 0, scored),
    }
    found = _rates(
        columns,
        [pair.prompt_id for pair, _ in kept],
        bootstrap=_Bootstrap(seed, confidence, num_resamples),
        differences={"difference": ("slice preferred_shorter", "slice preferred_longer")},
    )
    return Agreement(
        num_pairs=len(pairs),
        num_excluded=dict(excluded),
        unscored_reasons=dict(sorted(Counter(row.unscored_reason for _, row in kept if row.unscored_reason).items())),
        slices={name: found[f"slice {name}"] for name in SLICES},
        groups={name: found[f"group {name}"] for name in names},
        unscored_as_half=found["half"],
        shorter_minus_longer=found["difference"],
        prefers_longer=found["longer"],
        labels_prefer_longer=found["labels"],
        confidence=confidence,
    )


def position_bias(
    verdicts: Sequence[Verdict], *, seed: int, confidence: float = 0.95, num_resamples: int = NUM_RESAMPLES
) -> PositionBias:
    """Return how often a pairwise judge prefers what it sees first, and whether its two orders agree.

    A pair of responses that is not scored in both orders counts as unscored. The arguments are those of `agreement`.

    Raises:
        ValueError: If two verdicts are on the same responses in the same order.
    """
    by_key = by_order(verdicts)
    outcomes = {key: row.outcome for key, row in by_key.items()}
    scored, sides = _sides(list(outcomes.values()))
    shown = {"first": _Column((1 + sides) / 2, np.full(len(by_key), True), scored)}
    keys = sorted({(name, min(i, j), max(i, j)) for name, i, j in by_key})
    forward_scored, forward = _sides([outcomes.get(key) for key in keys])
    backward_scored, backward = _sides([outcomes.get((name, j, i)) for name, i, j in keys])
    same = _Column((forward == -backward).astype(float), np.full(len(keys), True), forward_scored & backward_scored)
    paired = {"same": same, "opposite": same._replace(values=(forward * backward > 0).astype(float))}
    bootstrap = _Bootstrap(seed, confidence, num_resamples)
    found = _rates(paired, [name for name, _, _ in keys], bootstrap=bootstrap)
    first_wins = _rates(shown, [name for name, _, _ in by_key], bootstrap=bootstrap)["first"]
    return PositionBias(first_wins=first_wins, consistent=found["same"], contradicting=found["opposite"])


def _excluded(pair: LabelledPair) -> str | None:
    if pair.first_index == pair.second_index:
        return "identical_responses"
    return "labelled_tie" if pair.preference == 0.5 else None


def _sides(outcomes: Sequence[float | None]) -> tuple[Mask, Values]:
    """Return which outcomes are scored, and 1 where the first wins, -1 where it loses, 0 for a tie or unscored."""
    scored = np.array([outcome is not None for outcome in outcomes], dtype=bool)
    return scored, np.sign([0.0 if outcome is None else outcome - 0.5 for outcome in outcomes])


class _Labels:
    """Arrays over pairs: the labelled side as in `_sides`, the difference of lengths, the group, and the slices."""

    def __init__(self, pairs: Sequence[LabelledPair], *, length_tolerance: float) -> None:
        first = np.array([pair.first_length for pair in pairs], dtype=float)
        second = np.array([pair.second_length for pair in pairs], dtype=float)
        _, self.side = _sides([pair.preference for pair in pairs])
        self.gap: Values = first - second
        self.group = np.array([pair.group for pair in pairs], dtype=object)
        self.slices: dict[str, Mask] = {
            "all": np.full(len(pairs), True),
            "length_matched": np.abs(self.gap) <= length_tolerance * np.maximum(first, second),
            "preferred_shorter": self.side * self.gap < 0,
            "preferred_longer": self.side * self.gap > 0,
        }


class _Bootstrap(NamedTuple):
    """How intervals are made."""

    seed: int
    confidence: float
    num_resamples: int


class _Column(NamedTuple):
    """What is averaged: `values` over the `rows` that are `scored`."""

    values: Values
    rows: Mask
    scored: Mask


def _rates(
    columns: Mapping[str, _Column],
    prompt_ids: Sequence[str],
    *,
    bootstrap: _Bootstrap,
    differences: Mapping[str, tuple[str, str]] | None = None,
) -> dict[str, Rate]:
    """Return the mean of every column, which is in [0, 1], and of pairs of columns the difference, by name."""
    order = {name: number for number, name in enumerate(columns)}
    means, resampled, counts = cluster_bootstrap(
        [column.values for column in columns.values()],
        [column.rows & column.scored for column in columns.values()],
        prompt_ids,
        seed=derive_seed(bootstrap.seed, "agree"),
        num_resamples=bootstrap.num_resamples,
    )

    def summarize(mean: float, draws: Values, parts: Sequence[str]) -> Rate:
        found = [columns[name] for name in parts]
        num_prompts = int((counts[:, [order[name] for name in parts]].sum(axis=1) > 0).sum())
        interval = None
        if num_prompts > 1 and not np.isnan(mean):
            interval = percentile_interval(draws, confidence=bootstrap.confidence)
            if len(parts) == 1 and mean in (0, 1):
                interval = wilson_interval(mean, num_prompts, confidence=bootstrap.confidence)
        return Rate(
            rate=None if np.isnan(mean) else mean,
            interval=interval,
            num_prompts=num_prompts,
            num_unscored=sum(int((column.rows & ~column.scored).sum()) for column in found),
            num_rows=sum(int((column.rows & column.scored).sum()) for column in found),
        )

    rates = {name: summarize(float(means[number]), resampled[:, number], [name]) for name, number in order.items()}
    for name, (one, other) in (differences or {}).items():
        i, j = order[one], order[other]
        rates[name] = summarize(float(means[i] - means[j]), resampled[:, i] - resampled[:, j], [one, other])
    return rates


# --- reports ----------------------------------------------------------------------------------------------------

#: Measured judges as files hold them: "judge" (its name), `Agreement.to_dict()`'s keys, and perhaps "position_bias".
Judges = Sequence[dict[str, Any]]


def agreement_table(judges: Judges, *, title: str = "Agreement with labels") -> "Table":
    """Return a table for the terminal with a line per judge and what matters most; `agreement_markdown` has it all."""
    from rich import box
    from rich.table import Table

    lines = [
        {name: cell for name, cell in line.items() if name not in {SLICES["preferred_longer"], "labels prefer longer"}}
        for line in _lines(judges)
    ]
    table = Table(title=title, box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for name in lines[0]:
        table.add_column(name.replace(" ", "\n", 1).replace("-", "-\n"), justify="left" if name == "judge" else "right")
    for line in lines:
        table.add_row(*(cell if name == "judge" else cell.replace(" [", "\n[") for name, cell in line.items()))
    return table


def agreement_markdown(judges: Judges) -> str:
    """Return a table in Markdown with a line per judge."""
    lines = _lines(judges)
    return to_markdown(TextTable("", list(lines[0]), [list(line.values()) for line in lines]))


def _lines(judges: Judges) -> list[dict[str, str]]:
    """Return the cells of every judge by the name of their column."""
    is_pairwise = any(judge.get("position_bias") for judge in judges)
    lines = []
    for judge in judges:
        slices, bias = judge["slices"], judge.get("position_bias") or {}
        rates = {title: slices[name] for name, title in SLICES.items()}
        rates["judge prefers longer"] = judge["prefers_longer"]
        rates["labels prefer longer"] = judge["labels_prefer_longer"]
        if is_pairwise:
            rates["first shown wins"] = bias.get("first_wins")
            rates["orders contradict"] = bias.get("contradicting")
        counts = {"pairs": str(slices["all"]["num_rows"]), "unscored": str(slices["all"]["num_unscored"])}
        cells = {name: _cell(rate) for name, rate in rates.items()}
        lines.append({"judge": judge["judge"], **counts, **cells})
    return lines


def _cell(plain: dict[str, Any] | None) -> str:
    """Return a rate with its interval; "no pairs" where there was none to score, which is not "unscored"."""
    rate = None if plain is None else Rate.from_dict(plain)
    return "no pairs" if rate is not None and rate.rate is None and not rate.num_unscored else format_rate(rate)
