"""The table of runs: a row for each, the settings in which runs differ, and what came out."""

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

from tpo.results.headline import CHECKED, SCORE, UNSEEN, WIN_RATE, baseline_notes
from tpo.results.rate import Rate
from tpo.results.read import FinishedRun
from tpo.results.table.against import COMPARED, Differences, differences, read_reference
from tpo.results.table.averages import mean_rate
from tpo.results.table.rows import Iteration, TableRow, make_rows

if TYPE_CHECKING:
    from pandas import DataFrame

#: Paired changes since iteration 0, in the order in which they are told.
CHANGES = {f"change_{quantity.key}": quantity for quantity in (CHECKED, UNSEEN, WIN_RATE, SCORE)}
RATES = {
    "checked": "checked",
    "checked_unseen": "unseen",
    "win_rate": "win rate",
    "win_rate_answered": "answered",
    "win_rate_length_controlled": "equal length",
}
#: Columns of the differences of --against, by what is compared.
DIFFERENCES = {name: f"difference_{name}" for name in COMPARED}
COUNTS = ("num_prompts", "num_unscored", "num_no_response", "num_answers")
LENGTHS = {"mean_thought_tokens": "thought tokens", "mean_response_tokens": "response tokens"}
PEAKS = {"peak_host_mib": "host", "peak_device_mib": "device"}

Line = dict[str, Any]  # cells by column


class ResultsTable(NamedTuple):
    """What came out of runs, and what a reader has to know of it.

    Attributes:
        lines: One for each run: its name, its settings, "iteration", and what came out, rates as `Rate`.
        settings: Columns of the settings in which the runs differ.
        notes: Sentences that belong below the table.
    """

    lines: list[Line]
    settings: tuple[str, ...]
    notes: tuple[str, ...]

    @property
    def frame(self) -> "DataFrame":
        """The lines as numbers, by the runs' names: a rate in several columns, fractions or NaN."""
        import pandas as pd

        rows = [
            {column: cell for key, cell in line.items() for column, cell in _columns(key, cell)} for line in self.lines
        ]
        frame = pd.DataFrame(rows, dtype=object)
        rates = (*CHANGES, *RATES, *DIFFERENCES.values())
        floats = [*LENGTHS, *PEAKS, "stage_seconds", "stages_reused"]
        floats += [f"{key}{edge}" for key in rates for edge in ("", "_low", "_high", "_p_value", "_p_value_holm")]
        frame = frame.astype({key: float for key in floats if key in frame})
        return frame.set_index(frame.columns[0]) if rows else frame


def _columns(key: str, cell: Any) -> list[tuple[str, Any]]:
    is_difference = key in DIFFERENCES.values()
    if not is_difference and key not in (*CHANGES, *RATES):
        return [(key, cell)]
    rate = cell or Rate(None, None, 0, 0)
    low, high = rate.interval or (None, None)
    columns = [(key, rate.rate), (f"{key}_low", low), (f"{key}_high", high)]
    if is_difference:
        columns += [(f"{key}_p_value", rate.p_value), (f"{key}_p_value_holm", rate.adjusted_p_value)]
        columns += [(f"{key}_num_paired", cell and rate.num_prompts)]
        columns += [(f"{key}_num_unpaired", cell and rate.num_unscored)]
    return columns


def results_table(
    runs: Sequence[FinishedRun], *, iteration: Iteration = "last", over: str | None = None, against: str | None = None
) -> ResultsTable:
    """Return a table of runs after an iteration, in the order of the settings.

    Args:
        runs: In any order. Those that did not reach the iteration are left out, and named in a note.
        iteration: Of each run, its last one, all, or one by its number.
        over: The dotted key of a setting, such as "seed": runs that differ in it only are averaged.
        against: A run's folder, or "key=value": what the others are compared with (see `against.differences`).

    Returns:
        A line for each run, by its folder's name. Columns: the settings that differ (see `swept_settings`; None where
        a run has no such setting); "iteration"; the paired changes since iteration 0, "change_checked",
        "change_checked_unseen", "change_win_rate" and "change_score"; the rates themselves, "checked",
        "checked_unseen", "win_rate", "win_rate_answered" and "win_rate_length_controlled", in `frame` each with its
        interval as "_low" and "_high"; "num_prompts", "num_unscored", and "num_no_response" of "num_answers"; mean
        tokens; "num_pairs", which the iteration was trained on; of the whole run, "stage_seconds" (of all its stages,
        whenever computed), "stages_reused" (the fraction that others computed) and "peak_host_mib", "peak_device_mib"
        where the manifests are at hand; "judge", "baseline" and "confidence" where they differ between runs. A change
        or a rate that no run has is no column.

        With `over`, a line by the experiment's name for runs that differ in that key only, "num_runs" of them in
        "folders". Changes and rates are means over runs with Student's t interval over runs, rates within [0, 1], none
        of a single run; counts are sums, peaks the largest, all else means. With `against`, "reference" (folders),
        "is_reference" and "difference_win_rate", and "difference_checked" where runs have checks, in `frame` also the
        "..._p_value" and Holm's "..._p_value_holm", "..._num_paired" and "..._num_unpaired" instructions (with `over`,
        runs).

    Raises:
        ResultError: If `over` or `against` names nothing.
    """
    reference = None if against is None else read_reference(against)
    if isinstance(reference, FinishedRun) and reference.path.resolve() not in {run.path.resolve() for run in runs}:
        runs = [*runs, reference]
    rows = make_rows(runs, iteration=iteration, over=over)
    if not rows:
        return ResultsTable([], (), tuple(_left_out(runs, rows, iteration, over)))
    found: Sequence[Differences] = ()
    if reference is not None:
        found = differences(rows, reference, same_iteration=iteration == "all", averaged=over is not None)
    differing = [key for key in ("judge", "baseline", "confidence") if len({run.summary[key] for run in runs}) > 1]
    lines: list[Line] = []
    for place, row in enumerate(rows):
        line = {"run" if over is None else "experiment": row.name, **row.settings, "iteration": row.iteration}
        line |= _measures(row.runs[0], row.entries[0]) if over is None else _averages(row)
        line |= {key: row.runs[0].summary[key] for key in differing if key not in line}
        cells = _difference_cells(row, found[place]) if found else {}
        told = [*line][: [*line].index("checked")]  # names, settings and changes, which differences follow
        lines.append({key: line[key] for key in told} | cells | line)
    absent = {key for key in (*CHANGES, *RATES, *PEAKS) if all(line[key] is None for line in lines)}
    lines = [{name: cell for name, cell in line.items() if name not in absent} for line in lines]
    notes = [*_reading(runs, over=over), *_left_out(runs, rows, iteration, over), *_costs(runs)]
    notes += _comparisons(rows, found, over=over) if found else []
    return ResultsTable(lines, tuple(rows[0].settings), tuple(notes))


def _measures(run: FinishedRun, entry: dict[str, Any]) -> Line:
    stages, peaks = run.summary["stages"], run.peak_memory()
    rates = {quantity.key: quantity.of(entry) for quantity in (CHECKED, UNSEEN, WIN_RATE)}
    return {
        **{key: quantity.change(entry) for key, quantity in CHANGES.items()},
        **{key: rates[key] if key in rates else Rate.from_dict(entry[key]) for key in RATES},
        **{key: entry["win_rate"][key] for key in ("num_prompts", "num_unscored")},
        **{key: entry[key] for key in ("num_no_response", "num_answers")},
        **{key: entry[key] for key in (*LENGTHS, "num_pairs")},
        "stage_seconds": sum(stage["seconds"] for stage in stages),
        "stages_reused": sum(stage["is_reused"] for stage in stages) / len(stages),
        **{key: peaks.get(kind) for key, kind in PEAKS.items()},
    }


def _averages(row: TableRow) -> Line:
    every = [_measures(run, entry) for run, entry in zip(row.runs, row.entries, strict=True)]
    averages: Line = {"num_runs": len(every)}
    for key in every[0]:
        known = [found[key] for found in every if found[key] is not None]
        if key in (*CHANGES, *RATES):
            confidence = row.runs[0].summary["confidence"]
            averages[key] = mean_rate(known, confidence=confidence, is_fraction=key in RATES) if known else None
        elif key in COUNTS:
            averages[key] = sum(known)
        else:
            averages[key] = None if not known else max(known) if key in PEAKS else mean(known)
    return averages | {"folders": " ".join(run.path.name for run in row.runs)}


def _difference_cells(row: TableRow, found: Differences) -> Line:
    reference = found["win_rate"].reference
    return {
        "reference": " ".join(run.path.name for run in reference.runs) if reference else None,
        "is_reference": reference is row,
        **{DIFFERENCES[name]: difference.rate for name, difference in found.items()},
    }


def _reading(runs: Sequence[FinishedRun], *, over: str | None) -> list[str]:
    levels = sorted({run.summary["confidence"] for run in runs})
    intervals = " or ".join(f"{100 * level:g} %" for level in levels) + " intervals"
    what = "Changes: trained minus untrained on the same instructions, of rates in points"
    notes = baseline_notes([run.summary for run in runs])
    if over is None:
        return [f"{what}, with {intervals}; n: instructions.", *notes]
    return [
        f"Means over runs that differ in {over} only, with {intervals} over runs (Student's t; a single run has none). "
        f"{what}. n: instructions of all these runs together; memory: the largest.",
        *notes,
    ]


def _left_out(
    runs: Sequence[FinishedRun], rows: Sequence[TableRow], iteration: Iteration, over: str | None
) -> list[str]:
    shown = {run.path for row in rows for run in row.runs}
    missing = [run for run in runs if run.path not in shown]
    late = [
        run.path.name
        for run in missing
        if isinstance(iteration, int) and all(entry["iteration"] != iteration for entry in run.summary["iterations"])
    ]
    same = [run.path.name for run in missing if run.path.name not in late]
    notes = [f"{len(late)} without iteration {iteration}: {', '.join(sorted(late))}."] if late else []
    if same:
        notes.append(f"{len(same)} left out, each the same run as another, {over} included: {', '.join(sorted(same))}.")
    return notes


def _costs(runs: Sequence[FinishedRun]) -> list[str]:
    stages = [stage for run in runs for stage in run.summary["stages"]]
    distinct = {stage["artifact_id"]: stage["seconds"] for stage in stages}
    total = sum(stage["seconds"] for stage in stages)
    return [
        f"Stages: {len(distinct):,} distinct ones of {len(stages):,} ({100 * len(distinct) / len(stages):.0f} %), "
        f"{sum(distinct.values()):,.0f} s of {total:,.0f} s; seconds are those of computing a stage, whenever that was."
    ]


def _comparisons(rows: Sequence[TableRow], found: Sequence[Differences], *, over: str | None) -> list[str]:
    count = sum(difference.rate is not None for by_name in found for difference in by_name.values())
    paired = "the same instructions" if over is None else f"runs with the same {over}"
    notes = [
        f"Difference: rate less the reference's on {paired}, in points, with its interval; "
        f"p: sign-flip test, by Holm for {count} comparisons."
    ]
    if over is not None:
        notes.append("n runs have a p of 2^(1 - n) or more.")
    reasons: dict[str, list[str]] = {}
    for row, by_name in zip(rows, found, strict=True):
        for reason in dict.fromkeys(difference.reason for difference in by_name.values()):
            if reason is not None:
                reasons.setdefault(reason, []).append(row.name)
    return notes + [f"Not compared, {reason}: {', '.join(names)}." for reason, names in reasons.items()]
