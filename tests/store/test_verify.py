"""`python -m tpo.verify` on artifacts and runs that were damaged in every way that is known."""

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from test_stale import JUDGE, SAMPLE, Rounding, run

from tpo.store.artifacts import Artifact, finish
from tpo.store.files import row_digest, write_json, write_sealed
from tpo.store.records import Prompt, write_records
from tpo.store.stage import Stage
from tpo.store.store import Store
from tpo.store.verify import main, wrong_row


@pytest.fixture
def chain(tmp_path: Path) -> list[Artifact]:
    """Three artifacts, each of the one before, and a run that names them."""
    found = run(tmp_path / "artifacts", Rounding())
    path = tmp_path / "runs" / "quickstart-0123456789ab"
    path.mkdir(parents=True)
    stages = [{"artifact_id": artifact.artifact_id, "content": artifact.content} for artifact in found]
    write_json(path / "config.json", {"artifacts_dir": str(tmp_path / "artifacts"), "name": f"runs/{path.name}@2"})
    entry = {"win_rate": 0.5, "artifacts": {"pairs": found[-1].artifact_id}, "adapter": None}
    write_sealed(path / "summary.json", {"iterations": [entry], "stages": stages})
    return found


def verified(capsys: pytest.CaptureFixture[str], *arguments: Path | str) -> tuple[int, str]:
    status = main([str(argument) for argument in arguments])
    output = capsys.readouterr()
    return status, output.out + output.err


def test_what_is_right_is_said(chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    places = (tmp_path / "artifacts", tmp_path / "runs" / "quickstart-0123456789ab", chain[0].path)
    status, said = verified(capsys, *places, "--reread")
    ends = [place + "\n" for place in ("3 artifacts", f"3 artifacts in {places[0]}", f"1 artifact in {places[0]}")]
    lines = (f"{place}: all is as it says, with {end}" for place, end in zip(places, ends, strict=True))
    assert status == 0 and said == "".join(lines)


def edit(path: Path, name: str, old: str, new: str) -> None:
    text = (path / name).read_text()
    assert old in text
    (path / name).write_text(text.replace(old, new))


def swap(one: Path, other: Path) -> None:
    one.rename(one.with_name("third"))
    other.rename(one)
    one.with_name("third").rename(other)


DAMAGES: dict[str, tuple[Callable[[list[Artifact]], object], str]] = {
    "edited rows": (lambda chain: edit(chain[0].path, "said.txt", "0", "9"), "said.txt: differs from manifest.json"),
    "lost rows": (lambda chain: (chain[0].path / "said.txt").unlink(), "said.txt: is missing"),
    "added file": (lambda chain: (chain[0].path / "more.jsonl").touch(), "more.jsonl: is not listed in manifest.json"),
    "edited metric": (
        lambda chain: edit(chain[0].path, "manifest.json", '"num_rows": 1', '"num_rows": 2'),
        "was edited",
    ),
    "edited request": (
        lambda chain: edit(chain[0].path, "request.json", '"seed": 0', '"seed": 5'),
        "request.json: differs from manifest.json",
    ),
    "lost request": (lambda chain: (chain[0].path / "request.json").unlink(), "request.json: is missing"),
    "torn request": (lambda chain: (chain[0].path / "request.json").write_text('{"stage"'), "request.json: is damaged"),
    "version": (lambda chain: edit(chain[0].path, "manifest.json", '"version": 1', '"version": 99'), "was edited"),
    "torn manifest": (lambda chain: (chain[0].path / "manifest.json").write_text('{"stage"'), "is damaged"),
    "no digest": (lambda chain: (chain[0].path / "manifest.json").write_text("{}"), "has no digest of its own"),
    "swapped": (lambda chain: swap(chain[0].path, chain[1].path), "holds the artifact judge-"),
    "deleted": (lambda chain: shutil.rmtree(chain[0].path), "is not there, or was not finished"),
    "another seed": (
        lambda chain: write_sealed(chain[0].path / "manifest.json", chain[0].manifest | {"seed": 5}),
        "its name is not the hash of what its manifest says was asked for",
    ),
    "computed anew": (
        lambda chain: (shutil.rmtree(chain[0].path), run(chain[0].path.parent, Rounding(sample=1), (SAMPLE,))),
        "stale: its input sample-",
    ),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damage_is_named_with_what_rests_on_it(
    name: str, chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage, expected = DAMAGES[name]
    damage(chain)
    for place in (tmp_path / "artifacts", next((tmp_path / "runs").iterdir())):
        status, said = verified(capsys, place)
        assert status == 1 and expected in said, said
    if name not in ("swapped", "computed anew"):
        assert f"rests on it: {', '.join(sorted(artifact.artifact_id for artifact in chain[1:]))}" in said


def test_the_run_to_repeat_is_named_and_the_file_that_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "artifacts"
    store = Store(root, execute=Rounding(), run="quickstart-1")
    sampled = store.request(SAMPLE, {})
    judged = store.request(JUDGE, {}, {"before": sampled})
    edit(judged.path, "manifest.json", '"num_rows": 1', '"num_rows": 2')
    status, said = verified(capsys, root)
    assert status == 1 and said.splitlines() == [
        f"{judged.path}/manifest.json: was edited: its content has another digest than it names. Delete {judged.path} "
        "to compute it again.",
        "    repeat the command of the run quickstart-1, which computes it anew",
        f"{root}: 1 thing is wrong, with 2 artifacts",
    ]
    shutil.rmtree(judged.path)
    judged = store.request(JUDGE, {}, {"before": sampled})
    shutil.rmtree(sampled.path)  # what rests on it says for which run it was computed
    assert "repeat the command of the run quickstart-1," in verified(capsys, judged.path)[1]
    path = tmp_path / "runs" / "other-1"
    path.mkdir(parents=True)
    write_json(path / "config.json", {"artifacts_dir": str(root)})
    write_sealed(path / "summary.json", {"iterations": [{"artifacts": {"scores": judged.artifact_id}}]})
    status, said = verified(capsys, path)
    assert status == 1 and "repeat the command of the run other-1," in said, "it asks for what it shares, too"
    assert said.endswith(f"{path}: 1 thing is wrong, with 2 artifacts in {root}\n")


def test_a_moved_run_says_which_artifacts_it_was_verified_against(
    chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    [path] = (tmp_path / "runs").iterdir()
    write_json(path / "config.json", {"artifacts_dir": "artifacts"})
    monkeypatch.chdir(tmp_path)
    assert verified(capsys, path) == (0, f"{path}: all is as it says, with 3 artifacts in artifacts\n")
    (tmp_path / "elsewhere").mkdir()
    shutil.copytree(path, tmp_path / "elsewhere" / "runs" / path.name)
    monkeypatch.chdir(tmp_path / "elsewhere")
    status, said = verified(capsys, "runs")
    assert status == 1 and said.splitlines() == [
        f"runs/{path.name}: the folder of its artifacts, {tmp_path}/elsewhere/artifacts, is not there (artifacts_dir "
        "of its config.json)",
        "    name the folder that holds them with --artifacts",
        f"runs/{path.name}: 1 thing is wrong, with 0 artifacts in artifacts",
    ]
    status, said = verified(capsys, "runs", "--artifacts", tmp_path / "artifacts")
    assert (status, said) == (0, f"runs/{path.name}: all is as it says, with 3 artifacts in {tmp_path}/artifacts\n")
    status, said = verified(capsys, "runs", "--artifacts", "artefacts")
    assert (status, said) == (2, "error: --artifacts artefacts: there is no such folder\n")


DAMAGES_OF_A_REFERENCE: dict[str, tuple[Callable[[Path], object], str]] = {
    "edited": (lambda path: edit(path.parent, path.name, "-1.5", "-0.5"), "was edited"),
    "torn": (lambda path: path.write_text('{"key"'), "is damaged"),
    "moved": (lambda path: path.rename(path.with_name("0.json")), "is the file of another reference"),
}


@pytest.mark.parametrize("name", DAMAGES_OF_A_REFERENCE)
def test_the_reference_that_a_runs_trainings_used_is_verified_with_it(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = tmp_path / "artifacts"
    store = Store(root, execute=Rounding(train=0))
    sampled, other = store.request(SAMPLE, {}), store.request(SAMPLE, {"other": True})
    trained = store.request(Stage("train", 1, "none"), {}, {"pairs": sampled})
    (root / "reference").mkdir()
    for number, pairs in enumerate((sampled, other), start=1):
        value = {"key": str(number), "inputs": {"pairs": pairs.artifact_id}, "columns": {"ref_chosen_logps": [-1.5]}}
        write_sealed(root / "reference" / f"{number}.json", value)
    for run_name, artifact in (("trained-1", trained), ("sampled-1", sampled)):
        (tmp_path / run_name).mkdir()
        write_json(tmp_path / run_name / "config.json", {"artifacts_dir": str(root)})
        summary = {"iterations": [{"artifacts": {"it": artifact.artifact_id}}]}
        write_sealed(tmp_path / run_name / "summary.json", summary)
    edit(root / "reference", "2.json", "-1.5", "-0.5")  # of trainings on other pairs
    for place in (trained.path, tmp_path / "trained-1", tmp_path / "sampled-1"):
        assert verified(capsys, place)[0] == 0
    damage, expected = DAMAGES_OF_A_REFERENCE[name]
    damage(root / "reference" / "1.json")
    for place in (trained.path, tmp_path / "trained-1"):
        status, said = verified(capsys, place)
        assert status == 1 and expected in said and "1 thing is wrong" in said
    assert verified(capsys, tmp_path / "sampled-1")[0] == 0, "it trains nothing"
    assert "2 things are wrong" in verified(capsys, root)[1]


def test_edited_summary_and_one_of_before_are_named(
    chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = (tmp_path / "runs").iterdir()
    edit(path, "summary.json", "0.5", "0.99")
    status, said = verified(capsys, path)
    assert status == 1 and "summary.json: was edited" in said
    shutil.rmtree(tmp_path / "artifacts")
    run(tmp_path / "artifacts", Rounding(pairs=1))
    write_sealed(
        path / "summary.json", {"stages": [{"artifact_id": chain[2].artifact_id, "content": chain[2].content}]}
    )
    status, said = verified(capsys, path)
    assert status == 1 and f"shows another content of {chain[2].artifact_id}" in said


def test_rows_are_read_as_what_the_first_one_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_records(path, [Prompt(str(number), "t", "c", "s", "t", (), "b") for number in range(3)])
    right = path.read_text()
    assert wrong_row(path) is None
    path.write_text(right + '{"prompt_id": "4"}\n')
    assert wrong_row(path) == "row 4 is no Prompt, as the rows before it"
    path.write_text(right.replace('"t"', "7", 1))
    assert wrong_row(path) is None, "rows of no kind are objects"
    path.write_text('{"loss": 0.5}\n{"loss": \n')
    assert wrong_row(path) == "row 2 is no JSON object"
    path.write_text("")
    assert wrong_row(path) is None


def test_wrong_rows_with_a_right_digest_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def execute(path: Path) -> None:
        (path / "rows.jsonl").write_text("[1]\n")
        finish(path, metrics={}, started=0)

    Store(tmp_path, execute=execute).request(Stage("sample", 1, ""), {})
    status, said = verified(capsys, tmp_path)
    assert status == 1 and "rows.jsonl: row 1 is no JSON object" in said


def test_what_artifacts_share_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "reference").mkdir()
    write_sealed(tmp_path / "reference" / "right.json", {"key": "right", "inputs": {}, "columns": {}})
    write_sealed(tmp_path / "reference" / "moved.json", {"key": "right", "inputs": {}, "columns": {}})
    (tmp_path / "reference" / "old.json").write_text("{}")
    with sqlite3.connect(tmp_path / "answers.sqlite") as database:
        database.execute("CREATE TABLE answers (key, answer, digest)")
        digest = row_digest("first", "Score: 9")
        database.execute("INSERT INTO answers VALUES ('first', 'Score: 9', ?)", (digest,))
    status, said = verified(capsys, tmp_path)
    assert status == 1 and "moved.json: is the file of another" in said and "old.json: has no digest" in said
    assert "right.json" not in said and "answers.sqlite" not in said
    with sqlite3.connect(tmp_path / "answers.sqlite") as database:
        database.execute("INSERT INTO answers VALUES ('second', 'Score: 9', ?)", (digest,))
    database.close()
    status, said = verified(capsys, tmp_path)
    assert status == 1 and "answers.sqlite: has an edited answer in the row second" in said
    assert "DELETE" not in said and "delete the row, whose key is no digest" in said
    with sqlite3.connect(tmp_path / "answers.sqlite") as database:
        database.execute("INSERT INTO answers VALUES (?, 'Score: 9', ?)", ("a1" * 32, digest))
        database.execute("INSERT INTO answers VALUES (?, 'Score: 9', ?)", ("' OR 1 --\x1b[31m\nx", digest))
    database.close()
    status, said = verified(capsys, tmp_path)
    assert f"DELETE FROM answers WHERE key = '{'a1' * 32}'" in said and said.count("DELETE") == 1
    assert "\x1b" not in said and "the row ' OR 1 --\\x1b[31m\\x0ax" in said
    (tmp_path / "answers.sqlite").write_bytes(b"no database, but long enough to be taken for one" * 100)
    status, said = verified(capsys, tmp_path)
    assert status == 1 and "answers.sqlite: is damaged" in said


def test_a_place_that_is_none_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, said = verified(capsys, tmp_path / "missing")
    assert status == 2 and said.startswith(f"error: {tmp_path / 'missing'}: there is no such folder")


@pytest.mark.parametrize("place", ["empty", "runs/hydra"])
def test_nothing_to_verify_is_not_all_right(place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / place / "2026-01-01").mkdir(parents=True)
    status, said = verified(capsys, tmp_path / place)
    assert status == 2 and "there is nothing to verify" in said


def test_all_runs_of_a_directory_are_verified(
    chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = (tmp_path / "runs").iterdir()
    (tmp_path / "runs" / "sub").mkdir()
    path.rename(tmp_path / "runs" / "sub" / path.name)
    assert verified(capsys, tmp_path / "runs") == (
        0,
        f"{tmp_path}/runs/sub/{path.name}: all is as it says, with 3 artifacts in {tmp_path}/artifacts\n",
    )
    edit(tmp_path / "runs" / "sub" / path.name, "summary.json", "0.5", "0.9")
    status, said = verified(capsys, tmp_path / "runs")
    assert status == 1 and "summary.json: was edited" in said


def test_measured_judges_are_verified(
    chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "runs" / "agreement-0123456789ab"
    path.mkdir()
    stages = [{"artifact_id": chain[1].artifact_id, "content": chain[1].content}]
    write_sealed(path / "length.json", {"slices": {"all": {"rate": 0.5}}, "stages": stages})
    place = ("--artifacts", tmp_path / "artifacts")
    assert verified(capsys, path, *place)[0] == 0
    edit(path, "length.json", "0.5", "0.9")
    status, said = verified(capsys, path, *place)
    assert status == 1 and "length.json: was edited" in said
    write_json(path / "length.json", {"slices": {}})
    assert "length.json: has no digest of its own" in verified(capsys, path, *place)[1]
    write_sealed(path / "length.json", {"slices": {}, "stages": [stages[0] | {"content": chain[0].content}]})
    assert f"shows another content of {chain[1].artifact_id}" in verified(capsys, path, *place)[1]


@pytest.mark.parametrize("name", ["config.json", "summary.json"])
@pytest.mark.parametrize("text", ["[]", "3", "null", "[" * 100_000, "\udcff"])
def test_what_is_no_json_object_is_damaged(
    name: str, text: str, chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = (tmp_path / "runs").iterdir()
    (path / name).write_bytes(text.encode(errors="surrogateescape"))
    status, said = verified(capsys, path)
    assert status == 1 and f"{path / name}: is damaged" in said


def test_no_name_steers_the_terminal(chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (b"e\x1b[31m\nall is as it says", b"\xff"):
        with open(os.fsencode(chain[0].path) + b"/" + name, "w"):
            pass
    status, said = verified(capsys, tmp_path / "artifacts")
    assert status == 1 and "\x1b" not in said and "\\x1b[31m\\x0aall" in said and "\\udcff" in said


def test_a_remembered_digest_is_trusted_but_with_reread(
    chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = chain[0].path / "said.txt"
    remembered = json.loads((chain[0].path / ".digests.json").read_text())
    file.write_text("sample 9")  # as a disk that loses data would, without another state
    status = file.stat()
    state = [status.st_size, status.st_ino, status.st_mtime_ns, status.st_ctime_ns]
    remembered["said.txt"][0] = state
    (chain[0].path / ".digests.json").write_text(json.dumps(remembered))
    assert verified(capsys, tmp_path / "artifacts")[0] == 0
    assert verified(capsys, tmp_path / "artifacts", "--reread")[0] == 1


@pytest.mark.parametrize("text", ['{"stages": ["a"]}', '{"stages": 5}', '{"stages": [{"x": 1}]}', '{"stages": null}'])
def test_what_others_leave_in_a_runs_folder_is_no_obstacle(
    text: str, chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [path] = (tmp_path / "runs").iterdir()
    (path / "notes.json").write_text(text)
    status, said = verified(capsys, path)
    assert status == 0 and "all is as it says" in said


def test_the_note_of_files_deleted_on_purpose_is_verified(
    chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    note = chain[0].path / "pruned.json"
    write_sealed(note, {"files": []})
    assert verified(capsys, tmp_path / "artifacts")[0] == 0
    for text in ("{", "[]", "{}", '{"files": 3}'):
        note.write_text(text)
        status, said = verified(capsys, tmp_path / "artifacts")
        assert status == 1 and f"{note}: " in said and "deleted on purpose" in said


def test_what_cannot_be_read_does_not_end_the_verification(
    chain: list[Artifact], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (chain[0].path / "manifest.json").unlink()
    (chain[0].path / "manifest.json").mkdir()
    [name] = chain[2].manifest["files"]
    (chain[2].path / name).write_text("other")
    status, said = verified(capsys, tmp_path / "artifacts")
    assert status == 1 and f"{chain[0].path}: " in said and f"{chain[2].path / name}: differs" in said
