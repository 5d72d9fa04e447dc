import dataclasses
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

import tpo.store.rows
from tpo.store.artifacts import Store, finish, open_artifact
from tpo.store.errors import ArtifactError
from tpo.store.files import content_hash, replacing, write_json
from tpo.store.layout import CHECKPOINTS, PARTIAL
from tpo.store.progress import PROGRESS
from tpo.store.records import Key, Prompt
from tpo.store.rows import grow_rows
from tpo.store.stage import Step

STEP = Step("sample", 1, {"temperature": 0.8, "top_p": 0.95}, {"prompts": "prompts-0", "model": "model-0"}, seed=3)


class Work:
    """An `execute` that writes two files and counts its calls."""

    def __init__(self) -> None:
        self.num_calls = 0

    def __call__(self, path: Path) -> None:
        self.num_calls += 1
        (path / "epoch-1").mkdir(exist_ok=True)
        (path / "rows.jsonl").write_text('{"row": 1}\n')
        (path / "epoch-1" / "adapter.bin").write_bytes(b"weights")
        finish(path, metrics={"num_rows": 1}, started=time.time())


def test_id_is_the_hash_of_the_canonical_request() -> None:
    canonical = (
        '{"config":{"temperature":0.8,"top_p":0.95},"inputs":{"model":"model-0","prompts":"prompts-0"},'
        '"seed":3,"stage":"sample","version":1}'
    )
    assert STEP.artifact_id == f"sample-{hashlib.sha256(canonical.encode()).hexdigest()[:12]}"


def test_id_does_not_depend_on_the_order_of_keys() -> None:
    same = Step("sample", 1, {"top_p": 0.95, "temperature": 0.8}, {"model": "model-0", "prompts": "prompts-0"}, seed=3)
    assert same.artifact_id == STEP.artifact_id


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(Step("judge", 1, STEP.config, STEP.inputs, 3), id="stage"),
        pytest.param(Step("sample", 2, STEP.config, STEP.inputs, 3), id="version"),
        pytest.param(Step("sample", 1, {**STEP.config, "top_p": 1.0}, STEP.inputs, 3), id="config_value"),
        pytest.param(Step("sample", 1, {**STEP.config, "top_p": "0.95"}, STEP.inputs, 3), id="config_type"),
        pytest.param(Step("sample", 1, {**STEP.config, "top_k": None}, STEP.inputs, 3), id="config_key"),
        pytest.param(Step("sample", 1, STEP.config, {**STEP.inputs, "model": "model-1"}, 3), id="input_id"),
        pytest.param(Step("sample", 1, STEP.config, {"model": "prompts-0", "prompts": "model-0"}, 3), id="input_role"),
        pytest.param(Step("sample", 1, STEP.config, STEP.inputs, 4), id="seed"),
    ],
)
def test_any_change_of_the_request_gives_another_id(other: Step) -> None:
    assert other.artifact_id.split("-")[1] != STEP.artifact_id.split("-")[1]


@pytest.mark.parametrize(
    "value",
    [
        pytest.param({1, 2}, id="set"),
        pytest.param(b"bytes", id="bytes"),
        pytest.param(Path("file"), id="path"),
        pytest.param(np.int64(1), id="numpy_int"),
        pytest.param(np.zeros(2), id="array"),
        pytest.param(float("nan"), id="nan"),
        pytest.param(float("inf"), id="infinity"),
        pytest.param((1, 2), id="tuple"),
        pytest.param({1: "a"}, id="key_that_is_no_text"),  # json.dumps would write the key as "1"
    ],
)
def test_values_that_are_not_json_are_refused(value: Any) -> None:
    with pytest.raises((TypeError, ValueError)):
        content_hash({"config": [value]})


def test_second_run_reuses_the_artifact(tmp_path: Path) -> None:
    work = Work()
    store = Store(tmp_path, execute=work)
    first, second = store.run(STEP), store.run(STEP)
    assert (first.is_reused, second.is_reused, work.num_calls) == (False, True, 1)
    assert first.manifest == second.manifest and second.metrics == {"num_rows": 1}


def test_request_comes_before_the_work_and_the_manifest_after_it(tmp_path: Path) -> None:
    seen: list[set[str]] = []

    def execute(path: Path) -> None:
        seen.append({file.name for file in path.iterdir()})
        Work()(path)

    artifact = Store(tmp_path, execute=execute, run="quickstart-0").run(STEP)
    assert "request.json" in seen[0] and "manifest.json" not in seen[0]
    expected = {**STEP.to_request(), "run": "quickstart-0"}
    assert json.loads((artifact.path / "request.json").read_text()) == expected


def test_how_a_step_is_computed_reaches_the_work_but_is_not_its_identity(tmp_path: Path) -> None:
    elsewhere = dataclasses.replace(STEP, how={"server": "http://elsewhere"})
    assert elsewhere.artifact_id == STEP.artifact_id
    work = Work()
    artifact = Store(tmp_path, execute=work).run(elsewhere)
    assert json.loads((artifact.path / "request.json").read_text())["how"] == {"server": "http://elsewhere"}
    assert Store(tmp_path, execute=work).run(STEP).is_reused


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o077, 0o600)])
def test_files_are_as_open_to_others_as_the_umask_has_it(umask: int, mode: int, tmp_path: Path) -> None:
    def work(path: Path) -> None:
        save_file({"weight": np.zeros(1)}, path / "adapter.safetensors")
        (path / "adapter.safetensors").chmod(0o600)  # as a temporary file, whatever safetensors does
        finish(path, metrics={}, started=time.time())

    before = os.umask(umask)
    try:
        artifact = Store(tmp_path, execute=work).run(STEP)
    finally:
        os.umask(before)
    assert stat.S_IMODE((artifact.path / "adapter.safetensors").stat().st_mode) == mode


def test_manifest_lists_the_request_and_every_file_with_its_digest(tmp_path: Path) -> None:
    manifest = Store(tmp_path, execute=Work()).run(STEP).manifest
    assert {key: manifest[key] for key in STEP.to_dict()} == STEP.to_dict()
    assert manifest["files"] == {
        "epoch-1/adapter.bin": hashlib.sha256(b"weights").hexdigest(),
        "rows.jsonl": hashlib.sha256(b'{"row": 1}\n').hexdigest(),
    }
    assert manifest["environment"]["packages"]["numpy"] == np.__version__


def test_directory_without_manifest_is_computed_again(tmp_path: Path) -> None:
    work = Work()
    store = Store(tmp_path, execute=work)
    path = store.run(STEP).path
    (path / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        open_artifact(path)
    assert not store.run(STEP).is_reused and work.num_calls == 2


def test_failed_work_leaves_no_artifact_and_can_be_repeated(tmp_path: Path) -> None:
    def fail(path: Path) -> None:
        (path / "rows.jsonl").write_text("half a r")
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Store(tmp_path, execute=fail).run(STEP)
    assert Store(tmp_path, execute=Work()).run(STEP).manifest["files"]["rows.jsonl"] == (
        hashlib.sha256(b'{"row": 1}\n').hexdigest()
    )


def _edit(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def _truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [_edit, _truncate, Path.unlink], ids=["edited", "truncated", "deleted"])
@pytest.mark.parametrize("name", ["rows.jsonl", "epoch-1/adapter.bin"])
def test_damaged_file_is_named(name: str, damage: Callable[[Path], None], tmp_path: Path) -> None:
    store = Store(tmp_path, execute=Work())
    path = store.run(STEP).path
    damage(path / name)
    with pytest.raises(ArtifactError, match="Delete") as caught:
        store.run(STEP).verified(Path(name).parts[0])
    assert str(path / name) in str(caught.value)


def test_missing_file_is_found_at_once(tmp_path: Path) -> None:
    store = Store(tmp_path, execute=Work())
    path = store.run(STEP).path
    (path / "epoch-1" / "adapter.bin").unlink()
    with pytest.raises(ArtifactError, match="adapter"):
        store.run(STEP)


def test_what_an_artifact_does_not_have_is_named(tmp_path: Path) -> None:
    artifact = Store(tmp_path, execute=Work()).run(STEP)
    (artifact.path / "added.jsonl").touch()
    for name in ("epoch-2", "epoch", "added.jsonl", "request.json"):
        with pytest.raises(ArtifactError, match=rf"has no {name}: .* lists epoch-1/adapter\.bin, rows\.jsonl"):
            artifact.verified(name)


@pytest.mark.parametrize("text", ["", '{"stage": "sam'], ids=["empty", "cut_off"])
def test_damaged_manifest_is_named(text: str, tmp_path: Path) -> None:
    path = Store(tmp_path, execute=Work()).run(STEP).path
    (path / "manifest.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        open_artifact(path)


def test_failed_json_write_keeps_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "value.json"
    write_json(path, {"old": 1})
    with pytest.raises(ValueError, match="JSON"):
        write_json(path, {"new": float("nan")})
    assert json.loads(path.read_text()) == {"old": 1}
    assert [file.name for file in tmp_path.iterdir()] == ["value.json"]


def test_two_writers_of_a_file_do_not_write_into_each_others(tmp_path: Path) -> None:
    path = tmp_path / "value.txt"
    with replacing(path) as first:
        first.write_text("first")
        with replacing(path) as second:
            second.write_text("the second, which is longer")
            first.write_text("First")
            assert not path.exists()
        assert path.read_text() == "the second, which is longer"
    assert path.read_text() == "First"
    assert [file.name for file in tmp_path.iterdir()] == ["value.txt"]


@pytest.mark.parametrize("name", [PARTIAL, PROGRESS, f"{CHECKPOINTS}/checkpoint-1/weights"])
def test_what_an_error_after_the_manifest_left_goes_with_the_next_request(name: str, tmp_path: Path) -> None:
    work = Work()
    done = Store(tmp_path, execute=work).run(STEP)
    (done.path / name).parent.mkdir(parents=True, exist_ok=True)
    (done.path / name).touch()
    before = {path for path in done.path.iterdir() if path.name != Path(name).parts[0]}
    assert Store(tmp_path, execute=work).run(STEP).is_reused and work.num_calls == 1
    assert set(done.path.iterdir()) == before


# --- a full disk ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT], ids=["disk_full", "quota"])
def test_full_disk_says_what_to_do_and_keeps_completed_artifacts(code: int, tmp_path: Path) -> None:
    done = Store(tmp_path, execute=Work()).run(STEP)
    other = Step("judge", 1, {}, {"completions": done.artifact_id})

    def execute(path: Path) -> None:
        raise OSError(code, os.strerror(code))

    with pytest.raises(ArtifactError, match=r"(?i)free some space.*run the same command again") as caught:
        Store(tmp_path, execute=execute).run(other)
    assert other.artifact_id in str(caught.value)
    store = Store(tmp_path, execute=Work())
    assert store.run(STEP).manifest == done.manifest
    assert not store.run(other).is_reused


def test_other_disk_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    def execute(path: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    with pytest.raises(ArtifactError, match=r"cannot be read or written \(Permission denied\).*the permissions"):
        Store(tmp_path, execute=execute).run(STEP)

    def unplug(path: Path) -> None:
        raise OSError(errno.EBADF, "Bad file descriptor")  # neither full nor refused: a fault to be looked into

    with pytest.raises(OSError, match="Bad file descriptor"):
        Store(tmp_path, execute=unplug).run(STEP)


NAMES = [f"prompt-{number}" for number in range(7)]


# The lock's note, which may fail, the request, 7 rows, all rows, their file, once more with its folder, the manifest.
@pytest.mark.parametrize("num_writes", range(14))
def test_disk_full_at_any_write_loses_nothing_written_before(
    num_writes: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = 0
    computed: list[str] = []

    def fsync(handle: int) -> None:
        nonlocal done
        if done == num_writes:
            raise OSError(errno.ENOSPC, "No space left on device")
        done += 1

    def compute(keys: Sequence[Key]) -> Iterator[Prompt]:
        for (name,) in keys:
            computed.append(str(name))
            yield Prompt(str(name), "text", "category", "source", "split", (), str(name))

    def execute(path: Path) -> None:
        grow_rows(path, Prompt, keys=[(name,) for name in NAMES], compute=compute, unit="prompt")
        finish(path, metrics={}, started=time.time())

    monkeypatch.setattr(tpo.store.rows, "SYNC_SECONDS", -1.0)
    store = Store(tmp_path, execute=execute)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(ArtifactError, match="no space left"):
            store.run(STEP)
        assert not (tmp_path / STEP.artifact_id / "manifest.json").exists()
    artifact = store.run(STEP)
    assert [row.prompt_id for row in artifact.rows(Prompt)] == NAMES
    assert sorted(artifact.manifest["files"]) == ["rows.jsonl"]
    assert computed == NAMES, "a row was in the file when the disk reported itself full"
