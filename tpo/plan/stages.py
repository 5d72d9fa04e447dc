"""The stages of a sweep, and which of them exist already, without running any.

A step's id is a hash of its request. So the loop and the `Pipeline` of a run, over a store that computes nothing,
request the same artifacts as the run would. Only the epoch that validation selects is unknown before the scores are:
later stages are planned without an epoch, counted, and never taken for existing ones.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, TypeVar

from tpo.config.schema import Config
from tpo.judge.select import Selection, only_epoch
from tpo.loop import iterate
from tpo.model.policy import PolicyRef
from tpo.pipeline import Pipeline
from tpo.store.artifacts import Artifact
from tpo.store.errors import ArtifactError
from tpo.store.records import Record
from tpo.store.stage import Step
from tpo.store.store import Store, find_artifact

NO_EPOCH = 0  # of a training whose best epoch has yet to be selected; epochs count from 1

R = TypeVar("R", bound=Record)


class NotComputedError(ArtifactError):
    """Raised where the rows of an artifact are read that is only planned."""


class PlannedArtifact(Artifact):
    """A step that would have to be computed: its manifest is its request, without a metric.

    What is there of steps that come from it is taken for stale, since nobody knows what it will hold.
    """

    content = ""

    def rows(self, kind: type[R], name: str = "rows.jsonl") -> Iterator[R]:
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
        found = find_artifact(step, path)
        if found is not None:
            return found
        return PlannedArtifact(step.artifact_id, path, {**step.to_request(), "metrics": {}}, is_reused=False)


def _refuse(path: Path) -> None:
    raise ArtifactError(f"{path}: a plan computes nothing")


class PlannedPipeline(Pipeline):
    """The pipeline of a run that continues without an epoch where the best one is not known yet."""

    def select(self, checkpoints: Artifact) -> tuple[PolicyRef, Selection]:
        """Select as the run does where all scores are there, else leave the epoch open."""
        try:
            return super().select(checkpoints)
        except NotComputedError:
            return self.seed_policy.trained(checkpoints, NO_EPOCH), only_epoch(NO_EPOCH)

    def collapse(self, answers: Artifact, untrained: Artifact) -> str | None:
        """Say what the run says where all answers are there; a plan of others assumes the best."""
        try:
            return super().collapse(answers, untrained)
        except NotComputedError:
            return None


class PlannedRun(NamedTuple):
    """One run of a sweep: its distinct stages in the order in which it asks for them."""

    overrides: tuple[str, ...]
    stages: tuple[Artifact, ...]


def plan_job(config: Config, *, overrides: Sequence[str] = ()) -> PlannedRun:
    """Return what a run with this config would ask for.

    Raises:
        TpoError: If the run would fail before its first stage that takes time.
    """
    tpo = PlannedPipeline(config, PlanStore(Path(config.artifacts_dir)))
    iterate(tpo, lambda *_, **__: None, num_iterations=config.num_iterations)
    return PlannedRun(tuple(overrides), tuple(tpo.store.asked))


@dataclass(frozen=True)
class PlannedStep:
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


def distinct_steps(jobs: Sequence[PlannedRun]) -> dict[str, PlannedStep]:
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
    return {name: PlannedStep(artifacts[name], tuple(users[name]), name in undecided) for name in artifacts}


def stage_kind(artifact: Artifact) -> str:
    """Return which computation the artifact is of, such as "sample"."""
    kind: str = artifact.manifest["stage"]
    return kind
