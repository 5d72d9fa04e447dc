"""Digests are computed once, and again whenever a file's content may be another."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import tpo.store.digests
from tpo.model.conventions import Conventions
from tpo.model.policy import open_policy
from tpo.store.artifacts import Artifact, finish, open_artifact
from tpo.store.digests import CLOCK_TICK_S, DIGESTS, digests
from tpo.store.errors import ArtifactError
from tpo.store.files import file_digest

EPOCHS = range(1, 11)


class Reads:
    """Counts the files that are read whole for a digest, from the start of a process on."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.ages_s: list[float] = []

    def __call__(self, file: Path) -> str:
        self.names.append(f"{file.parent.name}/{file.name}")
        self.ages_s.append(time.time() - file.stat().st_ctime)
        return file_digest(file)

    def start_process(self) -> None:
        """Forget what this process computed, as if it were another."""
        self.names.clear()
        tpo.store.digests._computed.clear()


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    found = Reads()
    monkeypatch.setattr(tpo.store.digests, "file_digest", found)
    found.start_process()
    return found


@pytest.fixture
def trained(tmp_path: Path, reads: Reads) -> Artifact:
    """A training of ten epochs, finished by an earlier process."""
    path = tmp_path / "train-0"
    for epoch in EPOCHS:
        (path / f"epoch-{epoch}").mkdir(parents=True)
        (path / f"epoch-{epoch}" / "adapter.bin").write_bytes(f"weights after {epoch}".encode())
    (path / "metrics.jsonl").write_text('{"loss": 0.6931}\n')
    (path / "request.json").write_text('{"stage": "train"}')
    finish(path, metrics={}, started=0.0)
    assert sorted(reads.names) == sorted(["train-0/metrics.jsonl", *(f"epoch-{epoch}/adapter.bin" for epoch in EPOCHS)])
    reads.start_process()
    return open_artifact(path)


def test_finished_artifact_is_read_by_no_later_process(trained: Artifact, reads: Reads) -> None:
    for _ in range(3):
        reads.start_process()
        artifact = open_artifact(trained.path)
        assert artifact.verified("epoch-3") == trained.path / "epoch-3"
        assert artifact.verified("metrics.jsonl").read_text() == '{"loss": 0.6931}\n'
        assert reads.names == []


def test_only_the_epoch_of_a_policy_is_read(tmp_path: Path, trained: Artifact, reads: Reads) -> None:
    model = tmp_path / "model-0"
    (model / "tokenizer").mkdir(parents=True)
    (model / "tokenizer" / "tokenizer.json").write_text("{}")
    (model / "quantized").mkdir()
    (model / "quantized" / "model.safetensors").write_bytes(b"weights")
    (model / "request.json").write_text('{"config": {"fingerprint": null}}')
    named = {"is_embedded": False, "is_quantized": True, "name": "some/model", "revision": None}
    metrics = {**named, **Conventions().to_metrics()}
    finish(model, metrics=metrics, started=0.0)
    (trained.path / DIGESTS).unlink()
    (trained.path / "epoch-9" / "adapter.bin").write_bytes(b"damaged, but not what is sampled")
    reads.start_process()
    inputs = {"model": open_artifact(model), "adapter": open_artifact(trained.path)}
    for _ in range(2):
        policy = open_policy({"epoch": 1, "dtype": "bfloat16", "max_model_len": 64}, inputs)
        assert policy.adapter_path == trained.path / "epoch-1"
    assert reads.names == ["epoch-1/adapter.bin"]
    with pytest.raises(ArtifactError, match="epoch-9/adapter"):
        open_policy({"epoch": 9, "dtype": "bfloat16", "max_model_len": 64}, inputs)
    assert reads.names == ["epoch-1/adapter.bin", "epoch-9/adapter.bin"]


def change_byte(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.write(b"W")


def map_byte(file: Path) -> None:
    import mmap

    with file.open("r+b") as stream, mmap.mmap(stream.fileno(), 0) as mapped:
        mapped[0] = ord("W")


def replace_file(file: Path) -> None:
    other = file.with_name("other")
    other.write_bytes(b"W" + file.read_bytes()[1:])
    other.replace(file)


def truncate(file: Path) -> None:
    os.truncate(file, 5)


def append(file: Path) -> None:
    with file.open("ab") as stream:
        stream.write(b".")


@pytest.mark.parametrize("does_know", [True, False], ids=["same_process", "other_process"])
@pytest.mark.parametrize("change", [change_byte, map_byte, replace_file, truncate, append, Path.unlink])
def test_change_is_found_though_the_modification_time_is_set_back(
    change: Callable[[Path], None], does_know: bool, trained: Artifact, reads: Reads
) -> None:
    file = trained.path / "epoch-3" / "adapter.bin"
    trained.verified("epoch-3")
    before = file.stat()
    if not does_know:
        reads.start_process()
    change(file)
    if file.exists():
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert file.stat().st_mtime_ns == before.st_mtime_ns
    for _ in range(2):
        with pytest.raises(ArtifactError, match=r"epoch-3/adapter\.bin is missing or differs from manifest\.json"):
            trained.verified("epoch-3")
    assert reads.names == ([] if change is Path.unlink else ["epoch-3/adapter.bin"]), "the damage is remembered too"


def test_touched_file_is_read_once_more(trained: Artifact, reads: Reads) -> None:
    (trained.path / "epoch-3" / "adapter.bin").touch()
    for _ in range(3):
        trained.verified("epoch-3")
        assert reads.names == ["epoch-3/adapter.bin"]
    reads.start_process()
    trained.verified("epoch-3")
    assert reads.names == []


@pytest.mark.parametrize("position", range(4), ids=["size", "inode", "mtime", "ctime"])
def test_digest_of_another_state_is_not_trusted(position: int, trained: Artifact, reads: Reads) -> None:
    entries = json.loads((trained.path / DIGESTS).read_text())
    entries["epoch-3/adapter.bin"][0][position] += 1
    (trained.path / DIGESTS).write_text(json.dumps(entries))
    assert trained.verified("epoch-3") and trained.verified("epoch-4")
    assert reads.names == ["epoch-3/adapter.bin"]


def test_repaired_file_is_accepted(trained: Artifact) -> None:
    file = trained.path / "epoch-3" / "adapter.bin"
    content = file.read_bytes()
    file.write_bytes(b"other")
    with pytest.raises(ArtifactError):
        trained.verified("epoch-3")
    file.write_bytes(content)
    assert trained.verified("epoch-3")


def test_file_is_not_read_within_the_tick_of_its_last_change(tmp_path: Path, reads: Reads) -> None:
    # Else a change after the reading could have the same ctime, and stay undetected.
    for number in range(5):
        (tmp_path / str(number)).write_text("new")
        digests(tmp_path, [str(number)])
    assert len(reads.ages_s) == 5 and min(reads.ages_s) >= CLOCK_TICK_S - 1e-6


@pytest.mark.parametrize("days", [1, 10_000])
def test_file_of_the_future_is_not_waited_for(days: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "rows.jsonl").touch()
    clock = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: clock() - days * 86_400 * 10**9)
    started = time.monotonic()
    digests(tmp_path, ["rows.jsonl"])
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("copy", [shutil.copy2, shutil.copyfile], ids=["with_times", "without_times"])
@pytest.mark.parametrize("is_remembered", [True, False], ids=["with_digests", "without_digests"])
def test_copied_artifact_is_read_once(
    copy: Callable[..., str], is_remembered: bool, trained: Artifact, tmp_path: Path, reads: Reads
) -> None:
    copied = tmp_path / "elsewhere" / trained.path.name
    shutil.copytree(trained.path, copied, copy_function=copy)
    if not is_remembered:
        (copied / DIGESTS).unlink()
    names = [f"epoch-{epoch}" for epoch in EPOCHS]
    for name in names:
        open_artifact(copied).verified(name)
    assert reads.names == [f"{name}/adapter.bin" for name in names]
    reads.start_process()
    for name in names:
        open_artifact(copied).verified(name)
    assert reads.names == []
    change_byte(copied / "epoch-3" / "adapter.bin")
    with pytest.raises(ArtifactError, match="epoch-3"):
        open_artifact(copied).verified("epoch-3")


def test_damage_before_a_copy_is_found_in_the_copy(trained: Artifact, tmp_path: Path) -> None:
    change_byte(trained.path / "epoch-3" / "adapter.bin")
    copied = shutil.copytree(trained.path, tmp_path / "elsewhere" / trained.path.name)
    with pytest.raises(ArtifactError, match="elsewhere.*epoch-3"):
        open_artifact(copied).verified("epoch-3")


@pytest.fixture(params=["permissions", "directory_in_the_way"])
def read_only(request: pytest.FixtureRequest, trained: Artifact) -> Artifact:
    """The artifact without remembered digests, which cannot be written either."""
    (trained.path / DIGESTS).unlink()
    if request.param == "permissions":
        trained.path.chmod(0o555)
        request.addfinalizer(lambda: trained.path.chmod(0o755))
        if os.access(trained.path, os.W_OK):
            pytest.skip("root may write anywhere")
    else:  # renaming a file to the name of a directory fails for root too
        (trained.path / DIGESTS).mkdir()
    return trained


def test_where_nothing_can_be_remembered_each_process_reads_once(read_only: Artifact, reads: Reads) -> None:
    listed = sorted(read_only.path.rglob("*"))
    for _ in range(2):
        reads.start_process()
        for _ in range(3):
            open_artifact(read_only.path).verified("epoch-3")
        assert reads.names == ["epoch-3/adapter.bin"]
    change_byte(read_only.path / "epoch-3" / "adapter.bin")
    with pytest.raises(ArtifactError, match="epoch-3"):
        open_artifact(read_only.path).verified("epoch-3")
    assert sorted(read_only.path.rglob("*")) == listed


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b'{"epoch-3/adapter.bin": [[19, 4', id="cut_off"),
        pytest.param(b"[]", id="list"),
        pytest.param(b'{"epoch-3/adapter.bin": 3}', id="number"),
        pytest.param(b'{"epoch-3/adapter.bin": [[1, 2], "00"]}', id="too_few"),
        pytest.param(b"\xff\xfe", id="no_text"),
        pytest.param(None, id="deleted"),
    ],
)
def test_what_is_remembered_may_be_lost_or_damaged(content: bytes | None, trained: Artifact, reads: Reads) -> None:
    remembered = trained.path / DIGESTS
    kept = json.loads(remembered.read_text())
    remembered.unlink() if content is None else remembered.write_bytes(content)
    assert open_artifact(trained.path).verified("epoch-3")
    assert reads.names == ["epoch-3/adapter.bin"]
    assert json.loads(remembered.read_text()) == {"epoch-3/adapter.bin": kept["epoch-3/adapter.bin"]}


def test_remembered_digests_are_no_content_of_the_artifact(trained: Artifact) -> None:
    files = trained.manifest["files"]
    assert len(files) == 1 + len(EPOCHS) and DIGESTS not in files
    (trained.path / "manifest.json").unlink()
    finish(trained.path, metrics={}, started=0.0)
    assert open_artifact(trained.path).manifest["files"] == files


def test_what_is_computed_again_has_its_own_digest(trained: Artifact) -> None:
    (trained.path / "manifest.json").unlink()
    file = trained.path / "epoch-3" / "adapter.bin"
    before = file.stat()
    change_byte(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    finish(trained.path, metrics={}, started=0.0)
    again = open_artifact(trained.path)
    assert again.verified("epoch-3")
    assert {name for name, digest in again.manifest["files"].items() if digest != trained.manifest["files"][name]} == {
        "epoch-3/adapter.bin"
    }


OPEN = """
import sys
from pathlib import Path
from tpo.store.artifacts import open_artifact

path, order = Path(sys.argv[1]), map(int, sys.argv[2].split(","))
print("ready", flush=True)
sys.stdin.readline()
for epoch in order:
    open_artifact(path).verified(f"epoch-{epoch}")
"""


def test_processes_that_verify_at_the_same_time(trained: Artifact, reads: Reads) -> None:
    remembered = trained.path / DIGESTS
    kept = json.loads(remembered.read_text())
    remembered.unlink()
    orders = [list(EPOCHS), list(reversed(EPOCHS)), [*EPOCHS[5:], *EPOCHS[:5]]]
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", OPEN, str(trained.path), ",".join(map(str, order))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for order in orders
    ]
    for process in processes:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    for process in processes:
        process.communicate(timeout=60)
        assert process.returncode == 0
    found = json.loads(remembered.read_text())
    assert found and found.items() <= kept.items(), "entries may be lost to each other, none is wrong"
    assert not list(trained.path.glob("*.tmp"))
    for epoch in EPOCHS:
        trained.verified(f"epoch-{epoch}")
    assert len(reads.names) == len(kept) - 1 - len(found), "all but metrics.jsonl, without what was remembered"
