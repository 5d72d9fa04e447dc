"""The one reader of results: finished runs, evaluations and measured judges, each a folder, or what W&B holds."""

import glob
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tpo.results.checked import pass_rates, split_unseen
from tpo.store.artifacts import Artifact, OutdatedError, open_artifact
from tpo.store.environment import REPOSITORY
from tpo.store.errors import TpoError
from tpo.store.files import SealError
from tpo.store.layout import MANIFEST, folders_below
from tpo.store.records import CheckResult, Comparison, Completion
from tpo.store.run_files import is_run, read_run_file

log = logging.getLogger(__name__)

WANDB = "wandb:"  # begins the name of what is read from W&B in place of a folder


class ResultError(TpoError):
    """A folder holds no results, or damaged ones."""


@dataclass(frozen=True)
class FinishedRun:
    """A finished run of `python -m tpo.run`, and what it left in artifacts where these are at hand."""

    path: Path
    summary: dict[str, Any]
    config: dict[str, Any]

    def wins(self, entry: dict[str, Any]) -> dict[str, float | None] | None:
        """Return by prompt_id what the comparison of one of the summary's iterations gave the policy, None if unscored.

        None in place of all where the artifact with the comparison is not at hand.
        """
        found = self._artifact(entry["artifacts"]["comparison"])
        return None if found is None else {row.prompt_id: row.win for row in found.rows(Comparison)}

    def passed(self, entry: dict[str, Any]) -> dict[str, float] | None:
        """Return by prompt_id the share of one of the summary's iterations' answers that pass all checks, strictly.

        Instructions with unseen types of checks are left out, as they are of the checked rate. None in place of all
        where the artifact with the checks is not at hand, or there are none.
        """
        name = entry["artifacts"].get("checked")
        found = None if name is None else self._artifact(name)
        if found is None:
            return None
        known, _ = split_unseen([*found.rows(CheckResult)], unseen=entry["checked"]["unseen_types"])
        return pass_rates(known)

    def base_ids(self, entry: dict[str, Any]) -> dict[str, str]:
        """Return by prompt_id which instruction each compared one was made from, where `wins` are at hand."""
        found = self._artifact(entry["artifacts"]["comparison"])
        return {} if found is None else {row.prompt_id: row.base_id for row in found.rows(Comparison)}

    def answers(self, entry: dict[str, Any]) -> Iterator[Completion] | None:
        """Return the held-out answers of one of the summary's iterations, None where their artifact is not at hand."""
        found = self._artifact(entry["artifacts"]["answers"])
        return None if found is None else found.rows(Completion)

    def training(self, entry: dict[str, Any]) -> list[dict[str, float]]:
        """Return trl's metrics of each step that trained one of the summary's iterations, in order.

        Empty for iteration 0, and where the artifact of the training is not at hand.
        """
        found = self._artifact(entry["artifacts"]["train"]) if "train" in entry["artifacts"] else None
        if found is None:
            return []
        lines = found.verified("metrics.jsonl").read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines]

    def peak_memory(self) -> dict[str, float]:
        """Return the largest "host" and "device" memory in MiB that a process which computed a stage had used.

        That process may have computed other stages before, of other runs too. Empty where a stage's manifest is not at
        hand; without "device" where no stage used one.
        """
        found = [self._artifact(stage["artifact_id"]) for stage in self.summary["stages"]]
        peaks = [artifact.manifest["peak_memory_mib"] for artifact in found if artifact is not None]
        if len(peaks) < len(found):
            return {}
        kinds = [kind for kind in ("host", "device") if any(kind in peak for peak in peaks)]
        return {kind: max(peak[kind] for peak in peaks if kind in peak) for kind in kinds}

    @property
    def artifacts_dir(self) -> Path:
        """Where its artifacts lie: a relative folder as `tpo.run` has it, or else in the repository, for notebooks."""
        path = Path(self.config["artifacts_dir"])
        return REPOSITORY / path if not path.exists() and (REPOSITORY / path).exists() else path

    def _artifact(self, name: str) -> Artifact | None:
        """Return an artifact of the run, None where it is not at hand as the run left it."""
        path = self.artifacts_dir / name
        if not (path / MANIFEST).exists():
            return None
        try:
            found = open_artifact(path)
        except OutdatedError as error:
            log.warning("%s: %s", self.path, error)
            return None
        if contents_of(self.summary).get(name, found.content) != found.content:
            log.warning("%s: %s was computed anew since, so it is left out; repeat the run", self.path, path)
            return None
        return found


@dataclass(frozen=True)
class FinishedEvaluation:
    """A finished evaluation of `python -m tpo.evaluate`; `kind` is the summary's "evaluation"."""

    path: Path
    summary: dict[str, Any]

    @property
    def kind(self) -> str:
        """Which evaluation it is."""
        kind: str = self.summary["evaluation"]
        return kind


@dataclass(frozen=True)
class MeasuredJudges:
    """Judges that `python -m tpo.evaluate.agreement` measured on the same data, the best first, unscored ones last."""

    path: Path
    judges: list[dict[str, Any]]


class Folders(NamedTuple):
    """What folders hold, each list sorted by absolute path."""

    runs: list[FinishedRun]
    evaluations: list[FinishedEvaluation]
    judges: list[MeasuredJudges]
    unfinished: list[Path]  # runs without a summary
    others: list[Path]  # that hold nothing of these


def read_folder(path: Path) -> FinishedRun | FinishedEvaluation | MeasuredJudges | None:
    """Return what the folder `path` holds, or None if that is nothing that can be shown, or is not finished.

    It may be one of W&B's own, such as wandb/offline-run-*, which keeps the same files in files/.

    Raises:
        ResultError: If a file is not JSON.
    """
    files = path / "files" if (path / "files" / "summary.json").exists() else path
    if (files / "summary.json").exists():
        summary = load_json(files / "summary.json")
        if "iterations" in summary and (files / "config.json").exists():
            return FinishedRun(path, summary, load_json(files / "config.json"))
        return FinishedEvaluation(path, summary) if "evaluation" in summary else None
    judges = read_judges(path)
    return MeasuredJudges(path, judges) if judges else None


def read_run(path: Path) -> FinishedRun:
    """Return the run in the folder `path`.

    Raises:
        ResultError: If it holds no finished run, or a file is not JSON.
    """
    summary, config = (load_json(path / name) for name in ("summary.json", "config.json"))
    if "iterations" not in summary or "thought" not in config:
        raise ResultError(f"{path}: summary.json and config.json are not those of a run of tpo.run. Give runs/<name>")
    return FinishedRun(path, summary, config)


def read_judges(path: Path) -> list[dict[str, Any]]:
    """Return the judges measured in the folder `path`, the best first, those that scored nothing last."""
    found = [load_json(file) for file in sorted(path.glob("*.json"))]
    rates = [
        (judge["slices"]["all"]["rate"], judge) for judge in found if isinstance(judge, dict) and "slices" in judge
    ]
    return [judge for _, judge in sorted(rates, key=lambda item: (item[0] is None, -(item[0] or 0)))]


def read_folders(names: Sequence[str]) -> Folders:
    """Return what folders hold, each once, however often and in whichever order it is named.

    Args:
        names: Folders, folders of such folders, or glob patterns, relative to where the command runs or else to the
            repository's root; W&B's folders of offline runs, such as `runs/*/wandb/offline-run-*`, among them.
            `wandb:entity/project` and `wandb:entity/project/quickstart-*` are read through W&B's API, into `wandb/` at
            the repository's root.

    Raises:
        ResultError: If a named folder does not exist, or a file is not JSON; patterns may match nothing.
        TrackingError: If W&B does not give what was asked for.
    """
    found = Folders([], [], [], [], [])
    for path in sorted({path.resolve() for name in names for path in matching(name)}):
        match read_folder(path):
            case FinishedRun() as run:
                found.runs.append(run)
            case FinishedEvaluation() as evaluation:
                found.evaluations.append(evaluation)
            case MeasuredJudges() as judges:
                found.judges.append(judges)
            case None:
                (found.unfinished if _is_unfinished(path) else found.others).append(path)
    return found


def _is_unfinished(path: Path) -> bool:
    config = path / "config.json"
    return config.exists() and not (path / "summary.json").exists() and "num_iterations" in load_json(config)


def matching(name: str) -> list[Path]:
    """Return the folders that a name or a pattern means (see `read_folders`), a pattern's perhaps none.

    Raises:
        ResultError: If a named folder does not exist.
    """
    if Path(name).exists():
        return _parts(Path(name))
    if name.startswith(WANDB):
        from tpo.results.tracking.download import download_results  # nobody else waits for what tracking imports

        return download_results(name.removeprefix(WANDB), REPOSITORY / "wandb")
    for pattern in (name, str(REPOSITORY / name)):
        found = [Path(path) for path in sorted(glob.glob(pattern)) if Path(path).is_dir()]
        if found:
            return found
    if not set(name) & set("*?["):
        raise ResultError(
            f"{name}: there is no such folder. Name folders below runs/, such as runs/quickstart-bdbd3c7e264f, or "
            "quote a pattern, such as 'runs/quickstart-*'; `make quickstart` makes a run"
        )
    return []


def _parts(path: Path) -> list[Path]:
    """Return what is read where a folder is named: itself, or in a directory of runs' folders each of these."""
    is_wandb = (path / "files" / "summary.json").exists()
    if is_run(path) or is_wandb or read_folder(path) is not None or not path.is_dir():
        return [path]
    return sorted(folder for folder in folders_below(path) if is_run(folder)) or [path]


def contents_of(summary: dict[str, Any]) -> dict[str, str]:
    """Return what the artifacts of a run or an evaluation held when it ended (`Artifact.content`), by id.

    "", which none has, where the summary does not say it.
    """
    return {stage["artifact_id"]: stage.get("content", "") for stage in summary.get("stages", [])}


def load_json(path: Path) -> Any:
    """Return what a JSON file of a run's folder holds.

    Raises:
        ResultError: If there is no file, or it is not as it was written (`tpo.store.run_files`).
    """
    try:
        return read_run_file(path)
    except SealError as error:
        raise ResultError(f"{error}. Repeat the command that made it.") from error
    except FileNotFoundError as error:
        raise ResultError(f"{path} does not exist: give the folder of a finished run, runs/<name>") from error
