import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tpo.evaluate.agreement.labelled import (
    LabelError,
    load_preferences,
    predict_from_scores,
    predict_from_verdicts,
    to_rows,
)
from tpo.judge.protocol import Judgement
from tpo.sample.prompts import prompt_id
from tpo.store.records import LabelledPair, Preference, Response, Score, Verdict

ROW: dict[str, Any] = {"instruction": "Say hi.", "response_a": "Hi.", "response_b": "No.", "preference": 1}


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


# --- reading ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ending", [".jsonl", ".jsonl.gz"])
def test_rows_are_read_plain_and_zipped(ending: str, tmp_path: Path) -> None:
    rows = [{**ROW, "group": "model x"}, "", {**ROW, "preference": 0.25, "response_b": "", "instruction": "Çok güzel"}]
    assert load_preferences(write(tmp_path / f"labels_2.0{ending}", *rows)) == [
        Preference("Say hi.", "Hi.", "No.", 1.0, "model x"),
        Preference("Çok güzel", "Hi.", "", 0.25, "labels_2.0"),
    ]


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in ROW.items() if key != name}


@pytest.mark.parametrize(
    ("row", "named"),
    [
        *(pytest.param(without(name), f"no field '{name}'", id=f"without_{name}") for name in ROW),
        pytest.param({**ROW, "preference": 1.01}, "'preference' is 1.01; expected a number from 0", id="above_1"),
        pytest.param({**ROW, "preference": -0.01}, "'preference' is -0.01", id="below_0"),
        pytest.param({**ROW, "preference": float("nan")}, "'preference' is nan", id="nan"),
        pytest.param({**ROW, "preference": "1"}, "'preference' is '1'", id="text"),
        pytest.param({**ROW, "preference": True}, "'preference' is True", id="bool"),
        pytest.param({**ROW, "preference": None}, "'preference' is None", id="null"),
        pytest.param({**ROW, "instruction": " \n"}, "'instruction' is empty; fill it or", id="empty_instruction"),
        pytest.param({**ROW, "group": ""}, "'group' is empty", id="empty_group"),
        pytest.param({**ROW, "group": None}, "'group' is None; expected text", id="null_group"),
        pytest.param({**ROW, "response_a": None}, "'response_a' is None; expected text", id="null_response"),
        pytest.param({**ROW, "response_b": ["x"]}, "'response_b' is", id="list_response"),
        pytest.param({**ROW, "response_b": "\ud800"}, "holds half of a surrogate pair", id="surrogate"),
        pytest.param({**ROW, "grup": "x"}, "unknown field 'grup'; remove it, or rename it to one of", id="unknown"),
        pytest.param("[1]", "expected an object, got list", id="list"),
        pytest.param('{"instruction": ', "not JSON", id="cut"),
    ],
)
def test_a_bad_line_is_named(row: Any, named: str, tmp_path: Path) -> None:
    path = write(tmp_path / "labels.jsonl", ROW, "", row)
    with pytest.raises(LabelError) as caught:
        load_preferences(path)
    assert str(caught.value).startswith(f"{path}, line 3: ") and named in str(caught.value)


def _cut(path: Path) -> None:
    write(path, *[{**ROW, "instruction": f"{number}"} for number in range(200)])
    path.write_bytes(path.read_bytes()[:-100])


def _garble(path: Path) -> None:
    write(path, *[{**ROW, "instruction": f"{number}"} for number in range(200)])
    content = bytearray(path.read_bytes())
    content[20:40] = bytes(20)
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "make", "named"),
    [
        pytest.param("x.jsonl", lambda path: None, "there is no file", id="missing"),
        pytest.param("x.jsonl", Path.mkdir, "there is no file", id="directory"),
        pytest.param("x.jsonl", lambda path: path.write_text("\n\n"), "no rows; expected one JSON object", id="empty"),
        pytest.param("x.jsonl", lambda path: path.write_bytes(b'{"a": "\xff"}'), "not UTF-8", id="latin"),
        pytest.param(
            "x.jsonl.gz", lambda path: path.write_text(json.dumps(ROW)), "the gzipped file is", id="not_zipped"
        ),
        pytest.param("x.jsonl.gz", _cut, "the gzipped file is", id="cut"),
        pytest.param("x.jsonl.gz", _garble, "the gzipped file is", id="garbled"),
    ],
)
def test_a_bad_file_is_named(name: str, make: Callable[[Path], Any], named: str, tmp_path: Path) -> None:
    path = tmp_path / name
    make(path)
    with pytest.raises(LabelError) as caught:
        load_preferences(path)
    assert str(path) in str(caught.value) and named in str(caught.value)


# --- rows -------------------------------------------------------------------------------------------------------


def test_rows_by_hand() -> None:
    rows = to_rows(
        [
            Preference("Say hi.", "Hi.", "Hello!", 1.0, "g"),
            Preference("Say bye.", "Hi.", "Bye.", 0.0, "g"),
            Preference(" Say hi.\n", "Hello!", "Hey", 0.5, "h"),  # the same instruction
            Preference("Say hi.", "Hey", "Hey", 1.0, "h"),
            Preference("Say hi.", " ", "Hi.", 0.0, "h"),
            Preference("Say hi.", "", "\n", 0.2, "h"),
        ]
    )
    hi, bye = prompt_id("Say hi."), prompt_id("Say bye.")
    assert [(row.prompt_id, row.text, row.split) for row in rows.prompts] == [
        (hi, "Say hi.", "test"),
        (bye, "Say bye.", "test"),
    ]
    assert rows.responses == [
        Response(hi, 0, "Hi.", None),
        Response(hi, 1, "Hello!", None),
        Response(bye, 0, "Hi.", None),
        Response(bye, 1, "Bye.", None),
        Response(hi, 2, "Hey", None),
        Response(hi, 3, None, "empty"),
    ]
    assert rows.pairs == [
        LabelledPair(hi, 0, 1, 1.0, "g", 3, 6),
        LabelledPair(bye, 0, 1, 0.0, "g", 3, 4),
        LabelledPair(hi, 1, 2, 0.5, "h", 6, 3),
        LabelledPair(hi, 2, 2, 1.0, "h", 3, 3),
        LabelledPair(hi, 3, 0, 0.0, "h", 0, 3),
        LabelledPair(hi, 3, 3, 0.2, "h", 0, 0),
    ]


TEXTS = st.sampled_from(["", " ", "a", "b", "a ", "ccc"])


@given(st.lists(st.builds(Preference, st.sampled_from(["x", "y ", "y", "z"]), TEXTS, TEXTS, st.floats(0, 1), TEXTS)))
def test_every_pair_points_to_its_texts_and_nothing_is_twice(preferences: list[Preference]) -> None:
    rows = to_rows(preferences)
    texts = {prompt.prompt_id: prompt.text for prompt in rows.prompts}
    responses = {(row.prompt_id, row.sample_index): row for row in rows.responses}
    assert len(texts) == len(rows.prompts) == len({row.instruction.strip() for row in preferences})
    assert len(responses) == len(rows.responses) == len({(row.prompt_id, row.text) for row in rows.responses})
    for preference, pair in zip(preferences, rows.pairs, strict=True):
        assert texts[pair.prompt_id] == preference.instruction.strip()
        sides = ((pair.first_index, preference.response_a), (pair.second_index, preference.response_b))
        for (index, text), length in zip(sides, (pair.first_length, pair.second_length), strict=True):
            found = responses[pair.prompt_id, index]
            assert (found.text, found.error) == ((text, None) if text.strip() else (None, "empty"))
            assert length == len(found.text or "")
        assert (pair.preference, pair.group) == (preference.preference, preference.group)


def test_an_empty_instruction_is_refused() -> None:
    with pytest.raises(LabelError, match="preference 1: the instruction"):
        to_rows([Preference("", "a", "b", 1.0, "g")])


# --- predictions ------------------------------------------------------------------------------------------------


def pair(first: int, second: int, prompt: str = "p") -> LabelledPair:
    return LabelledPair(prompt, first, second, 1.0, "g", 3, 4)


def test_predictions_from_scores() -> None:
    scores = [
        Score("p", 2, -7.0, None, None, 0),
        Score("p", 0, 1.5, None, None, 0),
        Score("p", 1, 1.5, None, None, 0),
        Score("p", 3, None, "too_long", None, 0),
        Score("p", 4, None, "empty", None, 0),
        Score("q", 0, 9.0, None, None, 0),
        Score("q", 1, 10.0, None, None, 0),
    ]
    pairs = [pair(0, 2), pair(2, 0), pair(0, 1), pair(0, 3), pair(3, 4), pair(4, 3), pair(3, 3), pair(0, 1, "q")]
    assert predict_from_scores(pairs, scores) == [
        Judgement(1.0, None),
        Judgement(0.0, None),
        Judgement(0.5, None),
        Judgement(None, "too_long"),
        Judgement(None, "empty; too_long"),
        Judgement(None, "empty; too_long"),
        Judgement(None, "too_long"),
        Judgement(0.0, None),
    ]
    with pytest.raises(ValueError, match="other responses"):
        predict_from_scores([pair(0, 1, "q"), pair(0, 2, "q")], scores)


def verdict(first: int, second: int, outcome: float | None, reason: str | None = None) -> Verdict:
    return Verdict("p", first, second, outcome, 3.0, reason, None, 0)


def test_predictions_from_verdicts() -> None:
    verdicts = [
        *(verdict(0, 1, 1.0), verdict(1, 0, 0.0)),  # 0 wins
        *(verdict(0, 2, 1.0), verdict(2, 0, 1.0)),  # the first shown wins
        *(verdict(0, 3, 0.5), verdict(3, 0, 1.0)),  # a tie, and 3
        *(verdict(0, 4, None, "no_verdict_found"), verdict(4, 0, 0.0)),
        *(verdict(0, 5, None, "timeout"), verdict(5, 0, None, "no_verdict_found")),
        verdict(0, 6, None, "timeout"),
    ]
    expected = {1: 1.0, 2: 0.5, 3: 0.25, 4: 1.0, 5: "no_verdict_found; timeout", 6: "timeout", 7: "no_verdict"}
    for other, found in expected.items():
        forward, backward = predict_from_verdicts([pair(0, other), pair(other, 0)], verdicts)
        if isinstance(found, str):
            assert forward == backward == Judgement(None, found)
        else:
            assert (forward, backward) == (Judgement(found, None), Judgement(1 - found, None))
    with pytest.raises(ValueError, match="1 verdicts repeat"):
        predict_from_verdicts([pair(0, 1)], [*verdicts, verdict(0, 1, 0.5)])
