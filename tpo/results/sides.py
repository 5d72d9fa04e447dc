"""A side of a comparison: which policy's answers to held-out instructions, and what was made of them.

runs/<run>, runs/<run>@2       a run's policy after its last iteration, or after iteration 2 (0: untrained)
runs/<run>@baseline            the answers that the run's policies are compared with
runs/<evaluation>[@baseline]   the policy that an evaluation is of, or its baseline
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tpo.results.marks import asked, passed
from tpo.results.read import (
    FinishedEvaluation,
    FinishedRun,
    ResultError,
    contents_of,
    load_json,
    matching,
    read_folder,
)
from tpo.store.artifacts import Artifact, open_artifact
from tpo.store.environment import REPOSITORY
from tpo.store.files import content_hash
from tpo.store.layout import MANIFEST
from tpo.store.records import Comparison, Completion, Prompt, Score

BASELINE = "baseline"
#: Inputs of a judge's stages that are what it judges; the others say what it is.
JUDGED = ("prompts", "completions", "references", "labelled")


class Answers(NamedTuple):
    """A side's answers to one instruction; the first one is shown.

    Attributes:
        samples: At least one.
        scores: Of each sample, by a judge that scores each by itself; empty where the judge does not.
        score: Their mean as the comparison has it, or a score that means something only beside the other side's.
        win: Over the baseline of its comparison; None where unscored, one half of the baseline itself.
        reason: Why there is no score or win.
        passed: Of each sample, which checks it passes; empty where the instruction has none.
    """

    samples: tuple[Completion, ...]
    scores: tuple[float | None, ...]
    score: float | None
    win: float | None
    reason: str | None
    passed: tuple[tuple[bool, ...], ...]

    @property
    def share_passed(self) -> float | None:
        """The share of the samples that pass all checks; None where the instruction has none."""
        return sum(map(all, self.passed)) / len(self.passed) if self.passed else None


@dataclass(frozen=True)
class Side:
    """A policy or a baseline, in the comparison that it was judged in.

    Attributes:
        name: As it is named in a command, without the folder: "quickstart-a99935a69f87@2".
        title: Among the sides of one run or evaluation: "Iteration 2".
        place: What it is of.
        judge: The judge's kind.
        comparison: The artifact with the verdicts.
        is_baseline: Whether it is the baseline's side of it.
    """

    name: str
    title: str
    place: FinishedRun | FinishedEvaluation
    judge: str
    comparison: Artifact
    is_baseline: bool = False

    @property
    def is_scored_alone(self) -> bool:
        """Whether a score means the same whatever it was judged with, so that two sides' scores compare."""
        settings = self.comparison.manifest["config"]
        return "scores" in self.comparison.manifest["inputs"] and not settings["are_together"]

    @property
    def baseline_id(self) -> str:
        """The artifact with the answers that wins are against."""
        inputs = self.comparison.manifest["inputs"]
        found: str = inputs.get("baseline_completions") or inputs["references"]
        return found

    @property
    def loses_without_response(self) -> bool:
        """Whether an answer without a response loses, rather than that nothing is said of it."""
        return bool(self.comparison.manifest["config"]["no_response"] == "loss")

    @property
    def judge_id(self) -> str:
        """A hash of all that a score depends on but what is judged: settings and model of the judge."""
        inputs = self.comparison.manifest["inputs"]
        return content_hash(_judging(self.artifact("scores" if "scores" in inputs else "verdicts")))

    def prompts(self) -> dict[str, Prompt]:
        """Return the instructions that were compared, by id, in their order."""
        rows = self.artifact("prompts").rows(Prompt)
        return {row.prompt_id: row for row in rows if row.split == "test"}

    def answers(self, prompts: Mapping[str, Prompt]) -> dict[str, Answers]:
        """Return the answers to instructions among those that were compared, by prompt_id, in the order of `prompts`.

        Raises:
            ArtifactError: If an artifact is missing, damaged or of another version.
            RecordError: If a row is of another version.
        """
        role = "baseline_" if self.is_baseline else ""
        samples: dict[str, list[Completion]] = defaultdict(list)
        for row in self.artifact(f"{role}completions").rows(Completion):
            if row.prompt_id in prompts:
                samples[row.prompt_id].append(row)
        scores: dict[Any, Score] = {}
        if self.is_scored_alone:
            rows = self.artifact(f"{role}scores").rows(Score)
            scores = {row.key: row for row in rows if row.prompt_id in prompts}
        compared = {row.prompt_id: row for row in self.comparison.rows(Comparison) if row.prompt_id in prompts}

        def of(prompt: Prompt) -> Answers:
            mine, row, checks = tuple(samples[prompt.prompt_id]), compared[prompt.prompt_id], prompt.checks
            found = [scores[sample.key] for sample in mine] if scores else []
            reason = found[0].unscored_reason if found else None if self.is_baseline else row.unscored_reason
            # A baseline that was judged together with others has another score in each comparison.
            score = row.policy_score if not self.is_baseline else row.baseline_score if scores else None
            return Answers(
                samples=mine,
                scores=tuple(one.score for one in found),
                score=score,
                win=0.5 if self.is_baseline else row.win,
                reason=reason,
                passed=tuple(tuple(passed(checks, one.response)) for one in mine) if asked(checks) else (),
            )

        return {prompt_id: of(prompt) for prompt_id, prompt in prompts.items()}

    def artifact(self, role: str) -> Artifact:
        """Return an input of the comparison: "prompts", "completions", "scores", ...

        Raises:
            ArtifactError: If it is not at hand.
        """
        return self.comparison.input(role)


def read_sides(names: Sequence[str]) -> tuple[Side, Side]:
    """Return the two sides that are named; of one run alone, what it was before training and what it became.

    Raises:
        ResultError: If there are more, one is no finished run or evaluation or has no such iteration, its artifacts are
            not at hand, or both are the same.
    """
    if len(names) == 1:
        names = [_before(names[0]), names[0]]
    if len(names) != 2:
        raise ResultError(
            f"--samples shows two policies side by side, but {len(names)} are named: name one run, or two, or two "
            "iterations of one, such as runs/<run>@1 runs/<run>@2"
        )
    first, second = (read_side(name) for name in names)
    if (first.comparison.path, first.is_baseline) == (second.comparison.path, second.is_baseline):
        raise ResultError(f"{names[0]} and {names[1]} are the same answers: name another run or iteration, such as @0")
    return first, second


def read_side(text: str) -> Side:
    """Return the side that `text` names (see the module's text).

    Raises:
        ResultError: If there is no such run or evaluation, no such iteration, or its artifacts are not at hand.
    """
    path, which = split_name(text)
    found = _folder(path)
    if isinstance(found, FinishedRun):
        entries = {str(entry["iteration"]): entry for entry in found.summary["iterations"]}
        if which == BASELINE:
            return _side_of_run(found, found.summary["iterations"][0], is_baseline=True)
        which = which or list(entries)[-1]
        if which not in entries:
            raise ResultError(f"{text}: the run has no iteration {which}; it has @{BASELINE}, @{', @'.join(entries)}")
        return _side_of_run(found, entries[which])
    if which not in (None, BASELINE):
        raise ResultError(f"{text}: an evaluation has no iterations; name it alone, or with @{BASELINE}")
    return _side_of_evaluation(found, is_baseline=which == BASELINE)


def split_name(text: str) -> tuple[Path, str | None]:
    """Return the folder that `text` names, and which of its sides: a number, "baseline" or None.

    Raises:
        ResultError: If there is no such folder, or it is a pattern for several.
    """
    place, _, which = text.rpartition("@")
    is_named = bool(place) and (which.isdecimal() or which == BASELINE) and not Path(text).exists()
    found = matching(place if is_named else text)
    if len(found) != 1:
        raise ResultError(f"{text}: {len(found)} folders match; --samples needs the names of one or two")
    return found[0], which if is_named else None


def sides_of_run(run: FinishedRun) -> Iterator[Side]:
    """Yield a run's baseline and the policy after each iteration, in order.

    Raises:
        ResultError: If an artifact is not at hand.
    """
    entries = run.summary["iterations"]
    yield _side_of_run(run, entries[0], is_baseline=True)
    for entry in entries:
        yield _side_of_run(run, entry)


def _side_of_run(run: FinishedRun, entry: dict[str, Any], *, is_baseline: bool = False) -> Side:
    number = entry["iteration"]
    comparison = _comparison(run, run.artifacts_dir, entry["artifacts"]["comparison"])
    title = f"Iteration {number}" if number else "Iteration 0, untrained"
    which, title = (BASELINE, BASELINE.capitalize()) if is_baseline else (number, title)
    name = f"{run.path.resolve().name}@{which}"
    return Side(name, title, run, run.summary["judge"], comparison, is_baseline=is_baseline)


def _side_of_evaluation(found: FinishedEvaluation, *, is_baseline: bool) -> Side:
    kind, name, summary = found.kind, found.path.resolve().name, found.summary
    if "comparison" not in summary.get("artifacts", {}):
        raise ResultError(f"{found.path}: eval={kind} has no comparison of a policy's answers, so no side to show")
    config = load_json(found.path / "config.json")
    comparison = _comparison(found, Path(config["artifacts_dir"]), summary["artifacts"]["comparison"])
    if is_baseline and "baseline_completions" not in comparison.manifest["inputs"]:
        raise ResultError(f"{found.path}: eval={kind} compares with the benchmark's own answers, not a policy's")
    if is_baseline:
        return Side(f"{name}@{BASELINE}", summary[BASELINE], found, summary["judge"], comparison, is_baseline=True)
    return Side(name, summary["policy"], found, summary["judge"], comparison)


def _before(name: str) -> str:
    """Return the side that a run or an evaluation is shown against where it is named alone."""
    path, which = split_name(name)
    if which == BASELINE:
        raise ResultError(f"{name}: name what it is shown against, too")
    found = _folder(path)
    last = found.summary["iterations"][-1]["iteration"] if isinstance(found, FinishedRun) else 0
    is_trained = int(last if which is None else which) > 0
    return f"{name if which is None else name.rpartition('@')[0]}@{0 if is_trained else BASELINE}"


def _folder(path: Path) -> FinishedRun | FinishedEvaluation:
    found = read_folder(path)
    if not isinstance(found, FinishedRun | FinishedEvaluation):
        raise ResultError(
            f"{path}: no finished run or evaluation (summary.json and config.json). The command that made the folder, "
            "repeated, finishes it"
        )
    return found


def _comparison(place: FinishedRun | FinishedEvaluation, artifacts_dir: Path, name: str) -> Artifact:
    if not artifacts_dir.exists() and (REPOSITORY / artifacts_dir).exists():
        artifacts_dir = REPOSITORY / artifacts_dir
    if not (artifacts_dir / name / MANIFEST).exists():
        raise ResultError(
            f"{place.path}: its artifact {artifacts_dir / name}, with what was answered, is not at hand; the command "
            "that made the folder, repeated, computes it again"
        )
    return open_artifact(artifacts_dir / name, content=contents_of(place.summary).get(name))


def _judging(artifact: Artifact) -> dict[str, Any]:
    """Return what a judge's artifact was computed with, without what was judged."""
    manifest = artifact.manifest
    parts = {}
    for role, name in manifest["inputs"].items():
        if not role.startswith(JUDGED):  # the model is a part by its name, the members of an ensemble by what they are
            parts[role] = name if role == "model" else _judging(artifact.input(role))
    return {key: manifest[key] for key in ("stage", "version", "config")} | {"inputs": parts}
