"""Two sides on the instructions that both were asked: what is shared, who won, by category and by check."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tpo.results.marks import asked, name
from tpo.results.rate import format_rate
from tpo.results.read import FinishedRun, ResultError, load_json
from tpo.results.sides import Answers, Side
from tpo.results.table.rows import swept_settings
from tpo.results.text_table import TextTable
from tpo.results.versus import Versus, versus
from tpo.store.progress import counted
from tpo.store.records import Prompt

LONGEST_SETTING = 60  # characters
Passed = tuple[bool, bool]  # whether the first side's answer passes, and the second's


@dataclass(frozen=True)
class Beside:
    """Two sides, and what both were asked.

    Attributes:
        sides: The first and the second.
        prompts: The instructions that both answered, with the first side's checks and category.
        answers: Each side's, by prompt_id.
        versus: Who won.
        num_alone: Of each side, how many instructions the other was not asked.
        num_same_base: Of each side, how many of these were made from a base instruction that the other was asked too,
            with other requests.
    """

    sides: tuple[Side, Side]
    prompts: Mapping[str, Prompt]
    answers: tuple[Mapping[str, Answers], Mapping[str, Answers]]
    versus: Versus
    num_alone: tuple[int, int]
    num_same_base: tuple[int, int]

    @property
    def confidence(self) -> float:
        """Of intervals, as the second side's run has it."""
        found: float = self.sides[1].comparison.manifest["config"]["confidence"]
        return found

    def shared(self) -> str:
        """Say how many instructions both were asked, and what is left out."""
        text = f"{counted(len(self.prompts), 'held-out instruction')} that both were asked"
        for which, alone, same in zip(("first", "second"), self.num_alone, self.num_same_base, strict=True):
            if alone:
                other = f", {same:,} of them another's base instruction with other requests" if same else ""
                text += f"; {alone:,} of the {which} alone are left out{other}"
        return f"{text}."


def put_beside(first: Side, second: Side) -> Beside:
    """Return two sides on the instructions that both were asked: those of the same text.

    Raises:
        ResultError: If there is none.
        TpoError: If an artifact is missing, damaged or of another version.
    """
    theirs = (first.prompts(), second.prompts())
    prompts = {prompt_id: prompt for prompt_id, prompt in theirs[0].items() if prompt_id in theirs[1]}
    if not prompts:
        raise ResultError(
            f"{first.name} and {second.name} were asked no instruction in common (of {len(theirs[0]):,} and "
            f"{len(theirs[1]):,} held-out ones): python -m tpo.evaluate policy=runs/<one> baseline=runs/<other> asks "
            "both the same"
        )
    bases = [{prompt.base_id for prompt in found.values()} for found in theirs]
    alone = [[row for row in found.values() if row.prompt_id not in prompts] for found in theirs]
    answers = (first.answers(prompts), second.answers(prompts))
    return Beside(
        sides=(first, second),
        prompts=prompts,
        answers=answers,
        versus=versus((first, second), answers),
        num_alone=(len(alone[0]), len(alone[1])),
        num_same_base=(
            sum(row.base_id in bases[1] for row in alone[0]),
            sum(row.base_id in bases[0] for row in alone[1]),
        ),
    )


def facts_table(beside: Beside) -> TextTable:
    """Return what the sides are, the settings in which the two differ, what they share and what decides who won."""
    configs = [_config(side) for side in beside.sides]
    settings = swept_settings(configs) if configs[0] != configs[1] else [{}, {}]
    first, second = (
        {"policy": side.title}
        | ({"of": side.name} if side.title != side.name else {})
        | {"judge": side.judge, **{key: _short(value) for key, value in differing.items()}}
        for side, differing in zip(beside.sides, settings, strict=True)
    )
    rows = [(key, first.get(key, "-"), second.get(key, "-")) for key in {**first, **second}]
    return TextTable("sides", ("", "first", "second"), rows, (beside.shared(), beside.versus.text))


def won_table(beside: Beside) -> TextTable | None:
    """Return who won, overall and by category; None where nobody is said to have."""
    if not beside.versus.by:
        return None
    rows = [_won_row("all", beside, list(beside.prompts.values()))]
    categories = sorted({prompt.category for prompt in beside.prompts.values()})
    if len(categories) > 1:
        for category in categories:
            some = [prompt for prompt in beside.prompts.values() if prompt.category == category]
            rows.append(_won_row(category, beside, some))
    names = ("", "n", "first won", "second won", "ties", "undecided", "second over first")
    level = f"{100 * beside.confidence:g} %"
    notes = [f"Second over first: its share of what was decided, a tie one half, with its {level} interval."]
    return TextTable("who won", names, rows, notes)


def checks_table(beside: Beside) -> TextTable | None:
    """Return which side's first answer passes the checks of an instruction, all and by type; None without checks."""
    whole: list[Passed] = []
    by_type: dict[str, list[Passed]] = defaultdict(list)
    for prompt in beside.prompts.values():
        first, second = (found[prompt.prompt_id].passed for found in beside.answers)
        if not first:
            continue
        whole.append((all(first[0]), all(second[0])))
        for check, *both in zip(asked(prompt.checks), first[0], second[0], strict=True):
            by_type[name(check)].append((both[0], both[1]))
    if not whole:
        return None
    rows = [_passed_row("all of an instruction's", whole)]
    for kind in sorted(by_type) if len(by_type) > 1 else []:
        rows.append(_passed_row(kind, by_type[kind]))
    names = ("", "n", "both", "first only", "second only", "neither")
    return TextTable("checks passed by the first answer", names, rows)


def _won_row(title: str, beside: Beside, prompts: Sequence[Prompt]) -> tuple[str, ...]:
    counts = beside.versus.counts([prompt.prompt_id for prompt in prompts])
    rate = beside.versus.rate(prompts, confidence=beside.confidence)
    shown = format_rate(rate) if rate.rate is not None else "-"
    return (title, f"{len(prompts):,}", *(f"{count:,}" for count in counts.values()), shown)


def _passed_row(title: str, found: Sequence[Passed]) -> tuple[str, ...]:
    counts = [found.count(both) for both in ((True, True), (True, False), (False, True), (False, False))]
    return (title, f"{len(found):,}", *(f"{count:,}" for count in counts))


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= LONGEST_SETTING else f"{text[:LONGEST_SETTING]}..."


def _config(side: Side) -> dict[str, Any]:
    if isinstance(side.place, FinishedRun):
        return side.place.config
    found: dict[str, Any] = load_json(side.place.path / "config.json")
    return found
