import json
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from made_rows import comparison

from tpo.store.records import (
    Check,
    CheckResult,
    Completion,
    LabelledPair,
    Pair,
    Preference,
    Prompt,
    Record,
    RecordError,
    Response,
    Score,
    Verdict,
    by_prompt,
    read_records,
    write_records,
)

AWKWARD = 'naïve 🙂 "quoted" \\ line\nbreak\r\u2028\u2029\x85\x00 end'  # separators at which str.splitlines would cut
EXAMPLES: list[Record] = [
    Prompt("p", AWKWARD, "maths", "builtin", "test", (Check("answer:number", {"answer": "42"}),), "base"),
    Completion("p", 0, [1, 2], [3], 0, 0, 0, False, AWKWARD, None, None, "empty_response", "stop", 0, 0, 2**63 - 1),
    Score("p", 1, -0.1, None, None, 0),
    Score("p", 1, None, "too long", AWKWARD, 7),
    Response("p", 1, AWKWARD, None),
    Verdict("p", 1, 0, 0.5, 3.0, None, AWKWARD, 9),
    Preference(AWKWARD, "a", "b", 0.25, "group"),
    Pair("p", [1], [2], [3], [0, 0], [0, 1], 1, 0, AWKWARD, "b", 0, 1, 0.1 + 0.2, 1.0, 0.0, 3.0, 4.0),
    comparison("p", 0.5, num_pairs=8, policy_score=1e-300, baseline_score=-1e300, policy_tokens=None),
    LabelledPair("p", 0, 1, 0.25, "group", 3, 4),
    CheckResult("p", 0, 1, "punctuation:no_comma", "loose", False, "empty_response"),
]
SCORE = {"prompt_id": "p", "sample_index": 0, "score": 1.0, "unscored_reason": None, "raw": None, "num_tokens": 0}


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_round_trip(record: Record, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    assert write_records(path, [record, record]) == 2
    assert list(read_records(path, type(record))) == [record, record]


@pytest.mark.parametrize(
    ("kind", "change", "named"),
    [
        pytest.param(Score, {"extra": 1}, "extra", id="unknown"),
        pytest.param(Score, {"score": ...}, "score", id="missing"),
        pytest.param(Score, {"score": "1.0"}, "Score: score", id="text_for_number"),
        pytest.param(Score, {"score": True}, "Score: score", id="bool_for_number"),
        pytest.param(Score, {"sample_index": 0.0}, "Score: sample_index", id="float_for_int"),
        pytest.param(Score, {"sample_index": True}, "Score: sample_index", id="bool_for_int"),
        pytest.param(Score, {"sample_index": None}, "Score: sample_index", id="null_for_int"),
        pytest.param(Score, {"prompt_id": 7}, "Score: prompt_id", id="number_for_text"),
        pytest.param(Completion, {"prompt_ids": [1, "2"]}, "Completion: prompt_ids", id="text_in_list_of_int"),
        pytest.param(Completion, {"prompt_ids": "12"}, "Completion: prompt_ids", id="text_for_list"),
        pytest.param(Completion, {"is_prefilled": 0}, "Completion: is_prefilled", id="int_for_bool"),
        pytest.param(CheckResult, {"is_passed": 0.0}, "CheckResult: is_passed", id="float_for_bool"),
    ],
)
def test_bad_field_names_file_line_and_field(
    kind: type[Record], change: dict[str, Any], named: str, tmp_path: Path
) -> None:
    good = msgspec.structs.asdict(next(record for record in EXAMPLES if isinstance(record, kind)))
    bad = {key: value for key, value in {**good, **change}.items() if value is not ...}
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(good)}\n\n{json.dumps(bad)}\n")  # the blank line counts as a line
    with pytest.raises(RecordError) as caught:
        list(read_records(path, kind))
    assert (
        str(path) in str(caught.value)
        and "line 3" in str(caught.value)
        and all(name in str(caught.value) for name in named.split(": "))
    )


@pytest.mark.parametrize(
    "line",
    [
        pytest.param('{"prompt_id": "p", "sample_ind', id="cut_off"),
        pytest.param("not json", id="no_json"),
        pytest.param("[1, 2]", id="list"),
        pytest.param('"text"', id="text"),
        pytest.param(f"{json.dumps(SCORE)} {json.dumps(SCORE)}", id="two_objects"),
    ],
)
def test_malformed_line_names_file_and_line(line: str, tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(SCORE)}\n{line}\n")
    with pytest.raises(RecordError) as caught:
        list(read_records(path, Score))
    assert f"{path}, line 2" in str(caught.value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_not_a_number_is_refused_when_writing(value: float, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_records(tmp_path / "rows.jsonl", [Score("p", 0, value, None, None, 0)])


def test_whole_number_is_a_valid_float(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps({**SCORE, "score": 1}))
    [row] = read_records(path, Score)
    assert row == Score("p", 0, 1.0, None, None, 0) and type(row.score) is float


def test_a_float_of_numpy_is_written_as_a_float_and_no_other_type_is(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_records(path, [Score("p", 0, np.float64(0.1), None, None, 0)])
    assert next(read_records(path, Score)).score == 0.1
    with pytest.raises(TypeError, match="int64"):
        write_records(path, [Score("p", np.int64(0), 0.1, None, None, 0)])  # type: ignore[arg-type]


def test_rows_are_lines_of_text_that_can_be_searched(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    write_records(path, EXAMPLES[:1])
    line = path.read_bytes()
    assert "naïve 🙂".encode() in line and line.count(b"\n") == 1 and json.loads(line)["text"] == AWKWARD


def test_one_row_is_read_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text(f"{json.dumps(SCORE)}\nnot json\n")
    rows = read_records(path, Score)
    assert next(rows) == Score("p", 0, 1.0, None, None, 0)
    with pytest.raises(RecordError, match="line 2"):
        next(rows)


@pytest.mark.parametrize("record", EXAMPLES, ids=lambda record: type(record).__name__)
def test_keys_are_values_of_fields(record: Record) -> None:
    assert record.key == tuple(getattr(record, name) for name in record.key_fields) and len(record.key) > 0


def test_records_are_immutable() -> None:
    with pytest.raises(AttributeError):
        Score("p", 0, 1.0, None, None, 0).score = 2.0  # type: ignore[misc]


def test_groups_are_those_of_the_file() -> None:
    rows = [Response("b", 1, "x", None), Response("b", 0, "y", None), Response("a", 0, "z", None)]
    assert list(by_prompt(rows)) == [("b", rows[:2]), ("a", rows[2:])]
    with pytest.raises(ValueError, match="prompt b do not stand together"):
        list(by_prompt([*rows, rows[0]]))
