"""Data sets as instructions, read by the real `datasets` from folders that the tests make; nothing reaches the Hub."""

import json
import logging
from pathlib import Path
from typing import Any

import datasets
import pytest

from tpo.config.compose import compose_config
from tpo.config.fields import ConfigError, check_fields, file_digests
from tpo.config.schema import Config
from tpo.model.policy import PolicyRef
from tpo.sample import stages
from tpo.sample.answers import make_question, number_of
from tpo.sample.prompts import PromptError, prompt_id
from tpo.sample.sources.hub import COMMIT, HubPrompts, _commit, first_user_message
from tpo.store.execute import execute
from tpo.store.records import Check, Prompt
from tpo.store.store import Store

COMMIT_OF_GSM8K = "e53f048856ff4f594e959d75785d2c2d37b678ee"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read from, or left in, the user's own cache; conftest sets HF_HUB_OFFLINE."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def folder(path: Path, rows: list[dict[str, Any]], *, file: str = "train.jsonl") -> Path:
    path.mkdir(parents=True, exist_ok=True)
    if file.endswith("parquet"):
        datasets.Dataset.from_list(rows).to_parquet(path / file)
    else:
        (path / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def hub(dataset: Path | str, **changes: Any) -> HubPrompts:
    given = {"split": "train", "text_field": "text", "max_characters": 100, **changes}
    return HubPrompts(dataset=str(dataset), num_train=2, num_validation=1, num_test=1, **given)


# --- what is read -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", ["train.jsonl", "train.parquet"])
def test_rows_become_instructions_and_the_others_are_counted(file: str, tmp_path: Path) -> None:
    rows = [
        {"text": " Why? ", "topic": "science"},
        {"text": "", "topic": "science"},
        {"text": None, "topic": None},
        {"text": "x" * 101, "topic": "maths"},
        {"text": "How?", "topic": None},
    ]
    path = folder(tmp_path / "data", rows, file=file)
    found = hub(path, category_field="topic").load()
    assert [(row.text, row.category, row.source, row.split, row.checks) for row in found.prompts] == [
        ("Why?", "science", str(path), "", ()),
        ("How?", "uncategorized", str(path), "", ()),
    ]
    assert found.drops == {"too_long": 1, "empty": 2}


def test_a_chat_gives_its_first_user_message(tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "Hello?"}]
    path = folder(tmp_path / "data", [{"messages": chat}], file="train.parquet")
    assert [row.text for row in hub(path, text_field="messages").load().prompts] == ["Hello?"]


@pytest.mark.parametrize("value", [7, {"role": "user", "content": "x"}, ["x"], [{"from": "human", "value": "x"}]])
def test_what_is_neither_text_nor_chat_is_named(value: Any) -> None:
    with pytest.raises(PromptError, match=r"mine, row 3: the instruction is .*; expected a text, or a chat"):
        first_user_message(value, where="mine, row 3")


def test_configuration_and_split_are_those_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "data"
    for name in ("main", "other"):
        folder(path / name, [{"text": name}])
        folder(path / name, [{"text": f"{name} test"}], file="test.jsonl")
    entries = "".join(
        f"- config_name: {name}\n  data_files:\n  - split: train\n    path: {name}/train.jsonl\n"
        f"  - split: test\n    path: {name}/test.jsonl\n"
        for name in ("main", "other")
    )
    (path / "README.md").write_text(f"---\nconfigs:\n{entries}---\n")
    for config, split, text in (("main", "train", "main"), ("other", "test", "other test")):
        assert [row.text for row in hub(path, config=config, split=split).load().prompts] == [text]
    for config, said in ((None, "Config name is missing. Please pick one among"), ("third", "'third' not found")):
        with pytest.raises(PromptError) as caught:
            hub(path, config=config).load()
        assert said in str(caught.value) and "(prompts.config)" in str(caught.value)
        assert "'main', 'other'" in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(PromptError, match=r"split dev \(prompts\.split\): Unknown split .*train"):
        hub(path, config="main", split="dev").load()


# --- answers ----------------------------------------------------------------------------------------------------------


def test_questions_of_gsm8k_become_instructions_with_checked_answers(tmp_path: Path) -> None:
    rows = [
        {"question": "How many eggs?", "answer": "She has 3 + 4 = <<3+4=7>>7 left.\n#### 1,234"},
        {"question": "No number?", "answer": "Nobody knows"},
    ]
    settings = compose_config(Config, ["prompts=gsm8k", f"prompts.dataset={folder(tmp_path / 'main', rows)}"]).prompts
    settings.revision = settings.config = None  # type: ignore[attr-defined] # a folder has neither
    [found] = settings.load().prompts
    assert found.checks == (Check("answer:number", {"answer": "1234"}),)
    assert found.base_id == prompt_id("How many eggs?") != found.prompt_id
    assert "How many eggs?" in found.text and found.text.endswith("where N is the number that answers the question.")
    assert settings.load().drops == {"too_long": 0, "no_answer": 1}


def test_benchmark_and_training_ask_a_question_in_the_same_words(tmp_path: Path) -> None:
    from tpo.evaluate.benchmarks import gsm8k

    row = {"question": "How many eggs?", "answer": "#### 7"}
    path = folder(tmp_path / "data", [row])
    [trained] = hub(path, text_field="question", answer_field="answer", max_characters=999).load().prompts
    [asked] = gsm8k.load(path / "train.jsonl").prompts
    assert (asked.prompt_id, asked.base_id) == (trained.prompt_id, trained.base_id)


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("#### 42", "42"),
        ("a 7 #### b #### -3.5", "-3.5"),
        ("$1,234.", "1234"),
        (42, "42"),
        (42.0, "42"),
        (0.5, "0.5"),
        ("about 42", None),
        ("#### ", None),
        ("", None),
        (None, None),
        (True, None),
        (float("nan"), None),
        (["42"], None),
    ],
)
def test_number_of_an_answer(answer: Any, number: str | None) -> None:
    assert number_of(answer) == number


def test_exact_answers_leave_the_question_as_it_is() -> None:
    question = make_question("Which colour?", " Blue ", kind="exact")
    assert question is not None
    assert (question.text, list(question.checks)) == ("Which colour?", [Check("answer:exact", {"answer": "Blue"})])
    for answer in ("", " ", None, ["Blue"]):
        assert make_question("Which colour?", answer, kind="exact") is None


# --- what is refused, in a sentence -----------------------------------------------------------------------------------


def assert_one_sentence(error: BaseException, *fragments: str) -> None:
    assert "\n" not in str(error) and "Traceback" not in str(error)
    for fragment in fragments:
        assert fragment in str(error)


@pytest.mark.parametrize(
    ("changes", "fragments"),
    [
        ({"text_field": "prompt"}, ["no column 'prompt'", "prompts.text_field", "it has text"]),
        ({"answer_field": "answer"}, ["no column 'answer'", "prompts.answer_field"]),
        ({"category_field": "topic"}, ["no column 'topic'", "prompts.category_field"]),
        ({"max_characters": 2}, ["no row of the split train gave an instruction (2 too_long)"]),
    ],
)
def test_bad_columns_are_named(changes: dict[str, Any], fragments: list[str], tmp_path: Path) -> None:
    path = folder(tmp_path / "data", [{"text": "Why?"}, {"text": "How?"}])
    with pytest.raises(PromptError) as caught:
        hub(path, **changes).load()
    assert_one_sentence(caught.value, str(path), *fragments)


def test_without_a_network_a_local_copy_is_asked_for() -> None:
    ultrafeedback = compose_config(Config, ["prompts=ultrafeedback"]).prompts
    with pytest.raises(PromptError) as caught:  # used to be a traceback
        ultrafeedback.load()
    assert_one_sentence(
        caught.value,
        "HuggingFaceH4/ultrafeedback_binarized",
        "cannot be fetched from the Hub at 3949bf5",
        "(prompts.dataset)",
        "prompts=file prompts.path=<file>, whose fields prompts.text_field (text), category_field, split_field and "
        "answer_field name",
    )


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(PromptError) as caught:
        hub(tmp_path / "empty").load()
    assert_one_sentence(caught.value, f"{tmp_path}/empty (prompts.dataset) cannot be read", "doesn't contain any data")
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "train.jsonl").write_text('{"text": 1\n')
    with pytest.raises(PromptError) as caught:
        hub(tmp_path / "bad").load()
    assert_one_sentence(caught.value, f"{tmp_path}/bad (prompts.dataset) cannot be read", "JSON parse error")


def test_a_revision_is_a_commit(tmp_path: Path) -> None:
    check_fields(hub("openai/gsm8k", revision=COMMIT_OF_GSM8K), "prompts")
    with pytest.raises(ConfigError, match=r"prompts\.revision=main: expected a commit \(40 hex digits\)"):
        check_fields(hub("openai/gsm8k", revision="main"), "prompts")
    with pytest.raises(ConfigError, match="is a folder, which has none"):
        check_fields(hub(tmp_path, revision=COMMIT_OF_GSM8K), "prompts")


# --- which data it was ------------------------------------------------------------------------------------------------


def test_a_folder_is_pinned_by_its_content(tmp_path: Path) -> None:
    path = folder(tmp_path / "data", [{"text": "Why?"}])
    first = file_digests(hub(path))
    assert set(first) == {"dataset_sha256"} and file_digests(hub("openai/gsm8k")) == {}
    assert hub(path).load().origins["prompts"]["is_pinned"]
    folder(path, [{"text": "Why not?"}])
    assert file_digests(hub(path)) != first


def test_commit_is_read_from_the_path_of_the_cache() -> None:
    class Read:
        cache_files = ({"filename": f"/c/openai___gsm8k/main/0.0.0/{COMMIT_OF_GSM8K}/gsm8k-train.arrow"},)

    assert _commit(Read()) == COMMIT_OF_GSM8K and len(COMMIT_OF_GSM8K) == 40 and COMMIT  # type: ignore[arg-type]
    Read.cache_files = ({"filename": "/c/json/default-0a1b/0.0.0/f4e89e8750d5d5ffbc/json-train.arrow"},)
    assert _commit(Read()) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("commit", [None, COMMIT_OF_GSM8K])
def test_a_run_says_that_a_data_set_is_not_pinned(
    commit: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import tpo.sample.sources.hub as module

    rows = datasets.Dataset.from_list([{"text": f"Question {number}?"} for number in range(6)])
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: rows)
    monkeypatch.setattr(module, "_commit", lambda _: commit)
    store = Store(tmp_path / "artifacts", execute=execute)
    policy: PolicyRef = None  # type: ignore[assignment] # nothing is generated
    for _ in range(2):  # also where the instructions are there already
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            prompts = stages.make_prompts(store, hub("some/data"), policy=policy, engine=None, seed=0)  # type: ignore[arg-type]
        [said] = [record.getMessage() for record in caplog.records]
        assert "the instructions of some/data are not pinned" in said
        assert (f"prompts.revision={commit}" if commit else "sha256 ") in said
    origin = prompts.metrics["origins"]["prompts"]
    assert origin["commit"] == commit and len(origin["sha256"]) == 64
    assert len(list(prompts.rows(Prompt))) == 6
