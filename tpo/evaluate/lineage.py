"""What a policy has seen: the instructions that it was trained on or selected by, traced through manifests.

A training's inputs lead to pairs, these to completions and to the split of instructions that they are of, and the
policy that it started from leads to the training before. Of every set of instructions that is found, the validation
split counts too, whether or not an epoch was chosen by it. The same weights under another name, copied for example, are
recognized by their digests.

An instruction counts as seen if the policy saw one of the same text (`tpo.sample.prompts.same_text`), or one that is
made from the same instruction (`base_id`).

Stage "unseen": the instructions that are left without those.
"""

import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tpo.evaluate.stages import UNSEEN
from tpo.model.exported import read_export
from tpo.model.policy import PolicyRef
from tpo.sample.prompts import same_text
from tpo.store.artifacts import Artifact, open_artifact, read_manifest
from tpo.store.errors import ArtifactError, TpoError
from tpo.store.files import file_digest
from tpo.store.job import Job, Metrics
from tpo.store.layout import MANIFEST
from tpo.store.records import Prompt, Response, read_json_lines, write_records
from tpo.store.store import Store

log = logging.getLogger(__name__)
WEIGHTS = (".safetensors", ".bin")


class SeenError(TpoError):
    """Instructions that are held out from nothing: the policy was trained on them or selected by them."""


class Lineage(NamedTuple):
    """Where a policy comes from.

    Attributes:
        used: Directories of artifacts with instructions, and the split of each that was used.
        is_traced: Whether a training was found wherever there was one.
        missing: Artifacts on the way that are not at hand as they were then.
    """

    used: frozenset[tuple[Path, str]]
    is_traced: bool
    missing: tuple[str, ...]


class Seen(NamedTuple):
    """The instructions that a policy has seen: their texts, and what they are made from."""

    texts: frozenset[str]
    bases: frozenset[str]

    def has(self, prompt: Prompt) -> bool:
        """Return whether an instruction is one of them, or made from the same one."""
        return prompt.base_id in self.bases or same_text(prompt.text) in self.texts


def trace(model: Artifact, weights: Path | None, store: Store) -> Lineage:
    """Return where a policy comes from.

    Args:
        model: Artifact of its model, which may have been trained here itself.
        weights: Directory of the adapter or the whole model that training left; None for an untrained policy.
        store: Where trainings with the same weights are looked for.
    """
    training = None if weights is None else find_training(weights, store.root)
    starts: list[tuple[Path, Mapping[str, Any]]] = [(model.path, model.manifest)]
    if training is not None:
        starts.append((training, read_manifest(training)))
    used: set[tuple[Path, str]] = set()
    missing: list[str] = []
    visited: set[Path] = set()
    while starts:
        path, manifest = starts.pop()
        if path.resolve() in visited:
            continue
        visited.add(path.resolve())
        inputs, config = manifest["inputs"], manifest["config"]
        match manifest["stage"]:
            case "sample":
                used.add((path.parent / inputs["prompts"], config["split"]))
            case "prompts":
                used.add((path, "validation"))
            case "model" if config["source"] == "pretrained":
                own, unknown = _training_of_model(manifest, store.root)
                starts += [] if own is None else [(own, read_manifest(own))]
                missing += [] if unknown is None else [unknown]
        for role, name in inputs.items():
            source = path.parent / name
            is_there = (source / MANIFEST).exists()
            if is_there:
                starts.append((source, read_manifest(source)))
            # What was computed anew is not what was trained on, but leaving that out as well does no harm.
            if not is_there or open_artifact(source).content != manifest["contents"].get(role):
                missing.append(name)
    return Lineage(frozenset(used), weights is None or training is not None, tuple(dict.fromkeys(missing)))


def _training_of_model(manifest: Mapping[str, Any], root: Path) -> tuple[Path | None, str | None]:
    """Return the training that a model comes from, and what it comes from that is not at hand; None where unknown."""
    place, recorded = Path(manifest["config"]["name"]), manifest["metrics"].get("training")
    own = find_training(place, root) if place.is_dir() else None
    if own is None and (export := read_export(place)) is not None:
        recorded = export.training
    if own is None and recorded is not None:
        own = _recorded_training(recorded, root)
    if own is not None:
        return own, None
    # Nobody knows what a directory that is gone was.
    return None, recorded or (str(place) if place.is_absolute() and not place.is_dir() else None)


def _recorded_training(name: str, root: Path) -> Path | None:
    """Return the directory of a training that an export names, or of the one whose adapter it names."""
    named = root / name
    if not (named / MANIFEST).exists():
        return None
    return named if read_manifest(named)["stage"] == "train" else find_training(named / "epoch-1", root)


def find_training(weights: Path, root: Path) -> Path | None:
    """Return the directory of the training that left an adapter or a whole model, None where none is known.

    Args:
        weights: The directory with the weights, where training left them or anywhere else.
        root: Directory of artifacts with trainings that may have left the same.
    """
    export = read_export(weights)
    if export is not None and export.training is not None:  # merged weights are no training's
        named = _recorded_training(export.training, root)
        if named is not None:
            return named
    home = weights.resolve().parent
    if (home / MANIFEST).exists() and read_manifest(home)["stage"] == "train":
        return home
    # A plan imports no adapter, so that its copy is not there yet.
    files = {file.name: file for file in weights.glob("*") if file.suffix in WEIGHTS}
    digests: dict[str, str] = {}
    for path in sorted(root.glob("train-*")) if files else ():
        for epoch, trained in _epochs(path):
            if trained.keys() == files.keys() and all(_is_size_of(path / epoch / name, files[name]) for name in files):
                digests = digests or {name: file_digest(file) for name, file in files.items()}
                if digests == trained:
                    return path
    return None


def _epochs(path: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield each epoch of a training with the digests of its weights."""
    epochs: dict[str, dict[str, str]] = {}
    try:
        files = read_manifest(path)["files"]
    except ArtifactError:  # not finished, of an earlier version, or damaged: it vouches for no weights
        return
    for name, digest in files.items():
        epoch, slash, file = name.partition("/")
        if slash and "/" not in file and Path(file).suffix in WEIGHTS:
            epochs.setdefault(epoch, {})[file] = digest
    yield from sorted(epochs.items())


def _is_size_of(trained: Path, file: Path) -> bool:
    """Return whether two files may be equal, without reading gigabytes of one that is not."""
    return not trained.exists() or trained.stat().st_size == file.stat().st_size


def seen_by(lineages: Iterable[Lineage]) -> Seen:
    """Return the instructions that policies of these lineages have seen.

    Rows of any version are read: only the text is needed.
    """
    texts, bases = set(), set()
    for path, split in {used for lineage in lineages for used in lineage.used}:
        if not (path / MANIFEST).exists():  # is among what is missing
            continue
        for _, row in read_json_lines(open_artifact(path).verified("rows.jsonl")):
            if row["split"] == split:
                texts.add(same_text(row["text"]))
                bases.add(row.get("base_id", row["prompt_id"]))
    return Seen(frozenset(texts), frozenset(bases))


def log_unknown(name: str, policy: PolicyRef, lineage: Lineage, *, is_from_elsewhere: bool) -> None:
    """Log what is not known of a policy's training: of that, nothing can be refused or left out.

    Args:
        name: As the user wrote it.
        policy: The policy.
        lineage: Where it comes from.
        is_from_elsewhere: Whether it is another model than the configured one.
    """
    if lineage.missing:
        unknown = f"{', '.join(lineage.missing)}, which its training comes from, is not at hand as it was then"
    elif not lineage.is_traced or (is_from_elsewhere and not lineage.used):
        unknown = f"what {policy.name} was trained on is not known here"
    else:
        return
    log.warning("%s: %s, so the instructions may be among it", name, unknown)


def leave_unseen(
    store: Store, prompts: Artifact, names: Sequence[str], lineages: Sequence[Lineage], *, seen: str
) -> Artifact:
    """Return the instructions that are held out from policies of these lineages.

    Args:
        store: Of all artifacts.
        prompts: Instructions, or a benchmark, of which the test split counts.
        names: Of the policies, as the user wrote them.
        lineages: Of the policies.
        seen: What becomes of those that a policy has seen: "refuse" or "leave_out".

    Returns:
        `prompts`, or an artifact without what is left out, whose metrics have `num_left_out`.

    Raises:
        SeenError: If a policy has seen some and they are refused, or has seen all.
    """
    if not any(lineage.used for lineage in lineages):
        return prompts
    known = seen_by(lineages)
    tests = [prompt for prompt in prompts.rows(Prompt) if prompt.split == "test"]
    found = [prompt for prompt in tests if known.has(prompt)]
    if not found:
        return prompts
    which = [name for name, lineage in zip(names, lineages, strict=True) if _has_any(seen_by([lineage]), found)]
    sources = ", ".join(sorted({prompt.source for prompt in found}))
    said = (
        f"{' and '.join(which)}: {len(found)} of the {len(tests)} test instructions of {sources} "
        f"({prompts.artifact_id}) are not held out: it was trained on them, selected by them, or saw others "
        "made from the same instructions"
    )
    if seen == "refuse" or len(found) == len(tests):
        ways = "take the run's own prompts and seed, or other instructions"
        more = "" if len(found) == len(tests) else "; eval.seen=leave_out leaves them out and counts them"
        raise SeenError(f"{said}; {ways}{more}")
    log.warning("%s; they are left out", said)
    return store.request(UNSEEN, {"left_out": sorted(prompt.prompt_id for prompt in found)}, {"prompts": prompts})


def _has_any(seen: Seen, prompts: Iterable[Prompt]) -> bool:
    return any(seen.has(prompt) for prompt in prompts)


def work(job: Job) -> Metrics:
    """Leave instructions out, and with them a benchmark's reference answers."""
    source, left_out = job.inputs["prompts"], set(job.config["left_out"])
    rows = [row for row in source.rows(Prompt) if row.prompt_id not in left_out]
    write_records(job.path / "rows.jsonl", rows)
    metrics = {**source.metrics, "num_prompts": len(rows), "num_left_out": len(left_out)}
    if "references.jsonl" in source.manifest["files"]:
        answers = [row for row in source.rows(Response, "references.jsonl") if row.prompt_id not in left_out]
        write_records(job.path / "references.jsonl", answers)
        metrics["num_references"] = len(answers)
    if "keys.json" in source.manifest["files"]:
        keys = json.loads(source.verified("keys.json").read_text())
        kept = {name: key for name, key in keys.items() if name not in left_out}
        (job.path / "keys.json").write_text(json.dumps(kept, ensure_ascii=False))
    return metrics
