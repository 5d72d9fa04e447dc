"""What was computed from other inputs than are there is never used: oracles by hand, and any order of mishaps."""

import json
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tpo.store.artifacts
from tpo.store.artifacts import Artifact, finish, open_artifact, open_inputs, read_manifest
from tpo.store.errors import ArtifactError
from tpo.store.files import json_digest, write_sealed
from tpo.store.layout import CHECKPOINTS, PARTIAL, STALE, find_request, requested
from tpo.store.records import Key, Prompt
from tpo.store.rows import grow_rows
from tpo.store.stage import Stage
from tpo.store.store import Store

SAMPLE, JUDGE, PAIRS = (Stage(name, 1, "none") for name in ("sample", "judge", "pairs"))
CHAIN = (SAMPLE, JUDGE, PAIRS)


class Rounding:
    """Computes steps whose outcome depends on the machine, and counts: "sample 0", "judge 0 <- sample 0", ..."""

    def __init__(self, **kernels: int) -> None:
        self.kernels = {"sample": 0, "judge": 0, "pairs": 0} | kernels
        self.computed: list[str] = []

    def __call__(self, path: Path) -> None:
        request = json.loads((path / "request.json").read_text())
        inputs = open_inputs(path.parent, request)
        read = [artifact.verified("said.txt").read_text() for artifact in inputs.values()]
        stage = request["stage"]
        (path / "said.txt").write_text(" <- ".join([f"{stage} {self.kernels[stage]}", *read]))
        self.computed.append(stage)
        finish(path, metrics={"num_rows": 1, "tokens_per_second": time.monotonic()}, started=time.time())


def run(root: Path, compute: Callable[[Path], None], stages: Sequence[Stage] = CHAIN) -> list[Artifact]:
    """A run of all stages, each on the one before."""
    store = Store(root, execute=compute)
    found: list[Artifact] = []
    for stage in stages:
        found.append(store.request(stage, {}, {"before": found[-1]} if found else {}))
    return found


def said(artifacts: Sequence[Artifact]) -> list[str]:
    return [artifact.verified("said.txt").read_text() for artifact in artifacts]


def test_what_rests_on_an_input_computed_anew_is_computed_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampled, judged, paired = run(tmp_path, Rounding())
    shutil.rmtree(sampled.path)
    other = Rounding(sample=1)
    again = run(tmp_path, other)
    assert said(again) == ["sample 1", "judge 0 <- sample 1", "pairs 0 <- judge 0 <- sample 1"]
    assert other.computed == ["sample", "judge", "pairs"]
    assert [artifact.artifact_id for artifact in again] == [artifact.artifact_id for artifact in run(tmp_path, other)]
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert [line.partition(";")[0] for line in lines] == [
        f"{judged.artifact_id}: stale (computed from another content of {sampled.artifact_id}), so it is computed anew",
        f"{paired.artifact_id}: stale (computed from another content of {judged.artifact_id}), so it is computed anew",
    ]
    kept = sorted((tmp_path / STALE).iterdir())
    assert [path.name.partition(".")[0] for path in kept] == sorted([judged.artifact_id, paired.artifact_id])
    assert (kept[0] / "said.txt").read_text() == "judge 0 <- sample 0", "nothing that took time is lost"


def test_an_input_computed_anew_with_the_same_content_makes_nothing_stale(tmp_path: Path) -> None:
    sampled, *_ = run(tmp_path, Rounding())
    shutil.rmtree(sampled.path)
    again = Rounding()
    assert [artifact.is_reused for artifact in run(tmp_path, again)] == [False, True, True]
    assert again.computed == ["sample"] and not (tmp_path / STALE).exists()


def test_other_metrics_are_another_content_but_another_speed_is_not(tmp_path: Path) -> None:
    found = {}
    for number, metrics in enumerate([{"a": 1}, {"a": 2}, {"a": 1, "tokens_per_second": 9.5}]):
        path = tmp_path / str(number) / "sample-0"
        path.mkdir(parents=True)
        (path / "request.json").write_text("{}")
        finish(path, metrics=metrics, started=0)
        found[number] = open_artifact(path).content
    assert found[0] == found[2] != found[1]


Mishap = tuple[str, int]
MISHAPS = st.lists(
    st.tuples(st.sampled_from(["delete", "lose manifest", "other kernels", "run", "run first two"]), st.integers(0, 2)),
    max_size=12,
)


@settings(deadline=None, max_examples=60)
@given(MISHAPS)
def test_after_any_mishaps_a_run_holds_what_belongs_together(mishaps: list[Mishap]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, compute = Path(folder), Rounding()
        paths = [artifact.path for artifact in run(root, compute)]
        for mishap, at in mishaps:
            match mishap:
                case "delete":
                    shutil.rmtree(paths[at], ignore_errors=True)
                case "lose manifest":
                    (paths[at] / "manifest.json").unlink(missing_ok=True)
                case "other kernels":
                    compute.kernels[CHAIN[at].name] += 1
                case "run":
                    run(root, compute)
                case "run first two":
                    run(root, compute, CHAIN[:2])
        first, second, third = said(run(root, compute))
        assert second.partition(" <- ")[2] == first and third.partition(" <- ")[2] == second
        compute.computed.clear()
        assert said(run(root, compute)) == [first, second, third] and compute.computed == []


def test_rows_saved_from_another_input_are_not_gone_on_from(tmp_path: Path) -> None:
    names = [f"prompt-{number}" for number in range(4)]
    asked: list[list[str]] = []
    dies = True

    def execute(path: Path) -> None:
        request = json.loads((path / "request.json").read_text())
        if request["stage"] == "sample":
            return Rounding(sample=int(not dies))(path)
        [source] = open_inputs(path.parent, request).values()

        def compute(keys: Sequence[Key]) -> Iterator[Prompt]:
            asked.append([str(name) for (name,) in keys])
            for name in asked[-1]:
                if dies and name == "prompt-2":
                    raise KeyboardInterrupt
                yield Prompt(name, source.verified("said.txt").read_text(), "", "", "", (), name)

        grow_rows(path, Prompt, keys=[(name,) for name in names], compute=compute, unit="prompt")
        return finish(path, metrics={}, started=time.time())

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, execute, (SAMPLE, JUDGE))
    dies = False
    [sampled] = tmp_path.glob("sample-*")
    shutil.rmtree(sampled)
    _, judged = run(tmp_path, execute, (SAMPLE, JUDGE))
    assert {row.text for row in judged.rows(Prompt)} == {"sample 1"}
    assert asked == [names, names]
    [kept] = (tmp_path / STALE).iterdir()
    assert (kept / PARTIAL).read_bytes().count(b"\n") == 2


def test_killed_at_any_file_while_it_is_moved_aside_it_comes_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, kills = Path.replace, 0
    for at in range(20):
        root, moved = tmp_path / str(at), 0
        sampled, judged = run(root, Rounding(), (SAMPLE, JUDGE))
        (judged.path / "folder").mkdir()
        (judged.path / "folder" / "weights").write_text("old")
        shutil.rmtree(sampled.path)

        def killed(self: Path, target: Path, at: int = at) -> Path:
            nonlocal moved
            if STALE in Path(target).parts:
                if moved == at:
                    raise KeyboardInterrupt
                moved += 1
            return replace(self, target)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "replace", killed)
            try:
                run(root, Rounding(sample=1), (SAMPLE, JUDGE))
            except KeyboardInterrupt:
                kills += 1
        assert said(run(root, Rounding(sample=1), (SAMPLE, JUDGE))) == ["sample 1", "judge 0 <- sample 1"]
        [kept] = (root / STALE).iterdir()
        names = {path.name for path in kept.iterdir()} - {".digests.json"}
        assert names == {"manifest.json", "request.json", "said.txt", "folder"}
        assert (kept / "folder" / "weights").read_text() == "old"
    assert kills >= 4


# --- two runs at the same time ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["{}", '{"contents": {"before": "another"}, "inputs": {"before": "sample-1"}}'])
def test_what_it_was_computed_from_is_what_the_manifest_says(
    text: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sampled, judged = run(tmp_path, Rounding(), (SAMPLE, JUDGE))
    (judged.path / "request.json").write_text(text)
    assert find_request(judged.path) == requested(judged.manifest)
    shutil.rmtree(sampled.path)
    assert said(run(tmp_path, Rounding(sample=1), (SAMPLE, JUDGE)))[1] == "judge 0 <- sample 1"
    assert f"stale (computed from another content of {sampled.artifact_id})" in caplog.text
    edited = json.loads((judged.path / "manifest.json").read_text()) | {"inputs": {}}
    (judged.path / "manifest.json").write_text(json.dumps(edited))
    assert find_request(judged.path)["inputs"] == {"before": sampled.artifact_id}, (
        "of an edited one the request says it"
    )


def test_a_run_that_read_what_was_there_before_ends_and_does_not_fight(tmp_path: Path) -> None:
    mine = Store(tmp_path, execute=Rounding())
    old = mine.request(SAMPLE, {})
    shutil.rmtree(old.path)
    _, judged = run(tmp_path, Rounding(sample=1), (SAMPLE, JUDGE))  # another run, to its end
    with pytest.raises(ArtifactError, match=rf"{old.artifact_id} was computed anew.*repeat the command"):
        mine.request(JUDGE, {}, {"before": old})
    assert said(run(tmp_path, Rounding(sample=1), (SAMPLE, JUDGE)))[1] == "judge 0 <- sample 1"
    assert not (tmp_path / STALE).exists() and open_artifact(judged.path).content == judged.content
    with pytest.raises(ArtifactError, match=r"said\.txt is missing or differs"):
        old.verified("said.txt")


def test_an_input_that_changes_while_a_step_is_computed_is_found(tmp_path: Path) -> None:
    compute = Rounding()

    def execute(path: Path) -> None:
        if path.name.startswith("judge"):
            shutil.rmtree(next(tmp_path.glob("sample-*")))
            run(tmp_path, Rounding(sample=1), (SAMPLE,))
            (path / "said.txt").write_text("read from both")
            finish(path, metrics={}, started=0)
        else:
            compute(path)

    with pytest.raises(ArtifactError, match=r"sample-\w+ was computed anew"):
        run(tmp_path, execute, (SAMPLE, JUDGE))
    assert not list(tmp_path.glob("judge-*/manifest.json"))
    assert said(run(tmp_path, Rounding(sample=1), (SAMPLE, JUDGE)))[1] == "judge 0 <- sample 1"


def test_an_input_that_is_deleted_after_it_was_read_does_no_harm(tmp_path: Path) -> None:
    def execute(path: Path) -> None:
        Rounding()(path)
        if path.name.startswith("judge"):
            (path / "manifest.json").unlink()
            shutil.rmtree(next(tmp_path.glob("sample-*")))
            finish(path, metrics={}, started=0)

    assert said(run(tmp_path, execute, (SAMPLE, JUDGE))[1:]) == ["judge 0 <- sample 0"]


# --- folders that were edited or swapped ------------------------------------------------------------------------------


def edit(path: Path, **changes: Any) -> None:
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | changes))


@pytest.mark.parametrize(
    "changes",
    [{"metrics": {"win_rate": 0.99}}, {"version": 99}, {"files": {}}, {"config": {"temperature": 1}}, {"contents": {}}],
    ids=str,
)
def test_edited_manifest_is_named_and_not_used(changes: dict[str, Any], tmp_path: Path) -> None:
    *_, paired = run(tmp_path, Rounding())
    edit(paired.path, **changes)
    for use in (lambda: run(tmp_path, Rounding()), lambda: open_artifact(paired.path)):
        with pytest.raises(ArtifactError, match=rf"{paired.artifact_id}/manifest.json was edited.*Delete"):
            use()


def test_swapped_folders_are_named_and_not_used(tmp_path: Path) -> None:
    store = Store(tmp_path, execute=Rounding())
    one, two = (store.request(SAMPLE, {"temperature": value}) for value in (0, 1))
    one.path.rename(tmp_path / "other")
    two.path.rename(one.path)
    (tmp_path / "other").rename(two.path)
    with pytest.raises(ArtifactError, match=f"{one.artifact_id} holds the artifact {two.artifact_id}"):
        store.request(SAMPLE, {"temperature": 0})


def test_manifest_of_another_step_with_a_digest_of_its_own_is_not_used(tmp_path: Path) -> None:
    store = Store(tmp_path, execute=Rounding())
    found = store.request(SAMPLE, {})
    write_sealed(found.path / "manifest.json", found.manifest | {"seed": 7, "version": 2})
    with pytest.raises(ArtifactError, match="of another step: its version and seed differ"):
        store.request(SAMPLE, {})


def test_manifest_without_a_digest_is_kept_aside_and_computed_anew(tmp_path: Path) -> None:
    found = run(tmp_path, Rounding())
    for artifact in found:  # as an earlier version of the code wrote them
        keys = artifact.manifest.keys() - {"contents", "artifact_id"}
        (artifact.path / "manifest.json").write_text(json.dumps({key: artifact.manifest[key] for key in keys}))
        request = json.loads((artifact.path / "request.json").read_text())
        (artifact.path / "request.json").write_text(json.dumps({k: v for k, v in request.items() if k != "contents"}))
    with pytest.raises(ArtifactError, match="an earlier version of this code wrote it. Run the experiment again"):
        open_artifact(found[0].path)
    again = run(tmp_path, Rounding())
    assert said(again) == said(found) and [artifact.content for artifact in again] == [a.content for a in found]
    assert len(list((tmp_path / STALE).iterdir())) == 3


def test_input_is_what_it_was_then(tmp_path: Path) -> None:
    sampled, judged = run(tmp_path, Rounding(), (SAMPLE, JUDGE))
    assert judged.input("before").content == sampled.content
    shutil.rmtree(sampled.path)
    run(tmp_path, Rounding(sample=1), (SAMPLE,))
    with pytest.raises(ArtifactError, match=f"{sampled.artifact_id} was computed anew"):
        judged.input("before")


# --- what the disk holds ----------------------------------------------------------------------------------------------


def test_disk_holds_every_file_and_folder_before_the_manifest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[str] = []
    fsync = os.fsync

    def note(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def execute(path: Path) -> None:
        (path / "epoch-1" / "deep").mkdir(parents=True)
        for name in ("rows.jsonl", "epoch-1/adapter.bin", "epoch-1/deep/vocab.txt"):
            (path / name).write_text(name)
        finish(path, metrics={}, started=0)

    monkeypatch.setattr(os, "fsync", note)
    path = Store(tmp_path, execute=execute).request(SAMPLE, {}).path
    [manifest] = [at for at, name in enumerate(synced) if "/manifest.json." in name]
    before = ["rows.jsonl", "epoch-1/adapter.bin", "epoch-1/deep/vocab.txt", "epoch-1/deep", "epoch-1", ""]
    assert {str(path / name) for name in before} <= set(synced[:manifest])
    assert synced[:manifest].index(str(path)) > synced[:manifest].index(str(path / "epoch-1")), (
        "names after what they name"
    )
    assert synced[manifest + 1 :] == [str(path), str(tmp_path)]


def test_what_a_killed_process_would_go_on_from_goes_with_the_manifest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(path: Path) -> None:
        (path / PARTIAL).write_text("row\n")
        (path / CHECKPOINTS / "checkpoint-1").mkdir(parents=True)
        (path / CHECKPOINTS / "checkpoint-1" / "weights").write_text("w")
        (path / "rows.jsonl").write_text("row\n")
        finish(path, metrics={}, started=0)

    with monkeypatch.context() as patch:  # killed when the manifest was written
        patch.setattr(tpo.store.artifacts, "remove_partial", lambda path: None)
        found = Store(tmp_path, execute=execute).request(SAMPLE, {})
    assert list(read_manifest(found.path)["files"]) == ["rows.jsonl"]
    assert (found.path / PARTIAL).exists() and (found.path / CHECKPOINTS).exists()
    assert Store(tmp_path, execute=execute).request(SAMPLE, {}).is_reused
    assert not (found.path / PARTIAL).exists() and not (found.path / CHECKPOINTS).exists()


@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(st.characters(exclude_categories=["Cs"])),
        lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text("ab", max_size=2), part, max_size=3),
    )
)
@settings(deadline=None, max_examples=60)
def test_sealed_file_gives_back_what_was_written(value: Any) -> None:
    from tpo.store.files import read_sealed

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "sealed.json"
        write_sealed(path, {"value": value})
        assert read_sealed(path) == {"value": value}
        assert json.loads(path.read_text())["digest"] == json_digest({"value": value})
