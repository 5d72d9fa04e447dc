"""How much better a run is than another on the same instructions: paired differences, corrected for their number."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from tpo.results.stats import PairedDifference, holm, paired_difference
from tpo.results.table.find import ResultError, Run, sort_folders
from tpo.results.table.rows import Row
from tpo.results.table.settings import flat_settings
from tpo.results.table.stored import wins
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


class Compared(NamedTuple):
    """A line's difference from its reference; the numbers are None where it is the reference or does not compare."""

    reference: Row | None
    difference: PairedDifference | None
    adjusted_p_value: float | None  # Holm's, over all lines
    reason: str | None  # why there is no difference


def read_reference(text: str) -> Run | Setting:
    """Return what `--against` names: a run's folder, or `key=value`.

    Raises:
        ResultError: If it is neither.
    """
    key, separator, value = text.partition("=")
    if separator and "/" not in key:
        return Setting(key, value)
    found = sort_folders([text]).runs
    if len(found) != 1:
        raise ResultError(f"--against {text}: {len(found)} finished runs. Name the folder of one, or give key=value")
    return found[0]


def compare(rows: Sequence[Row], against: Run | Setting, *, same_iteration: bool, averaged: bool) -> list[Compared]:
    """Return each line's difference from its reference: its win rate less the reference's, on the same instructions.

    A run is every line's reference. So is the one line that has a setting; where several have it, a line's reference is
    the one of them that agrees with it in all other settings. Averaged lines are compared by runs that have the same
    value of what is averaged over, not by instructions: sign flips of n runs have a p-value of 2^(1 - n) or more.

    Args:
        rows: All lines of a table.
        against: The reference.
        same_iteration: Whether lines are compared with the reference at the same iteration, or with the one it has.
        averaged: Whether a line may be several runs.

    Raises:
        ResultError: If no line is the reference.
    """
    candidates = [row for row in rows if _is_reference(row, against)]
    if not candidates:
        name = against.path if isinstance(against, Run) else against
        hint = "" if isinstance(against, Run) else ": the keys are those of config.json, such as pairs.length_penalty=0"
        raise ResultError(f"--against {name}: no run in the table is that one{hint}")
    found: list[tuple[Row | None, PairedDifference | None, str | None]] = []
    for row in rows:
        reference = _reference_of(row, candidates, against, same_iteration=same_iteration)
        if reference is row:
            found.append((row, None, None))
        elif reference is None:
            found.append((None, None, "no reference that agrees in all else"))
        else:
            found.append((reference, *_difference(row, reference, averaged=averaged)))
    adjusted = holm([difference.p_value if difference else None for _, difference, _ in found])
    return [
        Compared(reference, difference, p_value, reason)
        for (reference, difference, reason), p_value in zip(found, adjusted, strict=True)
    ]


def _is_reference(row: Row, against: Run | Setting) -> bool:
    if isinstance(against, Run):
        return any(run.path.resolve() == against.path.resolve() for run in row.runs)
    return all(against.holds(run.config) for run in row.runs)


def _reference_of(row: Row, candidates: Sequence[Row], against: Run | Setting, *, same_iteration: bool) -> Row | None:
    if any(row is candidate for candidate in candidates):
        return row
    found = [candidate for candidate in candidates if not same_iteration or candidate.iteration == row.iteration]
    if len(found) > 1 and isinstance(against, Setting):
        found = [candidate for candidate in found if against.rest(candidate.settings) == against.rest(row.settings)]
    return found[0] if len(found) == 1 else None


def _difference(row: Row, reference: Row, *, averaged: bool) -> tuple[PairedDifference | None, str | None]:
    """Return the difference, or why there is none."""
    ours, theirs = row.runs[0], reference.runs[0]
    if any(ours.summary.get(key) != theirs.summary.get(key) for key in ("judge", "baseline")) or (
        ours.config.get("judge") != theirs.config.get("judge")
    ):
        return None, "another judge or baseline"
    try:
        values = [_rates(line) if averaged else wins(line.runs[0], line.entries[0]) for line in (row, reference)]
    except TpoError as error:
        return None, f"damaged artifacts ({' '.join(str(error).split())})"
    if values[0] is None or values[1] is None:
        return None, "the artifact with the comparison is not at hand"
    first, second = values[0], values[1]
    names = sorted({*first, *second})
    found = paired_difference(
        [first.get(name) for name in names],
        [second.get(name) for name in names],
        seed=derive_seed(0, "against"),  # of the sign flips, where preferences are soft and the patterns too many
        confidence=ours.confidence,
        is_bounded=not averaged,
    )
    what = "runs with the same value" if averaged else "scored instructions in common"
    return (None, f"no {what}") if found.difference is None else (found, None)


def _rates(row: Row) -> dict[str, float | None]:
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
