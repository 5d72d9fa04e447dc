"""The table of runs: a row for each, the settings in which runs differ, and what came out."""

from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

from tpo.results.rate import Rate
from tpo.results.read import FinishedRun
from tpo.results.stats import student_interval
from tpo.results.table.against import Difference, differences, read_reference
from tpo.results.table.rows import Iteration, TableRow, make_rows

if TYPE_CHECKING:
    from pandas import DataFrame

RATES = {"win_rate": "win rate", "win_rate_length_controlled": "length-controlled"}
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
        floats = [*LENGTHS, *PEAKS, "stage_seconds", "stages_reused", "p_value", "p_value_holm"]
        floats += [f"{key}{edge}" for key in (*RATES, "difference") for edge in ("", "_low", "_high")]
        frame = frame.astype({key: float for key in floats if key in frame})
        return frame.set_index(frame.columns[0]) if rows else frame


def _columns(key: str, cell: Any) -> list[tuple[str, Any]]:
    if key not in (*RATES, "difference"):
        return [(key, cell)]
    rate = cell or Rate(None, None, 0, 0)
    low, high = rate.interval or (None, None)
    columns = [(key, rate.rate), (f"{key}_low", low), (f"{key}_high", high)]
    if key == "difference":
        columns += [("p_value", rate.p_value), ("p_value_holm", rate.adjusted_p_value)]
        columns += [("num_paired", cell and rate.num_prompts), ("num_unpaired", cell and rate.num_unscored)]
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
        a run has no such setting); "iteration"; "win_rate" and "win_rate_length_controlled", in `frame` each with its
        interval as "_low" and "_high"; "num_prompts", "num_unscored"; mean tokens; "num_pairs", which the iteration was
        trained on; of the whole run, "stage_seconds" (of all its stages, whenever computed), "stages_reused" (the
        fraction that others computed) and "peak_host_mib", "peak_device_mib" where the manifests are at hand; "judge",
        "baseline" and "confidence" where they differ between runs.

        With `over`, a line by the experiment's name for runs that differ in that key only, "num_runs" of them in
        "folders". Rates are means over runs with Student's t interval over runs, within [0, 1], none of a single run;
        counts of instructions are sums, peaks the largest, all else means. With `against`, "reference" (folders),
        "is_reference" and "difference" of win rates, in `frame` also its "p_value" and Holm's "p_value_holm",
        "num_paired" and "num_unpaired" instructions (with `over`, runs).

    Raises:
        ResultError: If `over` or `against` names nothing.
    """
    reference = None if against is None else read_reference(against)
    if isinstance(reference, FinishedRun) and reference.path.resolve() not in {run.path.resolve() for run in runs}:
        runs = [*runs, reference]
    rows = make_rows(runs, iteration=iteration, over=over)
    if not rows:
        return ResultsTable([], (), tuple(_left_out(runs, rows, iteration, over)))
    found: Sequence[Difference] = ()
    if reference is not None:
        found = differences(rows, reference, same_iteration=iteration == "all", averaged=over is not None)
    differing = [key for key in ("judge", "baseline", "confidence") if len({run.summary[key] for run in runs}) > 1]
    lines: list[Line] = []
    for place, row in enumerate(rows):
        line = {"run" if over is None else "experiment": row.name, **row.settings, "iteration": row.iteration}
        line |= _measures(row.runs[0], row.entries[0]) if over is None else _averages(row)
        line |= {key: row.runs[0].summary[key] for key in differing if key not in line}
        lines.append(line | (_difference_cells(row, found[place]) if found else {}))
    for key in PEAKS:
        if all(line[key] is None for line in lines):
            lines = [{name: cell for name, cell in line.items() if name != key} for line in lines]
    notes = [*_reading(runs, over=over), *_left_out(runs, rows, iteration, over), *_costs(runs)]
    notes += _comparisons(rows, found, over=over) if found else []
    return ResultsTable(lines, tuple(rows[0].settings), tuple(notes))


def _measures(run: FinishedRun, entry: dict[str, Any]) -> Line:
    stages, peaks = run.summary["stages"], run.peak_memory()
    return {
        **{key: Rate.from_dict(entry[key]) for key in RATES},
        **{key: entry["win_rate"][key] for key in ("num_prompts", "num_unscored")},
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
        if key in RATES:
            averages[key] = _mean_rate(known, confidence=row.runs[0].summary["confidence"])
        elif key in ("num_prompts", "num_unscored"):
            averages[key] = sum(known)
        else:
            averages[key] = None if not known else max(known) if key in PEAKS else mean(known)
    return averages | {"folders": " ".join(run.path.name for run in row.runs)}


def _mean_rate(rates: Sequence[Rate], *, confidence: float) -> Rate:
    """Return the mean over runs with Student's t interval over runs, within [0, 1]; none of a single run."""
    values = [rate.rate for rate in rates if rate.rate is not None]
    interval = None
    if len(values) > 1:
        low, high = student_interval(values, confidence=confidence)
        interval = max(0.0, low), min(1.0, high)
    num_prompts, num_unscored = (sum(getattr(rate, key) for rate in rates) for key in ("num_prompts", "num_unscored"))
    return Rate(mean(values) if values else None, interval, num_prompts, num_unscored)


def _difference_cells(row: TableRow, found: Difference) -> Line:
    return {
        "reference": " ".join(run.path.name for run in found.reference.runs) if found.reference else None,
        "is_reference": found.reference is row,
        "difference": found.rate,
    }


def _reading(runs: Sequence[FinishedRun], *, over: str | None) -> list[str]:
    levels = sorted({run.summary["confidence"] for run in runs})
    intervals = " or ".join(f"{100 * level:g} %" for level in levels) + " intervals"
    if over is None:
        return [f"Win rates with {intervals}; n: instructions."]
    return [
        f"Means over runs that differ in {over} only, with {intervals} over runs (Student's t; a single run has none). "
        "n: instructions of all these runs together; memory: the largest."
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


def _comparisons(rows: Sequence[TableRow], found: Sequence[Difference], *, over: str | None) -> list[str]:
    count = sum(difference.rate is not None for difference in found)
    paired = "the same instructions" if over is None else f"runs with the same {over}"
    notes = [
        f"Difference: win rate less the reference's on {paired}, in points, with its interval; "
        f"p: sign-flip test, by Holm for {count} comparisons."
    ]
    if over is not None:
        notes.append("n runs have a p of 2^(1 - n) or more.")
    reasons: dict[str, list[str]] = {}
    for row, difference in zip(rows, found, strict=True):
        if difference.reason is not None:
            reasons.setdefault(difference.reason, []).append(row.name)
    return notes + [f"Not compared, {reason}: {', '.join(names)}." for reason, names in reasons.items()]
