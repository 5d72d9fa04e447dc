"""What the stages of a sweep are, and which are there already, without running any.

A step's id is a hash of its request, so the loop and the `Pipeline` of a run, over a store that computes nothing, ask
for the very artifacts that the run would. Only the epoch that validation selects is not known before its scores are:
stages after it are planned with no epoch, counted, and never taken for any that are there.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from tpo.config.schema import Config
from tpo.judge.select import Selection
from tpo.model.policy import PolicyRef
from tpo.pipeline import Pipeline
from tpo.run import iterate
from tpo.store.artifacts import MANIFEST, Artifact, Store, read_manifest
from tpo.store.errors import ArtifactError
from tpo.store.records import Record
from tpo.store.stage import Step

NO_EPOCH = 0  # of a training whose best epoch has yet to be selected; epochs count from 1

R = TypeVar("R", bound=Record)


class NotComputedError(ArtifactError):
    """The rows of an artifact that is only planned."""


class PlannedArtifact(Artifact):
    """A step that would have to be computed: its manifest is its request, without a metric."""

    def rows(self, kind: type[R], name: str = "rows.jsonl") -> list[R]:
        """Raise, since there are none.

        Raises:
            NotComputedError: Always.
        """
        raise NotComputedError(f"{self.artifact_id} has not been computed")


class PlanStore(Store):
    """A store that computes and writes nothing, and does not verify the files of what it finds."""

    def __init__(self, root: Path) -> None:
        """Look for artifacts in the directory `root`, which need not exist."""
        super().__init__(root, execute=_refuse)

    def run(self, step: Step) -> Artifact:
        """Return the step's artifact if it is there, else a `PlannedArtifact` of the same id."""
        path = self.root / step.artifact_id
        if (path / MANIFEST).exists():
            return Artifact(step.artifact_id, path, read_manifest(path), is_reused=True)
        return PlannedArtifact(step.artifact_id, path, {**step.to_request(), "metrics": {}}, is_reused=False)


def _refuse(path: Path) -> None:
    raise ArtifactError(f"{path}: a plan computes nothing")


class PlannedPipeline(Pipeline):
    """The pipeline of a run that goes on where the best epoch is not known yet."""

    def select(self, checkpoints: Artifact) -> tuple[PolicyRef, Selection]:
        """Select as the run does where all scores are there, else leave the epoch open."""
        try:
            return super().select(checkpoints)
        except NotComputedError:
            return self.seed_policy.trained(checkpoints, NO_EPOCH), Selection(NO_EPOCH, {}, 0)


class Job(NamedTuple):
    """One run of a sweep: its distinct stages in the order in which it asks for them."""

    overrides: tuple[str, ...]
    stages: tuple[Artifact, ...]
    ends: tuple[int, ...]  # stages until the end of iteration 0, 1, ...

    @property
    def first_training(self) -> int:
        """How many stages there are up to the first training, with it; 0 if nothing is trained."""
        kinds = [stage_kind(artifact) for artifact in self.stages]
        return kinds.index("train") + 1 if "train" in kinds else 0


def plan_job(config: Config, *, overrides: Sequence[str] = ()) -> Job:
    """Return what a run with this config would ask for.

    Raises:
        TpoError: If the run would fail before its first stage that takes time.
    """
    tpo = PlannedPipeline(config, PlanStore(Path(config.artifacts_dir)))
    ends: list[int] = []
    iterate(tpo, lambda *_, **__: ends.append(len(tpo.store.asked)), num_iterations=config.num_iterations)
    return Job(tuple(overrides), tuple(tpo.store.asked), tuple(ends))


@dataclass(frozen=True)
class PlannedStage:
    """A distinct stage of a sweep.

    Attributes:
        artifact: What is there, or a `PlannedArtifact`.
        jobs: Positions of the jobs that need it.
        is_open: Whether its id depends on an epoch that has yet to be selected. Jobs share such a stage in a plan; in
            the sweep they do unless they select different epochs.
    """

    artifact: Artifact
    jobs: tuple[int, ...]
    is_open: bool

    @property
    def is_there(self) -> bool:
        """Whether the stage has been computed."""
        return not isinstance(self.artifact, PlannedArtifact)


def distinct_stages(jobs: Sequence[Job]) -> dict[str, PlannedStage]:
    """Return the stages of all jobs by id, in the order in which they are first asked for."""
    artifacts: dict[str, Artifact] = {}
    users: dict[str, list[int]] = {}
    for position, job in enumerate(jobs):
        for artifact in job.stages:
            artifacts.setdefault(artifact.artifact_id, artifact)
            users.setdefault(artifact.artifact_id, []).append(position)
    undecided: set[str] = set()
    for name, artifact in artifacts.items():  # inputs come before what they are inputs of
        inputs, epoch = artifact.manifest["inputs"], artifact.manifest["config"].get("epoch")
        if ("adapter" in inputs and epoch == NO_EPOCH) or undecided & set(inputs.values()):
            undecided.add(name)
    return {name: PlannedStage(artifacts[name], tuple(users[name]), name in undecided) for name in artifacts}


class Sharing(NamedTuple):
    """How many stages a sweep computes from nothing, and how many its jobs would without sharing."""

    part: str  # which part of the jobs
    num_distinct: int
    num_naive: int
    tokens_distinct: int  # budgets, see `tpo.plan.cost`
    tokens_naive: int

    @property
    def ratio(self) -> float:
        """Distinct stages per stage of the naive sweep."""
        return self.num_distinct / self.num_naive


def sharing(jobs: Sequence[Job], budgets: Mapping[str, int]) -> list[Sharing]:
    """Return what jobs share up to the first training, up to the end of the first iteration, and in all.

    Parts without a training, or that are the whole, are left out. What is there already counts as any other: the
    ratios are of the sweep, not of the state of a directory.

    Args:
        jobs: Of the sweep, at least one.
        budgets: Tokens by stage id.
    """
    whole = [len(job.stages) for job in jobs]
    parts = {
        "to the first training": [job.first_training for job in jobs],
        "to the end of iteration 1": [job.ends[min(1, len(job.ends) - 1)] for job in jobs],
        "in all": whole,
    }
    found = []
    for part, counts in parts.items():
        if not any(counts) or (counts == whole and part != "in all"):
            continue
        asked = [
            artifact.artifact_id for job, count in zip(jobs, counts, strict=True) for artifact in job.stages[:count]
        ]
        distinct = set(asked)
        tokens = [sum(budgets[name] for name in names) for names in (distinct, asked)]
        found.append(Sharing(part, len(distinct), len(asked), *tokens))
    return found


def stage_kind(artifact: Artifact) -> str:
    """Return which computation the artifact is of, such as "sample"."""
    kind: str = artifact.manifest["stage"]
    return kind


def requests(stages: Mapping[str, PlannedStage]) -> dict[str, dict[str, Any]]:
    """Return what each stage's request or manifest says, by id."""
    return {name: stage.artifact.manifest for name, stage in stages.items()}
