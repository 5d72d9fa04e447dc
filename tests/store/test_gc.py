"""`python -m tpo.gc`: what goes, what stays whatever happens, and that a run repeated afterwards comes out the same."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_stale import CHAIN, JUDGE, PAIRS, SAMPLE, Rounding, run, said

import tpo.store.gc
from tpo.store.artifacts import Artifact, finish, open_artifact
from tpo.store.errors import ArtifactError
from tpo.store.files import write_json, write_sealed
from tpo.store.gc import Leftover, delete, find, main
from tpo.store.in_use import IN_USE, InUse, ids_in_use, noting
from tpo.store.layout import CHECKPOINTS, LOCK, PARTIAL, STALE
from tpo.store.locks import hold
from tpo.store.open import open_store
from tpo.store.stage import Stage, Step
from tpo.store.store import Store
from tpo.store.verify import dependents

TRAIN = Stage("train", 1, "none")


def finished_run(runs: Path, name: str, *names: str) -> Path:
    """A run's folder that names artifacts, and what of them."""
    path = runs / name
    path.mkdir(parents=True)
    write_json(path / "config.json", {})
    write_sealed(path / "summary.json", {"iterations": [{"artifacts": {}, "adapter": each} for each in names]})
    return path


def names_of(found: list[Leftover]) -> set[str]:
    return {leftover.path.name for leftover in found}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "artifacts"


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a run that needs none of the artifacts; `runs` where the command runs."""
    monkeypatch.chdir(tmp_path)
    return finished_run(tmp_path / "runs", "other-0").parent


def delete_all(found: list[Leftover], root: Path, runs: Path, *, has_epochs: bool = False) -> int:
    return delete(found, root, runs=[runs], again=lambda: find(root, [runs], has_epochs=has_epochs), tell=print)


def test_what_a_run_names_stays_with_all_that_it_was_computed_from(root: Path, runs: Path) -> None:
    sampled, judged, paired = run(root, Rounding())
    assert names_of(find(root, [runs])) == {artifact.artifact_id for artifact in (sampled, judged, paired)}
    finished_run(runs, "quickstart-1", judged.artifact_id)
    assert names_of(find(root, [runs])) == {paired.artifact_id}
    finished_run(runs, "quickstart-2", f"{paired.artifact_id}/epoch-2")
    assert find(root, [runs]) == []


def test_nothing_goes_without_delete(root: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    artifacts = run(root, Rounding())
    before = sorted(root.rglob("*"))
    assert main([str(root), "--runs", str(runs)]) == 0
    output = capsys.readouterr().out
    assert "in 3 places that no run" in output and "Nothing was deleted: add --delete" in output
    assert [path for path in sorted(root.rglob("*")) if path.name != LOCK] == [p for p in before if p.name != LOCK]
    assert main([str(root), "--runs", str(runs), "--delete"]) == 0
    assert not any(artifact.path.exists() for artifact in artifacts) and not any((root / STALE).iterdir())


def test_a_pattern_that_matches_nothing_is_said_and_stops_a_deletion(
    root: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = Store(root, execute=Rounding(), run="quickstart-1")
    found = store.request(SAMPLE, {})
    assert main([str(root), "--keep", "sampel-*", "--keep", "other-0", "--keep", "no-1"]) == 0
    said = capsys.readouterr()
    assert said.err.count("warning: ") == 2 and "--keep sampel-*: " in said.err and "--keep no-1: " in said.err
    assert "in 1 place that" in said.out
    assert main([str(root), "--delete", "--keep", "quickstart-*", "--keep", "sampel-*"]) == 2
    said = capsys.readouterr()
    assert said.err.startswith("error: --keep sampel-*: ") and not said.out and found.path.exists()
    assert main([str(root), "--delete", "--keep", "quickstart-*"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith(f"Nothing in {root} may go") and said.out.count("\n") == 1 and not said.err


def test_rules_keep_what_they_name_and_what_is_young(root: Path, runs: Path) -> None:
    sampled, judged, paired = run(root, Rounding())
    assert names_of(find(root, [runs], keep=["judge-*"])) == {paired.artifact_id}
    assert find(root, [runs], keep_days=1) == []
    for path in (paired.path / "request.json", paired.path / "manifest.json"):
        os.utime(path, (time.time() - 90_000,) * 2)
    assert names_of(find(root, [runs], keep_days=1)) == {paired.artifact_id}
    assert sampled.path.exists()


def test_what_was_computed_for_a_run_that_has_not_ended_stays(root: Path, runs: Path) -> None:
    store = Store(root, execute=Rounding(), run="quickstart-1")
    found = store.request(SAMPLE, {})
    assert names_of(find(root, [runs])) == {found.artifact_id}
    assert find(root, [runs], keep=["quickstart-*"]) == []
    (runs / "quickstart-1").mkdir()
    write_json(runs / "quickstart-1" / "config.json", {})
    assert find(root, [runs]) == []


@pytest.mark.parametrize("folder", ["quickstart-1", "sub/mine-1", "x/sub/mine-1"])
def test_folders_of_runs_are_found_however_deep_they_lie(folder: str, root: Path, runs: Path) -> None:
    *_, paired = run(root, Rounding())
    finished_run(runs, folder, paired.artifact_id)
    (runs / "again").symlink_to(runs)
    assert find(root, [runs]) == [] and find(root, [runs / folder]) == []


@pytest.mark.parametrize("place", ["hydra", "quickstart-1/wandb/run-1", "quickstart-1/figures"])
def test_what_other_tools_leave_beside_a_run_refers_to_nothing(place: str, root: Path, runs: Path) -> None:
    artifacts = run(root, Rounding())
    finished_run(runs, place, artifacts[-1].artifact_id)
    assert len(find(root, [runs])) == len(artifacts)


def test_what_was_asked_for_stays_until_the_file_is_there_that_names_it(root: Path, runs: Path) -> None:
    """Whoever computed it: a killed run, evaluation or measurement, all of whose steps were there already."""
    trained = train(root)
    file = finished_run(runs, "quickstart-1", f"{trained.artifact_id}/epoch-2") / "length.json"
    store = Store(root, execute=Rounding())
    first = store.request(SAMPLE, {})
    with pytest.raises(KeyboardInterrupt), noting(store, file):
        second = store.request(JUDGE, {}, {"before": first})
        store.open(trained.artifact_id)
        raise KeyboardInterrupt
    assert names_of(find(root, [])) == {each.artifact_id for each in (first, second, trained)}
    assert find(root, [runs], has_epochs=True) == [], "it has not selected an epoch yet"
    again = Store(root, execute=Rounding())
    with noting(again, file):
        again.request(SAMPLE, {})
        assert find(root, [runs]) == [], "what the killed one had asked for stays"
    assert not [*file.parent.glob("*.asked")]
    assert names_of(find(root, [runs])) == {first.artifact_id, second.artifact_id}
    assert len(find(root, [runs], has_epochs=True)) == 3


def test_what_a_repeated_run_computed_stays_beside_its_old_summary(root: Path, runs: Path) -> None:
    """With a raised version of a stage, say: the old summary names other artifacts than the run asks for now."""
    old = Store(root, execute=Rounding(), run="quickstart-1").request(SAMPLE, {})
    path = finished_run(runs, "quickstart-1", old.artifact_id)
    again = Store(root, execute=Rounding(), run=path.name)
    with pytest.raises(KeyboardInterrupt), noting(again, path / "summary.json"):
        new = again.request(Stage("sample", 2, "none"), {})
        raise KeyboardInterrupt
    assert find(root, [runs]) == []
    (path / "summary.asked").unlink()
    assert names_of(find(root, [runs])) == {new.artifact_id}, "it is the note that keeps it"


def test_what_is_no_file_is_no_obstacle_and_damaged_json_is_said(
    root: Path, runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store(root, execute=Rounding(), run="quickstart-1")
    found = store.request(SAMPLE, {})
    path = finished_run(runs, "quickstart-1")
    (path / "gone.json").symlink_to("nowhere")
    (path / "folder.json").mkdir()
    caplog.clear()
    assert names_of(find(root, [runs])) == {found.artifact_id} and not caplog.text
    (path / "summary.json").write_text("[" * 100_000)
    assert find(root, [runs]) == [], "what the summary named is not known"
    assert "summary.json is damaged" in caplog.text


@pytest.mark.parametrize("text", ["[]", '[1, "a"]', '{"inputs": 3}', '{"inputs": {"a": []}}', "[" * 100_000, "{"])
def test_a_damaged_request_is_no_obstacle(text: str, root: Path, runs: Path) -> None:
    (root / "pairs-0123456789ab").mkdir(parents=True)
    (root / "pairs-0123456789ab" / "request.json").write_text(text)
    assert names_of(find(root, [runs])) == {"pairs-0123456789ab"}


@pytest.mark.parametrize("days", ["nan", "inf", "-inf", "-1", "a"])
def test_days_that_keep_nothing_are_refused(days: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([f"--keep-days={days}"])
    assert f"--keep-days: {days} is no number of days" in capsys.readouterr().err


def test_no_name_steers_the_terminal(root: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"e\x1b[31m\n9 GiB", b"\xff"):
        path = os.fsencode(root) + b"/" + name
        os.makedirs(path)
        Path(os.fsdecode(path), "request.json").write_text("{}")
    assert main([str(root), "--runs", str(runs)]) == 0
    said = capsys.readouterr().out
    assert "\x1b" not in said and "e\\x1b[31m\\x0a9 GiB" in said and "\\udcff" in said and said.count("\n") == 4


def test_incomplete_and_stale_ones_go_and_parts_that_nobody_goes_on_from(root: Path, runs: Path) -> None:
    sampled, judged = run(root, Rounding(), (SAMPLE, JUDGE))
    shutil.rmtree(sampled.path)
    sampled, judged = run(root, Rounding(sample=1), (SAMPLE, JUDGE))
    finished_run(runs, "quickstart-1", judged.artifact_id)
    (sampled.path / PARTIAL).write_text("row\n")
    (sampled.path / CHECKPOINTS).mkdir()
    (sampled.path / "manifest.json.01234567.tmp").touch()
    os.utime(sampled.path / "manifest.json.01234567.tmp", (0, 0))
    (root / "pairs-0123456789ab").mkdir()
    write_json(root / "pairs-0123456789ab" / "request.json", {"run": None, "inputs": {}})
    found = find(root, [runs])
    [stale] = (root / STALE).iterdir()
    names = {"pairs-0123456789ab", stale.name, PARTIAL, CHECKPOINTS, "manifest.json.01234567.tmp"}
    assert names_of(found) == names
    size = sum(leftover.size for leftover in found)
    assert delete_all(found, root, runs) == size > 0
    assert find(root, [runs]) == [] and said([sampled, judged])[1] == "judge 0 <- sample 1"


def test_what_was_written_beside_artifacts_under_a_temporary_name_goes(root: Path, runs: Path) -> None:
    (root / "reference").mkdir(parents=True)
    old = [root / "x.json.01234567.tmp", root / "reference" / "0.json.01234567.tmp"]
    new = [path.with_name(f"new-{path.name}") for path in old]
    for path in (*old, *new):
        path.write_text("half")
    for path in old:
        os.utime(path, (0, 0))
    found = find(root, [runs])
    assert names_of(found) == {path.name for path in old}
    assert delete_all(found, root, runs) == 8
    assert not any(path.exists() for path in old) and all(path.exists() for path in new)


def test_times_that_lie_ahead_keep_nothing_for_ever(root: Path, runs: Path) -> None:
    """A clock was set back, or a backup restored."""
    [sampled] = run(root, Rounding(), (SAMPLE,))
    (sampled.path / "rows.jsonl.01234567.tmp").touch()
    ahead = time.time() + 86_400
    for path in sampled.path.iterdir():
        os.utime(path, (ahead, ahead))
    assert names_of(find(root, [runs])) == {sampled.artifact_id}
    assert names_of(find(root, [runs], keep_days=2)) == {"rows.jsonl.01234567.tmp"}
    finished_run(runs, "quickstart-1", sampled.artifact_id)
    assert names_of(find(root, [runs])) == {"rows.jsonl.01234567.tmp"}


def train(root: Path) -> Artifact:
    def execute(path: Path) -> None:
        for epoch in (1, 2, 3):
            (path / f"epoch-{epoch}").mkdir()
            (path / f"epoch-{epoch}" / "adapter.bin").write_text(f"weights {epoch}")
        (path / "metrics.jsonl").write_text("{}\n")
        finish(path, metrics={}, started=0)

    return Store(root, execute=execute).request(TRAIN, {})


def test_epochs_that_no_run_selected_go_and_the_artifact_stays_what_it_was(root: Path, runs: Path) -> None:
    trained = train(root)
    finished_run(runs, "quickstart-1", f"{trained.artifact_id}/epoch-2")
    assert find(root, [runs]) == []
    [epochs] = find(root, [runs], has_epochs=True)
    assert epochs.epochs == ("epoch-1", "epoch-3") and epochs.size == 18
    delete_all([epochs], root, runs, has_epochs=True)
    assert {path.name for path in trained.path.glob("epoch-*")} == {"epoch-2"}
    again = open_artifact(trained.path)
    assert again.content == trained.content and again.verified("epoch-2")
    with pytest.raises(ArtifactError, match=r"epoch-3/adapter.bin was deleted by tpo.gc"):
        again.verified("epoch-3")
    (trained.path / "metrics.jsonl").unlink()
    with pytest.raises(ArtifactError, match=r"metrics.jsonl is missing or differs"):
        open_artifact(trained.path)


def test_epochs_of_a_training_whose_run_has_not_selected_yet_stay(root: Path, runs: Path) -> None:
    finished_run(runs, "quickstart-1", train(root).artifact_id)
    assert find(root, [runs], has_epochs=True) == []


def test_a_run_that_begins_and_ends_during_a_deletion_keeps_what_it_used(
    root: Path, runs: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trained, (sampled,) = train(root), run(root, Rounding(), (SAMPLE,))
    other = Store(root, execute=Rounding()).request(PAIRS, {})
    finished_run(runs, "quickstart-1", f"{trained.artifact_id}/epoch-2")
    found = find(root, [runs], has_epochs=True)
    assert [leftover.path for leftover in found] == [other.path, sampled.path, trained.path]
    remove = tpo.store.gc._remove

    def remove_while_a_run_ends(path: Path) -> None:
        finished_run(runs, "quickstart-2", sampled.artifact_id, f"{trained.artifact_id}/epoch-1")
        remove(path)

    monkeypatch.setattr(tpo.store.gc, "_remove", remove_while_a_run_ends)
    assert delete_all(found, root, runs, has_epochs=True) == found[0].size
    assert not other.path.exists() and sampled.path.exists() and (trained.path / "epoch-1").exists()
    assert capsys.readouterr().out.count("needs it meanwhile") == 2


# --- what processes hold ----------------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from test_stale import Rounding, SAMPLE, JUDGE
from tpo.store.open import open_store
import tpo.store.artifacts

with open_store(Path(sys.argv[1])) as store:
    store._execute = Rounding()
    store.request(JUDGE, {}, {"before": store.request(SAMPLE, {})})
    print("holds", flush=True)
    sys.stdin.readline()
"""


def test_what_a_running_process_has_asked_for_stays_until_it_ends(
    root: Path, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *_, paired = run(root, Rounding())
    found = find(root, [runs])
    place = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{Path(__file__).parents[2]}"}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(root)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=place
    )
    assert holder.stdout is not None and holder.stdout.readline() == "holds\n"
    assert names_of(find(root, [runs])) == {paired.artifact_id}
    delete_all(found, root, runs)
    assert capsys.readouterr().out.count("a process has asked for it meanwhile") == 2
    assert {path.name for path in root.glob("*-*")} == {item.path.name for item in found} - {paired.artifact_id}
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert len(find(root, [runs])) == 2 and not list((root / IN_USE).iterdir()), "the kernel gave its lock back"


def test_what_is_being_computed_stays(root: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sampled, judged = run(root, Rounding(), (SAMPLE, JUDGE))
    found = find(root, [runs])
    with hold(judged.path / LOCK, purpose="a step"):
        assert find(root, [runs]) == [], "nor what it is computed from"
        delete(found[:1], root, runs=[runs], again=lambda: found, tell=print)  # begun just now
        assert judged.path.exists() and "is in use by process" in capsys.readouterr().out
    assert names_of(find(root, [runs])) == {sampled.artifact_id, judged.artifact_id}


def test_a_process_that_ends_takes_its_note_with_it(root: Path) -> None:
    with open_store(root) as store:
        store._execute = Rounding()
        found = store.request(SAMPLE, {})
        assert ids_in_use(root) == {found.artifact_id}
        other = run(root, Rounding())[1]
        assert store.open(other.artifact_id).content == other.content
        assert ids_in_use(root) == {found.artifact_id, other.artifact_id}
        (root / IN_USE / "host-1-killed").touch()  # while this one ran
    assert not list((root / IN_USE).iterdir()) and ids_in_use(root) == set()


def test_notes_that_cannot_be_written_are_no_reason_to_fail(tmp_path: Path) -> None:
    (tmp_path / IN_USE).write_text("a file in the way")
    with InUse(tmp_path) as in_use:
        in_use.begin(Step("sample", 1, {}))
    assert ids_in_use(tmp_path) == set()


def test_a_waiter_for_a_folder_that_is_deleted_takes_the_lock_on_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "sample-0"
    order: list[str] = []

    def wait() -> None:
        with hold(path / LOCK, purpose="waiter"):
            order.append("waiter")
            assert (path / LOCK).exists(), "the lock is on what is there"

    with hold(path / LOCK, purpose="gc"):
        waiter = threading.Thread(target=wait)
        waiter.start()
        time.sleep(0.3)
        path.rename(tmp_path / "trash")
        shutil.rmtree(tmp_path / "trash")
        order.append("gc")
    waiter.join(10)
    assert order == ["gc", "waiter"]


# --- a run that is repeated afterwards --------------------------------------------------------------------------------


@settings(deadline=None, max_examples=25)
@given(st.sets(st.integers(0, 2)), st.booleans())
def test_a_run_that_is_repeated_after_gc_comes_out_the_same(named: set[int], has_epochs: bool) -> None:
    with tempfile.TemporaryDirectory() as folder:
        root, runs = Path(folder) / "artifacts", Path(folder) / "runs"
        found = run(root, Rounding())
        for at in named:
            finished_run(runs, f"quickstart-{at}", found[at].artifact_id)
        runs.mkdir(exist_ok=True)
        delete_all(find(root, [runs], has_epochs=has_epochs), root, runs, has_epochs=has_epochs)
        last = max(named, default=-1)
        again = Rounding()
        assert [artifact.is_reused for artifact in run(root, again)] == [at <= last for at in range(3)]
        assert again.computed == [stage.name for stage in CHAIN[last + 1 :]]


def test_a_place_that_is_none_is_named(root: Path, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(root), "--runs", str(runs)]) == 2
    assert capsys.readouterr().err.startswith(f"error: {root}: there is no such folder")


@pytest.mark.parametrize("text", [None, "{", '{"inputs": {}}'])
def test_what_an_artifact_rests_on_is_what_its_manifest_says(text: str | None, root: Path, runs: Path) -> None:
    sampled, judged = run(root, Rounding(), (SAMPLE, JUDGE))
    finished_run(runs, "quickstart-1", judged.artifact_id)
    request = judged.path / "request.json"
    request.unlink() if text is None else request.write_text(text)
    assert find(root, [runs]) == [] and dependents(root, [sampled.artifact_id])[sampled.artifact_id] == [
        judged.path.name
    ]


def test_a_damaged_manifest_is_no_obstacle(root: Path, runs: Path) -> None:
    sampled, judged, paired = run(root, Rounding())
    (judged.path / "manifest.json").write_text('{"stage"')
    finished_run(runs, "quickstart-1", paired.artifact_id)
    assert find(root, [runs], has_epochs=True) == []
    assert json.loads((judged.path / "request.json").read_text())["inputs"] == {"before": sampled.artifact_id}
