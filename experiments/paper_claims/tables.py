"""The record's tables: claims with verdicts, every seed's headline, types of requests, lengths."""

import textwrap
from collections.abc import Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from experiments.paper_claims.arms import NAMES, Arm, Arms
from experiments.paper_claims.claims import Finding, conjunction, findings, type_changes
from experiments.paper_claims.quantities import (
    change,
    clustered_change,
    excludes_zero,
    forced_share,
    lead,
    prompt_cost,
    rate,
    rounding_changes,
)
from experiments.paper_claims.verdicts import CANNOT_TELL, MARGIN, over_seeds
from tpo.results.headline import CHECKED, UNSEEN, collapses
from tpo.results.rate import Rate, format_p_value, format_rate
from tpo.results.text_table import TextTable, to_markdown

LINE = 120  # characters of prose


def record_tables(arms: Arms) -> list[TextTable]:
    """Return the record's tables in order."""
    return [claims_table(arms), seeds_table(arms), types_table(arms), lengths_table(arms)]


def markdown(table: TextTable) -> str:
    """Return a table with its title above and its notes, wrapped, below."""
    notes = "".join(f"\n{textwrap.fill(note, LINE, break_on_hyphens=False)}\n" for note in table.notes)
    return f"**{table.title}**\n\n{to_markdown(table)}{notes}"


def claims_table(arms: Arms) -> TextTable:
    """Return a row for each claim, and what the table takes for yes and no."""
    found = findings(arms)
    rows = []
    for one in found:
        rows.append(_claim_row(one, _instructions(arms.thoughts, is_unseen="unseen" in one.claim.quantity)))
        if one.claim.measure is lead:
            parts = (next(other for other in found if other.claim.measure is prompt_cost), one)
            rows.append(
                ("it starts below the direct baseline and passes it", "yes [a]", "the first claim and the one above")
                + ("-", "-", "-", conjunction(*parts))
            )
    rows.append(
        ("general training costs mathematics", "GSM8K 79.2 to about 51 % or lower [a]")
        + ("not measured", "-", "-", "-", CANNOT_TELL)
    )
    num_tests = sum(one.difference.p_value is not None for one in found)
    alpha = f"{1 - arms.confidence:.2g}"
    notes = [
        f"Differences are means over seeds with {100 * arms.confidence:g} % intervals over seeds (Student's t), n is "
        "seeds x held-out instructions, a program checks the responses. Model: "
        f"{arms.example.config['model']['name']}; thoughts: {arms.example.config['thought']['name']}. [a]: read in a "
        "text about the paper, whose figures are of Llama-3-8B on AlpacaEval 2 but for GSM8K.",
        f"Verdict: yes where the difference is in the paper's direction and p is at most {alpha}, no where it is in "
        f"the other, else cannot tell. p: Student's t test, by Holm for the {num_tests} tests of this table; an "
        f"interval is of its difference alone, so it may exclude 0 where p is above {alpha}. Of a negligible "
        f"difference, yes is less than {100 * MARGIN:g} points either way (two one-sided tests), no is different from "
        "0 and beyond.",
        *(f"Cannot tell, {one.claim.text}: {one.reason}." for one in found if one.reason is not None),
        *_budget_notes(arms),
    ]
    names = ("the paper's claim", "in the paper", "measured here", "n", "difference", "p (Holm)", "verdict")
    return TextTable("The paper's claims at this scale", names, rows, notes)


def _claim_row(one: Finding, instructions: str) -> tuple[str, ...]:
    claim, difference = one.claim, one.difference
    p_value = "-" if difference.adjusted_p_value is None else format_p_value(difference.adjusted_p_value)
    count = f"{len(one.values)} x {instructions}" if one.values else "-"
    cell = format_rate(difference, unit=" %" if claim.is_relative else " points", sign="+") if one.values else "-"
    return (claim.text, claim.paper, claim.quantity, count, cell, p_value, one.verdict)


def _instructions(arm: Arm, *, is_unseen: bool) -> str:
    """Return how many held-out instructions a run has, or from how many to how many."""
    found = [(UNSEEN if is_unseen else CHECKED).of(run.summary["iterations"][-1]) for run in arm.values()]
    counts = sorted({one.num_prompts for one in found if one is not None})
    return " to ".join(f"{count:,}" for count in dict.fromkeys((counts[0], counts[-1]))) if counts else "0"


def _budget_notes(arms: Arms) -> list[str]:
    """Return how many thoughts and responses the token budgets cut off, which their lengths depend on."""
    sample, parts = arms.example.config["sample"], []
    before, after = (forced_share(arms, place) for place in (0, -1))
    if before is not None and after is not None:
        parts.append(
            f"thoughts have {sample['max_thought_tokens']} tokens at most, and {100 * before:.0f} % of them end by "
            f"force before training, {100 * after:.0f} % after it"
        )
    sampled = [run.summary["iterations"][1]["sampling"] or {} for run in arms.thoughts.values()]
    truncated = [found["truncated_rate"] for found in sampled if "truncated_rate" in found]
    if truncated:
        parts.append(
            f"responses have {sample['max_response_tokens']}, which cut off {100 * mean(truncated):.0f} % of the "
            "untrained policy's in training"
        )
    return [f"Budgets: {'; '.join(parts)}."] if parts else []


def seeds_table(arms: Arms) -> TextTable:
    """Return every seed's headline with and without thoughts, means over seeds, and the spread of rounding."""
    rows: list[tuple[str, ...]] = []
    notes = []
    for name in ("thoughts", "direct"):
        arm: Arm = getattr(arms, name)
        for seed, run in sorted(arm.items()):
            rows.append((NAMES[name], str(seed), *_seed_cells(run.summary)))
            notes += [f"{NAMES[name]}, seed {seed} COLLAPSED. {sentence}" for sentence in collapses(run.summary)]
        if arm:
            rows.append((NAMES[name], "mean", *_mean_cells(arm, confidence=arms.confidence)))
    reading = (
        f"Changes are in points, trained minus untrained on the same instructions, with {100 * arms.confidence:g} % "
        "intervals: a seed's is over its instructions, clustered, that of a mean over seeds (Student's t). Tokens are "
        "those of responses."
    )
    names = (
        "",
        "seed",
        "before (%)",
        "after (%)",
        "change",
        "excludes 0",
        "unseen types: change",
        "tokens",
        "no response",
    )
    return TextTable("Every seed", names, rows, [reading, *rounding_notes(arms), *notes], num_keys=2)


def _seed_cells(summary: dict[str, Any]) -> tuple[str, ...]:
    first, last = summary["iterations"][0], summary["iterations"][-1]
    before, after = (format_rate(_plain(CHECKED.of(entry)), unit="") for entry in (first, last))
    own = CHECKED.change(last)
    tokens = " to ".join(f"{entry['mean_response_tokens']:.0f}" for entry in (first, last))
    missing = f"{last['num_no_response']:,} of {last['num_answers']:,}"
    unseen = format_rate(UNSEEN.change(last), unit="", sign="+")
    is_shown = "yes" if excludes_zero(own) else "no"
    return (before, after, format_rate(own, unit="", sign="+"), is_shown, unseen, tokens, missing)


def _mean_cells(arm: Arm, *, confidence: float) -> tuple[str, ...]:
    rates = [f"{100 * mean(rate(run, place) for run in arm.values()):.1f}" for place in (0, -1)]
    own = over_seeds({seed: change(run) for seed, run in arm.items()}, confidence=confidence)
    found = {seed: UNSEEN.change(run.summary["iterations"][-1]) for seed, run in arm.items()}
    unseen = over_seeds(
        {seed: one.rate for seed, one in found.items() if one is not None and one.rate is not None},
        confidence=confidence,
    )
    count = sum(excludes_zero(clustered_change(run)) for run in arm.values())
    tokens = [
        mean(run.summary["iterations"][place]["mean_response_tokens"] for run in arm.values()) for place in (0, -1)
    ]
    changes = [format_rate(one if one.num_prompts else None, unit="", sign="+") for one in (own, unseen)]
    return (*rates, changes[0], f"{count} of {len(arm)}", changes[1], f"{tokens[0]:.0f} to {tokens[1]:.0f}", "-")


def rounding_notes(arms: Arms) -> list[str]:
    """Return how far runs that differ in rounding alone spread, against a third of the mean change over seeds."""
    found = rounding_changes(arms)
    if not found:
        return ["No reruns that differ in rounding alone."]
    seed, third = arms.reruns[0].config["seed"], abs(mean(change(run) for run in arms.thoughts.values())) / 3
    spread = stdev(found)
    shown = ", ".join(f"{100 * value:+.1f}" for value in found)
    relation = "less than" if spread < third else "not less than"
    return [
        f"Rounding: {len(found)} runs of seed {seed} that differ in it alone changed by {shown} points. Their standard "
        f"deviation is {100 * spread:.1f}, {relation} a third of the mean change over seeds ({100 * third:.1f})."
    ]


def types_table(arms: Arms) -> TextTable:
    """Return the change by type of request with thoughts, the largest fall first."""
    found = type_changes(arms)
    alpha = 1 - arms.confidence
    rows = []
    for one in found:
        p_value = one.change.adjusted_p_value
        is_told = p_value is not None and p_value <= alpha
        told = ("fell" if (one.change.rate or 0.0) < 0 else "rose") if is_told else CANNOT_TELL
        rates = (f"{100 * one.before:.1f}", f"{100 * one.after:.1f}")
        shown = "-" if p_value is None else format_p_value(p_value)
        name = f"{one.name}{' (unseen)' * one.is_unseen}"
        rows.append((name, *rates, format_rate(one.change, unit="", sign="+"), shown, told))
    num_lower = sum((one.change.rate or 0.0) < 0 for one in found)
    note = (
        f"Means over seeds, with intervals over seeds; p by Holm for the {len(found)} types. {num_lower} of "
        f"{len(found)} are lower after training than before, {sum(row[-1] == 'fell' for row in rows)} beyond chance. "
        "Unseen: in no training instruction."
    )
    return TextTable(
        "Types of requests, with thoughts", ("type", "before (%)", "after (%)", "change", "p (Holm)", ""), rows, [note]
    )


def lengths_table(arms: Arms) -> TextTable:
    """Return the mean tokens of thoughts and responses of every arm by iteration, means over seeds."""
    rows = []
    for name, title in NAMES.items():
        arm: Arm = getattr(arms, name)
        if not arm:
            continue
        count = min(len(run.summary["iterations"]) for run in arm.values())
        cells = [
            ", ".join(
                f"{mean(run.summary['iterations'][place][key] for run in arm.values()):.0f}" for place in range(count)
            )
            for key in ("mean_thought_tokens", "mean_response_tokens")
        ]
        run = next(iter(arm.values()))
        told = {
            "length_control": f" (rho {run.config['pairs']['length_penalty']:g})",
            "other_likelihood": f" ({run.config['train']['nll_weight']:g})",
        }
        thoughts = "-" if name == "direct" else cells[0]
        rows.append((f"{title}{told.get(name, '')}", str(len(arm)), thoughts, cells[1]))
    names = ("", "seeds", "thought tokens", "response tokens")
    note = "Mean tokens of answers to held-out instructions, untrained and after each iteration that all seeds have."
    return TextTable("Lengths", names, rows, [note])


def _plain(found: Rate | None) -> Rate | None:
    return None if found is None else replace(found, interval=None)


def record_text(tables: Sequence[TextTable]) -> str:
    """Return all tables in Markdown."""
    return "\n".join(markdown(table) for table in tables)
