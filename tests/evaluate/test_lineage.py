"""What a policy has seen counts as held out under no name: lineages of artifacts that the tests write by hand."""

import json
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from tpo.config.thought import DIRECT
from tpo.evaluate.lineage import Lineage, SeenError, find_training, leave_unseen, log_unknown, seen_by, trace
from tpo.model.exported import RECORD
from tpo.model.policy import PolicyRef
from tpo.sample.prompts import make_prompt
from tpo.store.artifacts import Artifact, finish, open_artifact
from tpo.store.execute import execute
from tpo.store.files import write_json
from tpo.store.records import Prompt, Record, Response, write_records
from tpo.store.store import Store


def prompt(text: str, split: str, *, base: Prompt | None = None) -> Prompt:
    base_id = None if base is None else base.base_id
    return make_prompt(text, category=None, source="mine.jsonl", split=split, where="here", base_id=base_id)


def make(
    root: Path, stage: str, key: str, /, *, inputs: dict[str, str], rows: Iterable[Record] = (), **config: Any
) -> str:
    """An artifact `<stage>-<key>` as a stage leaves it."""
    path = root / f"{stage}-{key}"
    path.mkdir(parents=True)
    contents = {role: open_artifact(root / name).content for role, name in inputs.items()}
    request = {"stage": stage, "inputs": inputs, "contents": contents, "config": config, "how": {}}
    write_json(path / "request.json", request)
    write_records(path / "rows.jsonl", rows)
    if stage == "train":
        for epoch in (1, 2):
            (path / f"epoch-{epoch}").mkdir()
            (path / f"epoch-{epoch}" / "adapter_config.json").write_text("{}")
            (path / f"epoch-{epoch}" / "adapter_model.safetensors").write_text(f"{key} {epoch}")
    finish(path, metrics={"num_prompts": len(list(rows))}, started=0)
    return path.name


def rewrite_metrics(path: Path, **metrics: Any) -> None:
    (path / "manifest.json").unlink()
    finish(path, metrics=metrics, started=0)


def instructions(seed: int) -> list[Prompt]:
    splits = ["train-1", "train-1", "train-2", "train-2", "validation", "test", "test"]
    return [prompt(f"Instruction {number} of seed {seed}", split) for number, split in enumerate(splits)]


def make_chain(root: Path, *, seed: int = 0, num_iterations: int = 2, model: str = "model-a") -> list[str]:
    """The trainings of a run, each from its own split and the policy before."""
    if not (root / model).exists():
        make(root, "model", model.removeprefix("model-"), inputs={}, source="pretrained", name="some/model")
    prompts = make(root, "prompts", f"p{seed}", inputs={}, rows=instructions(seed))
    found: list[str] = []
    for number in range(1, num_iterations + 1):
        adapter = {"adapter": found[-1]} if found else {}
        name = f"{seed}{number}"
        sampled = make(
            root,
            "sample",
            name,
            inputs={"prompts": prompts, "model": model, **adapter},
            split=f"train-{number}",
            epoch=1,
        )
        scores = make(root, "judge", name, inputs={"prompts": prompts, "completions": sampled})
        pairs = make(root, "pairs", name, inputs={"completions": sampled, "scores": scores})
        found.append(make(root, "train", name, inputs={"pairs": pairs, "model": model, **adapter}))
    return found


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "artifacts", execute=execute)


def traced(store: Store, weights: Path | None, *, model: str = "model-a") -> Lineage:
    return trace(open_artifact(store.root / model), weights, store)


def splits_of(lineage: Lineage) -> set[str]:
    return {f"{path.name} {split}" for path, split in lineage.used}


# --- the lineage ------------------------------------------------------------------------------------------------------


def test_a_policy_has_seen_what_all_trainings_before_it_have(store: Store) -> None:
    first, second = make_chain(store.root)
    assert splits_of(traced(store, store.root / first / "epoch-1")) == {"prompts-p0 train-1", "prompts-p0 validation"}
    lineage = traced(store, store.root / second / "epoch-2")
    assert splits_of(lineage) == {"prompts-p0 train-1", "prompts-p0 train-2", "prompts-p0 validation"}
    assert lineage.is_traced and lineage.missing == ()
    known, (*others, test, _) = seen_by([lineage]), instructions(0)
    assert all(known.has(row) for row in others[:5]) and not known.has(test)
    untrained = traced(store, None)
    assert untrained == Lineage(frozenset(), True, ())


@pytest.mark.parametrize("spelling", ["absolute", "link", "copy", "other_store"])
def test_weights_are_known_under_any_name(spelling: str, store: Store, tmp_path: Path) -> None:
    make_chain(store.root)
    weights = store.root / "train-02" / "epoch-2"
    place = tmp_path / "elsewhere"
    if spelling == "link":
        place.symlink_to(weights)
    elif spelling == "copy":
        shutil.copytree(weights, place)
    elif spelling == "other_store":
        shutil.copytree(store.root, place)
        shutil.rmtree(store.root)
        make(store.root, "model", "a", inputs={}, source="pretrained", name="some/model")
        place = place / "train-02" / "epoch-2"
    else:
        place = weights.resolve()
    assert "prompts-p0 train-2" in splits_of(traced(store, place))


def test_other_weights_are_not_taken_for_known_ones(store: Store, tmp_path: Path) -> None:
    make_chain(store.root)
    shutil.copytree(store.root / "train-02" / "epoch-2", tmp_path / "copy")
    (tmp_path / "copy" / "adapter_model.safetensors").write_text("02 3")
    assert find_training(tmp_path / "copy", store.root) is None
    (tmp_path / "empty").mkdir()
    assert find_training(tmp_path / "empty", store.root) is None


def test_a_model_that_was_trained_here_brings_its_lineage(store: Store) -> None:
    make_chain(store.root)
    trained = store.root / "train-02" / "epoch-2"
    make(store.root, "model", "b", inputs={}, source="pretrained", name=str(trained))
    assert "prompts-p0 train-2" in splits_of(traced(store, None, model="model-b"))
    [last] = make_chain(store.root, seed=1, num_iterations=1, model="model-b")
    lineage = traced(store, store.root / last / "epoch-1", model="model-b")
    assert {"prompts-p0 train-2", "prompts-p1 train-1"} <= splits_of(lineage)


def test_a_merged_export_brings_its_lineage_even_when_it_is_gone(store: Store, tmp_path: Path) -> None:
    [_, last] = make_chain(store.root)
    place = tmp_path / "merged"
    place.mkdir()
    record = {"kind": "merged", "model": {}, "thought": {}, "sample": {}}
    imported = make(store.root, "adapter", "x", inputs={}, files={})
    shutil.copytree(store.root / last / "epoch-2", store.root / imported / "epoch-1")
    make(store.root, "model", "b", inputs={}, source="pretrained", name=str(place))
    for training in (last, imported):  # an export of a run's policy, and of an export of it
        write_json(place / RECORD, {**record, "training": training})
        assert "prompts-p0 train-2" in splits_of(traced(store, None, model="model-b"))
    write_json(place / RECORD, {**record, "training": "train-elsewhere"})
    shutil.rmtree(store.root / "model-b")
    make(store.root, "model", "b", inputs={}, source="pretrained", name=str(place))
    assert traced(store, None, model="model-b").missing == ("train-elsewhere",), "not in this store"
    shutil.rmtree(place)
    for number, (training, missing) in enumerate((("train-elsewhere", "train-elsewhere"), (None, str(place)))):
        name = make(store.root, "model", f"c{number}", inputs={}, source="pretrained", name=str(place))
        rewrite_metrics(store.root / name, training=training)
        assert traced(store, None, model=name).missing == (missing,)
    gone = make(store.root, "model", "d", inputs={}, source="pretrained", name=str(place))
    rewrite_metrics(store.root / gone, training=last)
    assert "prompts-p0 train-2" in splits_of(traced(store, None, model=gone))


def test_what_is_not_at_hand_is_named_and_unknown_training_is_said(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_chain(store.root)
    shutil.rmtree(store.root / "sample-01")
    lineage = traced(store, store.root / "train-02" / "epoch-1")
    assert lineage.missing == ("sample-01",) and "prompts-p0 train-2" in splits_of(lineage)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "adapter_model.safetensors").write_text("unknown")
    unknown = traced(store, tmp_path / "mine")
    assert not unknown.is_traced and not unknown.used
    policy = PolicyRef("its name", open_artifact(store.root / "model-a"), None, DIRECT, None)  # type: ignore[arg-type]
    for found, is_from_elsewhere, said in (
        (lineage, False, "sample-01, which its training comes from, is not at hand as it was then"),
        (unknown, False, "what its name was trained on is not known here"),
        (traced(store, None), True, "what its name was trained on is not known here"),
        (traced(store, None), False, None),
    ):
        caplog.clear()
        log_unknown("x", policy, found, is_from_elsewhere=is_from_elsewhere)
        assert [record.getMessage().partition(": ")[2].partition(", so")[0] for record in caplog.records] == (
            [] if said is None else [said]
        )


def test_rows_of_an_older_version_are_read(store: Store) -> None:
    make_chain(store.root)
    path = store.root / "prompts-p0"
    rows = [json.loads(line) for line in (path / "rows.jsonl").read_text().splitlines()]
    old = [{key: row[key] for key in ("prompt_id", "text", "split")} for row in rows]
    (path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in old))
    (path / "manifest.json").unlink()
    finish(path, metrics={}, started=0)
    known = seen_by([traced(store, store.root / "train-01" / "epoch-1")])
    assert [known.has(row) for row in instructions(0)] == [True, True, False, False, True, False, False]


# --- what becomes of instructions -------------------------------------------------------------------------------------


def leave(store: Store, prompts: str, *, seen: str = "refuse") -> Artifact:
    lineages = [traced(store, store.root / "train-02" / "epoch-1")]
    return leave_unseen(store, open_artifact(store.root / prompts), ["runs/mine@2"], lineages, seen=seen)


def test_a_runs_own_test_is_held_out(store: Store) -> None:
    make_chain(store.root)
    assert leave(store, "prompts-p0").artifact_id == "prompts-p0"


def planted(store: Store) -> list[Prompt]:
    """Five test instructions, three of which were seen: the same, in other letters, and with another constraint."""
    make_chain(store.root)
    trained = instructions(0)
    rows = [
        prompt("Quite another", "test"),
        prompt(trained[0].text, "test"),
        prompt(f"  «{trained[2].text.upper()}» ", "test"),
        prompt(f"{trained[4].text} Use no comma.", "test", base=trained[4]),
        prompt(f"{trained[5].text} Use no comma.", "test", base=trained[5]),  # of its own test
        prompt(trained[1].text, "train-1"),  # which nobody evaluates on
    ]
    make(store.root, "prompts", "planted", inputs={}, rows=rows)
    return rows


def test_overlap_is_refused_with_its_count(store: Store) -> None:
    planted(store)
    with pytest.raises(SeenError) as caught:
        leave(store, "prompts-planted")
    said = str(caught.value)
    assert said.startswith("runs/mine@2: 3 of the 5 test instructions of mine.jsonl (prompts-planted) are not held out")
    assert "eval.seen=leave_out" in said and "\n" not in said


def test_overlap_is_left_out_and_counted(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    rows = planted(store)
    with caplog.at_level(logging.WARNING):
        kept = leave(store, "prompts-planted", seen="leave_out")
    assert [row.text for row in kept.rows(Prompt) if row.split == "test"] == [rows[0].text, rows[4].text]
    assert kept.metrics["num_left_out"] == 3
    assert "3 of the 5 test instructions" in caplog.text and "left out" in caplog.text


def test_nothing_is_left_where_all_was_seen(store: Store) -> None:
    make_chain(store.root)
    make(store.root, "prompts", "same", inputs={}, rows=[prompt(row.text, "test") for row in instructions(0)[:2]])
    with pytest.raises(SeenError, match="2 of the 2 test instructions") as caught:
        leave(store, "prompts-same", seen="leave_out")
    assert "eval.seen" not in str(caught.value)


def test_a_benchmarks_answers_and_keys_go_with_its_instructions(store: Store) -> None:
    rows = planted(store)[:5]
    path = store.root / "benchmark-a"
    path.mkdir()
    write_json(path / "request.json", {"stage": "benchmark", "inputs": {}, "config": {}, "how": {}})
    write_records(path / "rows.jsonl", rows)
    write_records(path / "references.jsonl", [Response(row.prompt_id, 0, "answer", None) for row in rows])
    write_json(path / "keys.json", {row.prompt_id: {"uid": row.text} for row in rows})
    finish(path, metrics={"num_prompts": 5, "num_references": 5}, started=0)
    kept = leave(store, "benchmark-a", seen="leave_out")
    ids = [rows[0].prompt_id, rows[4].prompt_id]
    assert [row.prompt_id for row in kept.rows(Response, "references.jsonl")] == ids
    assert list(json.loads(kept.verified("keys.json").read_text())) == ids
    assert {key: kept.metrics[key] for key in ("num_prompts", "num_references", "num_left_out")} == {
        "num_prompts": 2,
        "num_references": 2,
        "num_left_out": 3,
    }
