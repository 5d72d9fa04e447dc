"""How much better a run is than another on the same instructions: paired differences, corrected for their number."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

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
    rate: Rate | None  # its p-value adjusted by Holm over all rows
    reason: str | None  # why there is no difference


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
) -> list[Difference]:
    """Return each row's difference from its reference: its win rate less the reference's, on the same instructions.

    A run is every row's reference. So is the one row that has a setting; where several have it, a row's reference is
    the one of them that agrees with it in all other settings. Averaged rows are compared by runs that have the same
    value of what is averaged over, not by instructions: sign flips of n runs have a p-value of 2^(1 - n) or more.

    Args:
        rows: All rows of a table.
        against: The reference.
        same_iteration: Whether rows are compared with the reference at the same iteration, or with the one it has.
        averaged: Whether a row may be several runs.

    Raises:
        ResultError: If no row is the reference.
    """
    candidates = [row for row in rows if _is_reference(row, against)]
    if not candidates:
        name = against.path if isinstance(against, FinishedRun) else against
        hint = ": the keys are those of config.json, such as pairs.length_penalty=0" if name is against else ""
        raise ResultError(f"--against {name}: no run in the table is that one{hint}")
    found = []
    for row in rows:
        reference = _reference_of(row, candidates, against, same_iteration=same_iteration)
        if reference is None:
            found.append(Difference(None, None, "no reference that agrees in all else"))
        elif reference is row:
            found.append(Difference(row, None, None))
        else:
            found.append(_difference(row, reference, averaged=averaged))
    adjusted = holm([difference.rate.p_value if difference.rate else None for difference in found])
    return [
        found_one._replace(rate=found_one.rate and replace(found_one.rate, adjusted_p_value=p_value))
        for found_one, p_value in zip(found, adjusted, strict=True)
    ]


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


def _difference(row: TableRow, reference: TableRow, *, averaged: bool) -> Difference:
    ours, theirs = row.runs[0], reference.runs[0]
    if any(ours.summary[key] != theirs.summary[key] for key in ("judge", "baseline")) or (
        ours.config["judge"] != theirs.config["judge"]
    ):
        return Difference(reference, None, "another judge or baseline")
    bases: dict[str, str] = {}
    try:
        first, second = (_rates(part) if averaged else part.runs[0].wins(part.entries[0]) for part in (row, reference))
        for part in () if averaged else (row, reference):
            bases |= part.runs[0].base_ids(part.entries[0])
    except TpoError as error:
        return Difference(reference, None, f"damaged artifacts ({' '.join(str(error).split())})")
    if first is None or second is None:
        return Difference(reference, None, "the artifact with the comparison is not at hand")
    names = sorted({*first, *second})
    rate = paired_difference(
        [first.get(name) for name in names],
        [second.get(name) for name in names],
        seed=derive_seed(0, "against"),  # of the sign flips, where preferences are soft and the patterns too many
        confidence=ours.summary["confidence"],
        is_bounded=not averaged,
        clusters=None if averaged else [bases[name] for name in names],
    )
    if rate.rate is None:
        what = "runs with the same value" if averaged else "scored instructions in common"
        return Difference(reference, None, f"no {what}")
    return Difference(reference, rate, None)


def _rates(row: TableRow) -> dict[str, float | None]:
    return {str(value): entry["win_rate"]["rate"] for value, entry in zip(row.values, row.entries, strict=True)}


def _is_same(value: Any, text: str) -> bool:
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value] == text.lower()
    if isinstance(value, int | float):
        try:
            return float(text) == value
        except ValueError:
            return False
    return str(value) == text
