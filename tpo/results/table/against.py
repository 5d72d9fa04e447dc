"""How much better a run is than another on the same instructions: paired differences, corrected for their number.

Compared are the checked rate, where runs have it, and the win rate. All comparisons of a table are one family of tests.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tpo.results.headline import CHECKED, WIN_RATE
from tpo.results.rate import Rate
from tpo.results.read import FinishedRun, ResultError, read_folders
from tpo.results.stats import holm, paired_difference
from tpo.results.table.rows import TableRow, flat_settings
from tpo.store.errors import TpoError
from tpo.store.seeds import derive_seed


@dataclass(frozen=True)
class Setting:
    """`key=value`, as on the command line: the runs that have it are what others are compared with."""

    key: str
    value: str

    def __str__(self) -> str:
        return f"{self.key}={self.value}"

    def holds(self, config: dict[str, Any]) -> bool:
        """Return whether a config has the setting; `thought=none` means the group's name, as `tpo.run` has it."""
        flat = flat_settings(config)
        return any(
            _is_same(flat[key], self.value) for key in (self.key, f"{self.key}.name", f"{self.key}.kind") if key in flat
        )

    def rest(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Return the settings without this one, or without its group where it names one."""
        root = self.key.removesuffix(".name").removesuffix(".kind")
        return {key: value for key, value in settings.items() if key != root and not key.startswith(f"{root}.")}


class Difference(NamedTuple):
    """A row's difference from its reference; the rate is None where it is the reference or does not compare."""

    reference: TableRow | None
    rate: Rate | None  # its p-value adjusted by Holm over all rows and quantities
    reason: str | None  # why there is no difference


#: What rows are compared in, by name.
Differences = dict[str, Difference]
COMPARED = ("checked", "win_rate")


def read_reference(text: str) -> FinishedRun | Setting:
    """Return what `--against` names: a run's folder, or `key=value`.

    Raises:
        ResultError: If it is neither.
    """
    key, separator, value = text.partition("=")
    if separator and "/" not in key:
        return Setting(key, value)
    found = read_folders([text]).runs
    if len(found) != 1:
        raise ResultError(f"--against {text}: {len(found)} finished runs. Name the folder of one, or give key=value")
    return found[0]


def differences(
    rows: Sequence[TableRow], against: FinishedRun | Setting, *, same_iteration: bool, averaged: bool
) -> list[Differences]:
    """Return each row's differences from its reference: its rates less the reference's, on the same instructions.

    A run is every row's reference. So is the one row that has a setting; where several have it, a row's reference is
    the one of them that agrees with it in all other settings. Averaged rows are compared by runs that have the same
    value of what is averaged over, not by instructions: sign flips of n runs have a p-value of 2^(1 - n) or more.

    Args:
        rows: All rows of a table.
        against: The reference.
        same_iteration: Whether rows are compared with the reference at the same iteration, or with the one it has.
        averaged: Whether a row may be several runs.

    Returns:
        By the names of `COMPARED`; without "checked" where no row has checks.

    Raises:
        ResultError: If no row is the reference.
    """
    candidates = [row for row in rows if _is_reference(row, against)]
    if not candidates:
        name = against.path if isinstance(against, FinishedRun) else against
        hint = ": the keys are those of config.json, such as pairs.length_penalty=0" if name is against else ""
        raise ResultError(f"--against {name}: no run in the table is that one{hint}")
    is_checked = any(entry["checked"] for row in rows for entry in row.entries)
    names = [name for name in COMPARED if is_checked or name != "checked"]
    references = [_reference_of(row, candidates, against, same_iteration=same_iteration) for row in rows]
    found = [
        {name: _compare(row, reference, name, averaged=averaged) for name in names}
        for row, reference in zip(rows, references, strict=True)
    ]
    every = [difference for by_name in found for difference in by_name.values()]
    adjusted = iter(holm([difference.rate.p_value if difference.rate else None for difference in every]))
    return [
        {
            name: one._replace(rate=replace(one.rate, adjusted_p_value=p_value) if one.rate else None)
            for (name, one), p_value in zip(by_name.items(), adjusted, strict=False)
        }
        for by_name in found
    ]


def _compare(row: TableRow, reference: TableRow | None, name: str, *, averaged: bool) -> Difference:
    if reference is None:
        return Difference(None, None, "no reference that agrees in all else")
    if reference is row:
        return Difference(row, None, None)
    return _difference(row, reference, name, averaged=averaged)


def _is_reference(row: TableRow, against: FinishedRun | Setting) -> bool:
    if isinstance(against, Setting):
        return all(against.holds(run.config) for run in row.runs)
    return any(run.path.resolve() == against.path.resolve() for run in row.runs)


def _reference_of(
    row: TableRow, candidates: Sequence[TableRow], against: FinishedRun | Setting, *, same_iteration: bool
) -> TableRow | None:
    if any(row is candidate for candidate in candidates):
        return row
    found = [candidate for candidate in candidates if not same_iteration or candidate.iteration == row.iteration]
    if len(found) > 1 and isinstance(against, Setting):
        found = [candidate for candidate in found if against.rest(candidate.settings) == against.rest(row.settings)]
    return found[0] if len(found) == 1 else None


def _difference(row: TableRow, reference: TableRow, name: str, *, averaged: bool) -> Difference:
    ours, theirs = row.runs[0], reference.runs[0]
    is_judged = name == "win_rate"
    if is_judged and (
        any(ours.summary[key] != theirs.summary[key] for key in ("judge", "baseline"))
        or ours.config["judge"] != theirs.config["judge"]
    ):
        return Difference(reference, None, "another judge or baseline")
    if not is_judged and not all(part.entries[0]["checked"] for part in (row, reference)):
        return Difference(reference, None, "no checks")
    bases: dict[str, str] = {}
    try:
        first, second = (_rates(part, name) if averaged else _values(part, name) for part in (row, reference))
        for part in () if averaged else (row, reference):
            bases |= part.runs[0].base_ids(part.entries[0])
    except TpoError as error:
        return Difference(reference, None, f"damaged artifacts ({' '.join(str(error).split())})")
    if first is None or second is None:
        what = "comparison" if is_judged else "checks"
        return Difference(reference, None, f"the artifact with the {what} is not at hand")
    names = sorted({*first, *second})
    rate = paired_difference(
        [first.get(name) for name in names],
        [second.get(name) for name in names],
        seed=derive_seed(0, "against"),  # of the sign flips, where preferences are soft and the patterns too many
        confidence=ours.summary["confidence"],
        is_bounded=not averaged,
        clusters=None if averaged else [bases.get(name, name) for name in names],
    )
    if rate.rate is None:
        what = "runs with the same value" if averaged else "scored instructions in common"
        return Difference(reference, None, f"no {what}")
    return Difference(reference, rate, None)


def _values(row: TableRow, name: str) -> Mapping[str, float | None] | None:
    """Return a run's values by instruction; None where their artifact is not at hand."""
    run, entry = row.runs[0], row.entries[0]
    return run.wins(entry) if name == "win_rate" else run.passed(entry)


def _rates(row: TableRow, name: str) -> Mapping[str, float | None]:
    """Return the rates of a row's runs by the value that is averaged over."""
    quantity = {"checked": CHECKED, "win_rate": WIN_RATE}[name]
    rates = [quantity.of(entry) for entry in row.entries]
    return {str(value): None if rate is None else rate.rate for value, rate in zip(row.values, rates, strict=True)}


def _is_same(value: Any, text: str) -> bool:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value] == text.lower()
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return str(value) == text
