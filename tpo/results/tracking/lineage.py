"""What a run or an evaluation was made of: its stages as artifacts of W&B, from manifests on disk.

W&B's graph goes from artifact to run to artifact and has no cycles, and a job is one run. So what a job is for, its
adapters and comparisons, are the run's outputs, and all that they rest on are its inputs, whichever job computed it;
what was made of what among the inputs is in each one's metadata, as ids, which are the artifacts' names.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tpo.store.artifacts import read_manifest
from tpo.store.layout import MANIFEST

OUTPUTS = {"train", "comparison"}  # roles among a summary's `artifacts`
NOT_SHOWN = {"preflight"}  # stages of which nothing is made


@dataclass(frozen=True)
class Node:
    """A stage's artifact as W&B gets it.

    Attributes:
        artifact_id: Its name there.
        manifest: Of the artifact.
        is_output: Whether it is the run's own result.
    """

    artifact_id: str
    manifest: dict[str, Any]
    is_output: bool

    @property
    def stage(self) -> str:
        """The computation; the artifact's type there."""
        return str(self.manifest["stage"])

    @property
    def content(self) -> str:
        """What the artifact is, as JSON: the request and the digests of its files. Equal artifacts have equal content.

        No clock, no machine, and nothing of `Step.how`, which may say where a server is.
        """
        identity = {key: self.manifest[key] for key in ("stage", "version", "config", "inputs", "seed", "files")}
        return json.dumps(identity, indent=2, sort_keys=True, ensure_ascii=False) + "\n"

    @property
    def metadata(self) -> dict[str, Any]:
        """Settings, metrics and the ids of the inputs, and how, when and for how long it was computed."""
        keys = ("stage", "inputs", "config", "seed", "metrics", "started", "seconds", "environment")
        return {key: self.manifest[key] for key in keys}


def lineage(summary: dict[str, Any], artifacts_dir: Path) -> list[Node]:
    """Return the artifacts that a run's or an evaluation's summary rests on, inputs before what was made of them.

    All stages of it, and what these were made of; of an evaluation not what the policy's adapter was made of: the run
    that trained it has that. An artifact that was deleted is left out; others still name it.
    """
    named = list(_named(summary))
    outputs = {artifact_id for role, artifact_id in named if role in OUTPUTS}
    stages = [stage["artifact_id"] for stage in summary.get("stages", []) if stage["stage"] not in NOT_SHOWN]
    nodes: dict[str, Node] = {}

    def visit(artifact_ids: Iterable[str]) -> None:
        for artifact_id in artifact_ids:
            path = artifacts_dir / artifact_id
            if artifact_id in nodes or not (path / MANIFEST).exists():
                continue
            node = Node(artifact_id, read_manifest(path), artifact_id in outputs)
            if node.stage != "train" or node.is_output:
                visit(node.manifest["inputs"].values())
            nodes[artifact_id] = node

    visit([*stages, *(artifact_id for _, artifact_id in named)])
    return list(nodes.values())


def _named(value: Any) -> Iterator[tuple[str, str]]:
    """Yield role and id of every artifact that a summary names under a key `artifacts`."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from item.items() if key == "artifacts" else _named(item)
    elif isinstance(value, list):
        for item in value:
            yield from _named(item)
