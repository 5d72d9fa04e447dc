"""What runs left in the artifacts: lengths, comparisons and peak memory, where these artifacts are at hand."""

from pathlib import Path
from statistics import mean
from typing import Any

from tpo.results.stats import student_interval
from tpo.results.table.find import REPOSITORY, Run, load_json
from tpo.store.artifacts import MANIFEST, open_artifact
from tpo.store.records import Comparison, Completion


def with_length_intervals(run: Run) -> dict[str, Any]:
    """Return a run's summary with intervals of the mean lengths, where the artifacts with its answers are at hand.

    Entries gain "thought_tokens" and "response_tokens": "mean", a 95 % "interval" (Student's t over instructions) and
    "num_prompts". Only answers that hold a response count, as in the summary's own means. A summary that does not name
    its artifacts, or whose artifacts lie elsewhere, comes back as it is.
    """
    entries = []
    for entry in run.summary["iterations"]:
        path = _artifact_path(run, entry, "answers")
        entries.append({**entry, **({} if path is None else _lengths(path))})
    return {**run.summary, "iterations": entries}


def wins(run: Run, entry: dict[str, Any]) -> dict[str, float | None] | None:
    """Return by prompt_id what an iteration's comparison gave the policy, None where unscored.

    None in place of all where the artifact with the comparison is not at hand.

    Args:
        run: Whose folder of artifacts it is.
        entry: One of the summary's iterations.
    """
    path = _artifact_path(run, entry, "comparison")
    return None if path is None else {row.prompt_id: row.win for row in open_artifact(path).rows(Comparison)}


def peak_memory(run: Run) -> dict[str, float]:
    """Return the largest "host" and "device" memory in MiB that a process which computed one of the stages had used.

    That process may have computed other stages before, of other runs too. Empty where a stage's manifest is not at
    hand; without "device" where no stage used one.
    """
    paths = [_artifacts_dir(run) / stage["artifact_id"] / MANIFEST for stage in run.summary.get("stages", [])]
    if not paths or not all(path.exists() for path in paths):
        return {}
    peaks = [load_json(path)["peak_memory_mib"] for path in paths]
    kinds = [kind for kind in ("host", "device") if any(kind in peak for peak in peaks)]
    return {kind: max(peak[kind] for peak in peaks if kind in peak) for kind in kinds}


def _artifacts_dir(run: Run) -> Path:
    return REPOSITORY / str(run.config.get("artifacts_dir", "artifacts"))


def _artifact_path(run: Run, entry: dict[str, Any], role: str) -> Path | None:
    path = _artifacts_dir(run) / entry.get("artifacts", {}).get(role, "unnamed")
    return path if (path / MANIFEST).exists() else None


def _lengths(path: Path) -> dict[str, Any]:
    answers = [row for row in open_artifact(path).rows(Completion) if row.response is not None]
    found = {}
    for part in ("thought", "response"):
        lengths = [float(getattr(row, f"num_{part}_tokens")) for row in answers]
        if len(lengths) < 2:
            continue
        interval = student_interval(lengths, confidence=0.95)
        found[f"{part}_tokens"] = {"mean": mean(lengths), "interval": list(interval), "num_prompts": len(lengths)}
    return found
