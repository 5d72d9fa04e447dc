"""Which checkpoint training goes on from, by what is left of them."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tpo.store.digests import vouch
from tpo.train.checkpoints import COMPLETE, complete_checkpoints, files_below, last_complete

WEIGHTS = ("adapter_model.safetensors", "adapter_config.json", "trainer_state.json")


def make(work: Path, step: int, *, has_state: bool = True, is_marked: bool = True) -> Path:
    """A checkpoint as the trainer leaves it."""
    path = work / f"checkpoint-{step}"
    (path / "optimizer_0").mkdir(parents=True)
    for name in (*WEIGHTS, "optimizer.pt", "optimizer_0/shard.distcp"):
        (path / name).write_text(f"{name} after {step}")
    if is_marked:
        vouch(path / COMPLETE, path, files_below(path))
    if not has_state:
        (path / "optimizer.pt").unlink()
        shutil.rmtree(path / "optimizer_0")
    return path


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """Three epochs: of the first only the weights are left."""
    for step in (2, 10, 4):
        make(tmp_path, step, has_state=step > 2)
    return tmp_path


def names(work: Path) -> list[str]:
    return [path.name for path in complete_checkpoints(work)]


def test_training_goes_on_from_the_last(work: Path) -> None:
    assert last_complete(work) == str(work / "checkpoint-10")
    assert names(work) == ["checkpoint-2", "checkpoint-4", "checkpoint-10"]


def test_nothing_to_go_on_from(tmp_path: Path) -> None:
    assert last_complete(tmp_path / "missing") is None


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def tear(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5])


@pytest.mark.parametrize("damage", [zero, tear, Path.unlink])
@pytest.mark.parametrize("name", [*WEIGHTS, "optimizer.pt", "optimizer_0/shard.distcp", COMPLETE])
def test_the_one_before_a_damaged_one_is_taken(
    name: str, damage: Callable[[Path], None], work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage(work / "checkpoint-10" / name)
    assert last_complete(work) == str(work / "checkpoint-4")
    assert names(work) == ["checkpoint-2", "checkpoint-4"] and not (work / "checkpoint-10").exists()
    assert name == COMPLETE or "training goes on from checkpoint-4" in caplog.text


@pytest.mark.parametrize("name", WEIGHTS)
def test_epoch_whose_weights_are_lost_is_trained_again(name: str, work: Path, caplog: pytest.LogCaptureFixture) -> None:
    zero(work / "checkpoint-4" / name)
    assert last_complete(work) is None, "the first has no state to go on from"
    assert list(work.iterdir()) == [] and "training begins anew" in caplog.text


def test_lost_state_of_an_earlier_one_is_no_damage(work: Path) -> None:
    tear(work / "checkpoint-4" / "optimizer.pt")
    assert last_complete(work) == str(work / "checkpoint-10")


def test_one_without_a_marker_is_deleted_without_a_word(work: Path, caplog: pytest.LogCaptureFixture) -> None:
    make(work, 12, is_marked=False)
    assert last_complete(work) == str(work / "checkpoint-10")
    assert not (work / "checkpoint-12").exists() and not caplog.records


def test_disk_holds_files_and_folders_before_the_marker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make(tmp_path, 2, is_marked=False)
    synced: list[str] = []

    def fsync(descriptor: int) -> None:
        assert not (path / COMPLETE).exists()
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(str(path)).partition(f"/{COMPLETE}.")[0])

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(AssertionError):  # after the marker, its folder is synced as well
            vouch(path / COMPLETE, path, files_below(path))
    files = sorted(f"/{name}" for name in files_below(path) - {COMPLETE, ".digests.json"})
    assert sorted(synced[: len(files)]) == files and synced[len(files) :] == ["/optimizer_0", "", ""]
