"""Instructions of files: every ending gives the same rows, gzipped or not, with a byte-order mark or not."""

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from tpo.model.policy import PolicyRef
from tpo.sample.prompts import PromptError
from tpo.sample.sources.file import FilePrompts, load_file
from tpo.sample.stages import make_prompts
from tpo.sample.tables import ENDINGS, read_table
from tpo.store.execute import execute
from tpo.store.records import Prompt
from tpo.store.store import Store

ROWS: list[dict[str, Any]] = [
    {"text": 'naïve 🙂, "quoted"\nand a second line', "category": "maths", "split": "test"},
    {"text": "plain", "category": "", "split": ""},
    {"text": "third", "category": "c", "split": "train"},
]
BOM = b"\xef\xbb\xbf"


def content(ending: str, rows: list[dict[str, Any]] = ROWS) -> bytes:
    if ending == ".jsonl":
        return "".join(json.dumps(row, ensure_ascii=False) + "\r\n" for row in rows).encode()
    if ending == ".json":
        return json.dumps(rows, indent=1).encode()
    if ending == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()
    buffer = io.BytesIO()
    datasets.Dataset.from_list(rows).to_parquet(buffer)
    return buffer.getvalue()


def load(path: Path) -> list[Prompt]:
    return load_file(path, text_field="text", category_field="category", split_field="split")


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("mark", [b"", BOM], ids=["plain", "bom"])
def test_every_kind_of_file_gives_the_same_instructions(ending: str, suffix: str, mark: bytes, tmp_path: Path) -> None:
    if mark and ending == ".parquet":  # is no text
        return
    found = load(written(tmp_path / f"mine{ending}{suffix}", mark + content(ending)))
    assert [(row.text, row.category, row.split) for row in found] == [
        (ROWS[0]["text"], "maths", "test"),
        ("plain", "uncategorized", ""),
        ("third", "c", "train"),
    ]


@pytest.mark.parametrize("ending", [".jsonl", ".json", ".parquet"])
def test_a_chat_is_read_as_its_first_user_message(ending: str, tmp_path: Path) -> None:
    chat = [{"role": "system", "content": "s"}, {"role": "user", "content": "asked"}]
    [row] = load(written(tmp_path / f"mine{ending}", content(ending, [{"text": chat}])))
    assert row.text == "asked"


def test_json_lines_may_be_called_json(tmp_path: Path) -> None:
    assert len(load(written(tmp_path / "mine.json", content(".jsonl")))) == 3


def far_future() -> bytes:
    """A parquet file with a column of times that Python has no type for."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"text": ["a"], "at": pa.array([300_000_000_000], pa.timestamp("s"))}), sink)
    return bytes(sink.getvalue())


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        pytest.param("a.txt", b"hello", "files that end in .jsonl, .json, .csv, .parquet can be read", id="ending"),
        pytest.param("a.csv", b"", "expected a first line with the names", id="empty_csv"),
        pytest.param("a.csv", b"text,text\na,b\n", "several columns are called 'text'", id="two_columns"),
        pytest.param("a.csv", b"text,split\na,\nb\n", "row 2: 1 cells under 2 names", id="missing_cell"),
        pytest.param("a.csv", b"text\nlong, text\n", "row 1: 2 cells under 1 names", id="comma"),
        pytest.param("a.csv", b'text\n"open\n', "row 1: not CSV", id="open_quote"),
        pytest.param("a.csv", b"question\na\n", "row 1: no field 'text' (prompts.text_field); it has", id="column"),
        pytest.param("a.csv", "text\ncafé\n".encode("latin-1"), "not UTF-8", id="latin"),
        pytest.param("a.json", b'[{"text": "a"}', "line 1: not JSON", id="cut_json"),
        pytest.param("a.json", b'{"rows": [{"text": "a"}]}', "got one object; rows in it may be that", id="object"),
        pytest.param("a.json", b"3", "expected a list of objects, got int", id="number"),
        pytest.param("a.json", b'[{"text": "a"}, 3]', "row 2: expected an object, got int", id="mixed"),
        pytest.param("a.json", b"[" * 100_000, "not JSON that can be read", id="deep"),
        pytest.param(
            "a.jsonl", b'{"text": ' + b"[" * 100_000, "line 1: lists or objects are nested too deeply", id="deep_line"
        ),
        pytest.param("a.jsonl", b'{"text": ' + b"9" * 5000 + b"}", "line 1: not JSON", id="digits"),
        pytest.param("a.json", b'[{"text": ' + b"9" * 5000 + b"}]", "not JSON that can be read", id="digits_json"),
        pytest.param("a.parquet", b"PAR1 or not", "after row 0: not parquet", id="no_parquet"),
        pytest.param("a.parquet", far_future(), "after row 0: not parquet", id="year_10000"),
        pytest.param("a.jsonl.gz", b"\x1f\x8b\x08broken", "the gzipped file is damaged", id="no_gzip"),
        pytest.param("a.parquet.gz", b"plain", "the gzipped file is damaged", id="not_gzipped"),
        pytest.param(
            "a.jsonl.gz", gzip.compress(content(".jsonl"))[:-20], "the gzipped file is damaged", id="cut_gzip"
        ),
    ],
)
def test_what_cannot_be_read_is_one_sentence(name: str, data: bytes, said: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(PromptError) as caught:
        load(path)
    assert str(path) in str(caught.value) and said in str(caught.value), caught.value
    assert "\n" not in str(caught.value)


def test_a_row_says_where_it_stands(tmp_path: Path) -> None:
    path = written(tmp_path / "mine.csv", content(".csv"))
    assert [row.where for row in read_table(path)] == [f"{path}, row {number}" for number in (1, 2, 3)]


def test_a_run_says_how_many_copies_stand_in_another_category(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"text": f"Question {number}?", "category": "maths"} for number in range(6)]
    rows += [{"text": "question 0", "category": "art"}, {"text": "Question 1?", "category": "maths"}]
    path = written(tmp_path / "mine.jsonl", content(".jsonl", rows))
    settings = FilePrompts(path=str(path), num_train=2, num_validation=1, num_test=2)
    store = Store(tmp_path / "artifacts", execute=execute)
    policy: PolicyRef = None  # type: ignore[assignment] # nothing is generated
    for _ in range(2):  # also where the instructions are there already
        caplog.clear()
        prompts = make_prompts(store, settings, policy=policy, engine=None, seed=0)  # type: ignore[arg-type]
        [said] = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
        assert "in another category: 1 instruction. The copy that counts is the one held out for the test" in said
    assert prompts.metrics["drops"] == {"repeated": 1, "repeated_in_another_category": 1}
    assert {row.category for row in prompts.rows(Prompt)} == {"maths"}
