"""One frozen dataclass per row that a stage writes; the field comments are the data dictionary.

Rows travel as JSON lines. Reading is strict: an unknown, missing or mistyped field is an error that
names the file and the line, so a row of another version is never half understood.
"""

import dataclasses
import gzip
import json
import types
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tpo.store.errors import TpoError

R = typing.TypeVar("R", bound="Record")


class RecordError(TpoError):
    """A row that cannot be read; the message names the file, the line and the field."""


@dataclasses.dataclass(frozen=True)
class Record:
    """Base of all rows: strict conversion to and from plain dictionaries."""

    def to_dict(self) -> dict[str, Any]:
        """Return the row as a dictionary of plain JSON types."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, row: dict[str, Any]) -> Self:
        """Return the record held by `row`.

        Raises:
            RecordError: If a field is unknown, missing or of the wrong type.
        """
        hints = typing.get_type_hints(cls)
        unknown = sorted(set(row) - set(hints))
        missing = sorted(set(hints) - set(row))
        if unknown or missing:
            raise RecordError(f"{cls.__name__}: unknown fields {unknown}, missing fields {missing}")
        for name, hint in hints.items():
            if not _matches(row[name], hint):
                raise RecordError(f"{cls.__name__}.{name}: expected {hint}, got {row[name]!r}")
        return cls(**row)


@dataclasses.dataclass(frozen=True)
class Prompt(Record):
    """One user instruction."""

    prompt_id: str  # first 16 hex digits of the sha256 of the text
    text: str  # the instruction as the user would type it
    category: str  # "uncategorized" where the source has none
    source: str  # which instruction set it comes from
    split: str  # "train-<iteration>", "validation" or "test"


@dataclasses.dataclass(frozen=True)
class Completion(Record):
    """One sampled output: a hidden thought and a visible response."""

    prompt_id: str
    sample_index: int  # 0 to K - 1
    prompt_ids: list[int]  # the context as the model saw it, prefilled delimiter included
    completion_ids: list[int]  # what follows, as sampled or forced; ends with EOS only if EOS was sampled
    forced_start: int  # completion_ids[forced_start:forced_stop] were appended, not sampled
    forced_stop: int  # equal to forced_start where nothing was forced
    is_prefilled: bool  # whether the context ends with the prefilled first delimiter
    completion: str  # text of completion_ids without the final EOS
    thought: str | None  # null for the direct baseline or where the split failed
    response: str | None  # null where the split failed
    split_error: str | None  # why there is no response
    finish_reason: str  # "stop": EOS was sampled; "length": the token budget ended it
    num_thought_tokens: int  # 0 where the split failed
    num_response_tokens: int  # without EOS; 0 where the split failed
    seed: int  # of the uniforms that sampled it; -1 where the engine keeps its own stream


@dataclasses.dataclass(frozen=True)
class Response(Record):
    """What a judge may know of a completion: never its thought."""

    prompt_id: str
    sample_index: int
    text: str | None  # null where there is no response
    error: str | None  # why there is none


@dataclasses.dataclass(frozen=True)
class Score(Record):
    """A judgement of one response: pointwise, or rated from verdicts."""

    prompt_id: str
    sample_index: int
    score: float | None  # in the judge's own unit, higher is better; null where unscored, never 0
    unscored_reason: str | None
    raw: str | None = None  # what a language model wrote as judge
    num_tokens: int = 0  # that the judge read and wrote for this judgement


@dataclasses.dataclass(frozen=True)
class Verdict(Record):
    """A judge's verdict on two responses, shown in this order."""

    prompt_id: str
    first_index: int  # sample_index of the response shown first
    second_index: int
    outcome: float | None  # of the first: 1 better, 0.5 tie, 0 worse, or how surely better; null where unscored
    weight: float  # how many games it counts for; 0 where unscored
    unscored_reason: str | None
    raw: str | None  # what the judge wrote; null where it was not asked or did not answer
    num_tokens: int  # that the judge read and wrote


@dataclasses.dataclass(frozen=True)
class Preference(Record):
    """A labelled comparison of two responses to one instruction, which judges are measured on."""

    instruction: str
    response_a: str
    response_b: str
    preference: float  # that `response_a` is better: 1 surely, 0.5 tie, 0 surely not
    group: str  # where the comparison is from, for example a model's name


@dataclasses.dataclass(frozen=True)
class Pair(Record):
    """A preference pair in trl's terms: two completions, thoughts included, of one prompt."""

    prompt_id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_forced: list[int]  # [start, stop) of the tokens that were forced, not sampled
    rejected_forced: list[int]
    chosen: str  # the text, for people
    rejected: str
    chosen_index: int  # sample_index of the chosen completion
    rejected_index: int
    margin: float  # difference of the length-controlled scores
    chosen_score: float  # the judge's scores, before length control
    rejected_score: float
    chosen_length: float  # of the response, in the configured unit
    rejected_length: float


@dataclasses.dataclass(frozen=True)
class Comparison(Record):
    """The policy's response to one held-out instruction against the baseline's; means where it has several samples."""

    prompt_id: str
    category: str
    win: float | None  # 1 win, 0.5 tie, 0 loss, or a judge's preference in between; null where unscored
    unscored_reason: str | None
    num_samples: int  # of the policy's samples, how many were scored; 0 where unscored
    policy_score: float | None  # null where a judge compares without scores
    baseline_score: float | None
    policy_tokens: float  # of the response, thought excluded
    baseline_tokens: float | None  # null where the baseline is a benchmark's reference answer
    policy_characters: float | None  # null where there is no response
    baseline_characters: float | None


@dataclasses.dataclass(frozen=True)
class Check(Record):
    """Whether a response passes one check that needs no judge."""

    prompt_id: str
    sample_index: int
    check_index: int  # position among the checks of the prompt, from 0
    name: str  # what is checked: "answer" (GSM8K) or IFEval's name of the instruction
    rule: str  # how: "strict", or the benchmark's lenient one: "flexible" (GSM8K), "loose" (IFEval)
    is_passed: bool  # False where there is no response
    error: str | None  # why there is no response


def _matches(value: Any, hint: Any) -> bool:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        return any(_matches(value, part) for part in typing.get_args(hint))
    if origin is list:
        (item,) = typing.get_args(hint)
        return isinstance(value, list) and all(_matches(entry, item) for entry in value)
    if hint is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSON-lines file, gzipped where its name ends so; blank lines are skipped.

    Raises:
        RecordError: If a line is not a JSON object.
    """
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise RecordError(f"{path}, line {number}: not JSON ({error})") from error
            if not isinstance(row, dict):
                raise RecordError(f"{path}, line {number}: expected an object, got {type(row).__name__}")
            yield number, row


def read_records(path: Path, kind: type[R]) -> list[R]:
    """Return the rows of `path` as records of one kind.

    Raises:
        RecordError: Naming the file and the line of the first bad row.
    """
    records = []
    for number, row in read_json_lines(path):
        try:
            records.append(kind.from_dict(row))
        except RecordError as error:
            raise RecordError(f"{path}, line {number}: {error}") from error
    return records


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write the records as JSON lines and return how many there were."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record.to_dict(), ensure_ascii=False, allow_nan=False) + "\n")
            count += 1
    return count


@dataclass(frozen=True)
class LabelledPair(Record):
    """A labelled comparison of two `Response` rows of one prompt."""

    prompt_id: str
    first_index: int  # sample_index of `response_a`
    second_index: int  # of `response_b`; equal to first_index where the two texts are equal
    preference: float  # that the first is better: 1 surely, 0.5 tie, 0 surely not
    group: str  # of the `Preference`
    first_length: int  # characters
    second_length: int
