"""One immutable class per row that a stage writes; the field comments are the data dictionary.

Rows travel as JSON lines. Reading is strict: an unknown, missing or mistyped field is an error that names the file and
the line, so a row of another version is never half understood.
"""

import gzip
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import groupby
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

import msgspec

from tpo.store.errors import TpoError

Key = tuple[str | int, ...]


class RecordError(TpoError):
    """A row that cannot be read; the message names the file, the line and the field."""


class Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Base of all rows. No field has a default, since a field with one could be missing in a file."""

    key_fields: ClassVar[tuple[str, ...]]  # what a row is about; only labelled comparisons may repeat in a file

    @property
    def key(self) -> Key:
        """The values of the key fields."""
        return tuple([getattr(self, name) for name in self.key_fields])


R = TypeVar("R", bound=Record)
K = TypeVar("K", bound=Key)


class Check(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that a program can tell of a response (`tpo.checks`)."""

    name: str  # of the kind of check, such as "punctuation:no_comma" or "answer:number"
    arguments: dict[str, Any]  # what it checks with, such as a number of words or the right answer


class Prompt(Record, frozen=True):
    """One user instruction."""

    key_fields = ("prompt_id",)

    prompt_id: str  # first 16 hex digits of the sha256 of the text
    text: str  # the instruction as the user would type it
    category: str  # "uncategorized" where the source has none
    source: str  # which instruction set it comes from
    split: str  # "train-<iteration>", "validation" or "test"
    checks: tuple[Check, ...]  # what a program checks of a response to it; empty where only a judge can tell
    base_id: str  # of the instruction that it was made from by adding checks; the prompt_id where it was not


class Completion(Record, frozen=True):
    """One sampled output: a hidden thought and a visible response."""

    key_fields = ("prompt_id", "sample_index")

    prompt_id: str
    sample_index: int  # 0 to K - 1
    prompt_ids: list[int]  # the context as the model saw it, prefilled delimiter included
    completion_ids: list[int]  # what follows, as sampled or forced; ends with EOS only if EOS was sampled
    forced_start: int  # completion_ids[forced_start:forced_stop] were appended, not sampled
    forced_stop: int  # equal to forced_start where nothing was forced
    response_start: int  # completion_ids from here on are the response, EOS included; 0 without a thought or a response
    is_prefilled: bool  # whether the context ends with the prefilled first delimiter
    completion: str  # text of completion_ids without the final EOS
    thought: str | None  # null for the direct baseline or where the split failed
    response: str | None  # null where the split failed
    split_error: str | None  # why there is no response
    finish_reason: str  # "stop": EOS was sampled; "length": the token budget ended it
    num_thought_tokens: int  # 0 where the split failed
    num_response_tokens: int  # without EOS; 0 where the split failed
    seed: int  # of the uniforms that sampled it; -1 where the engine keeps its own stream


class Response(Record, frozen=True):
    """What a judge may know of a completion: never its thought."""

    key_fields = ("prompt_id", "sample_index")

    prompt_id: str
    sample_index: int
    text: str | None  # null where there is no response
    error: str | None  # why there is none


class Score(Record, frozen=True):
    """A judgement of one response: pointwise, or rated from verdicts."""

    key_fields = ("prompt_id", "sample_index")

    prompt_id: str
    sample_index: int
    score: float | None  # in the judge's own unit, higher is better; null where unscored, never 0
    unscored_reason: str | None
    raw: str | None  # what a language model wrote as judge
    num_tokens: int  # that the judge read and wrote for this judgement


class Verdict(Record, frozen=True):
    """A judge's verdict on two responses, shown in this order."""

    key_fields = ("prompt_id", "first_index", "second_index")

    prompt_id: str
    first_index: int  # sample_index of the response shown first
    second_index: int
    outcome: float | None  # of the first: 1 better, 0.5 tie, 0 worse, or how surely better; null where unscored
    weight: float  # how many games it counts for; 0 where unscored
    unscored_reason: str | None
    raw: str | None  # what the judge wrote; null where it was not asked or did not answer
    num_tokens: int  # that the judge read and wrote


class Preference(Record, frozen=True):
    """A labelled comparison of two responses to one instruction, which judges are measured on."""

    key_fields = ("instruction", "response_a", "response_b")

    instruction: str
    response_a: str
    response_b: str
    preference: float  # that `response_a` is better: 1 surely, 0.5 tie, 0 surely not
    group: str  # where the comparison is from, for example a model's name


class LabelledPair(Record, frozen=True):
    """A labelled comparison of two `Response` rows of one prompt."""

    key_fields = ("prompt_id", "first_index", "second_index")

    prompt_id: str
    first_index: int  # sample_index of `response_a`
    second_index: int  # of `response_b`; equal to first_index where the two texts are equal
    preference: float  # that the first is better: 1 surely, 0.5 tie, 0 surely not
    group: str  # of the `Preference`
    first_length: int  # characters
    second_length: int


class Pair(Record, frozen=True):
    """A preference pair in trl's terms: two completions, thoughts included, of one prompt."""

    key_fields = ("prompt_id",)

    prompt_id: str
    prompt_ids: list[int]
    chosen_ids: list[int]
    rejected_ids: list[int]
    chosen_forced: list[int]  # [start, stop) of the tokens that were forced, not sampled
    rejected_forced: list[int]
    chosen_response_start: int  # chosen_ids up to here are the thought with its delimiters; 0 for direct answers
    rejected_response_start: int
    chosen: str  # the text, for people
    rejected: str
    chosen_index: int  # sample_index of the chosen completion
    rejected_index: int
    margin: float  # difference of the length-controlled scores
    chosen_score: float  # the judge's scores, before length control
    rejected_score: float
    chosen_length: float  # of the response, in the configured unit
    rejected_length: float


class Comparison(Record, frozen=True):
    """The policy's responses to one held-out instruction against the baseline's; means where a side has several."""

    key_fields = ("prompt_id",)

    prompt_id: str
    base_id: str  # of the instruction that it was made from: what depends on what
    category: str
    win: float | None  # mean over `num_pairs`: 1 win, 0.5 tie, 0 loss, or a preference in between; null where unscored
    unscored_reason: str | None
    num_pairs: int  # of a policy's sample and a baseline's, how many were scored; 0 where unscored
    win_answered: float | None  # the same over `num_answered_pairs`; null where there is none
    num_answered_pairs: int  # of the scored pairs, those whose policy's sample holds a response
    num_samples: int  # of the policy; a sample that had no thought to intervene on is none
    num_no_response: int  # of them, those that hold no response
    policy_score: float | None  # mean over samples that were scored; null where a judge compares without scores
    baseline_score: float | None
    policy_tokens: float | None  # of the responses, thoughts excluded; null where there is none
    baseline_tokens: float | None  # null also where the baseline is a benchmark's reference answer
    policy_characters: float | None
    baseline_characters: float | None


class CheckResult(Record, frozen=True):
    """Whether a response passes one check that needs no judge."""

    key_fields = ("prompt_id", "sample_index", "check_index", "rule")

    prompt_id: str
    sample_index: int
    check_index: int  # position among the checks of the prompt, from 0
    name: str  # what is checked: "answer" (GSM8K), IFEval's name of the instruction, or the type of a prompt's check
    rule: str  # how: "strict", or the benchmark's lenient one: "flexible" (GSM8K), "loose" (IFEval)
    is_passed: bool  # False where there is no response
    error: str | None  # why there is no response


def read_json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield (line number from 1, object) of a JSON-lines file, gzipped where its name ends so; blank lines are skipped.

    A byte order mark, which editors on Windows write, is no part of the first line.

    Raises:
        RecordError: Naming the file and the line, if the file cannot be read or decompressed or is not UTF-8, or a line
            is no JSON object or holds half of a surrogate pair, which no file can hold as text.
    """
    number = 0
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8-sig", errors="surrogateescape") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield number, _read_object(line, where=f"{path}, line {number}")
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise RecordError(f"{path}: the gzipped file is damaged after line {number} ({error})") from error
    except OSError as error:
        said = error.strerror or error
        raise RecordError(f"{path}: cannot be read after line {number} ({said})") from error


def _read_object(line: str, *, where: str) -> dict[str, Any]:
    if found := re.search("[\udc80-\udcff]", line):  # what is no UTF-8 was read as these
        raise RecordError(f"{where}: not UTF-8 (byte {ord(found.group()) - 0xDC00:#x})")
    try:
        row = json.loads(line)
        if "\\u" in line:
            json.dumps(row, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise RecordError(f"{where}: holds half of a surrogate pair, which is no text ({error.reason})") from error
    except ValueError as error:  # of an integer with thousands of digits it is no JSONDecodeError
        raise RecordError(f"{where}: not JSON ({error})") from error
    except RecursionError as error:
        raise RecordError(f"{where}: lists or objects are nested too deeply") from error
    if not isinstance(row, dict):
        raise RecordError(f"{where}: expected an object, got {type(row).__name__}")
    return row


class RowFormat(Generic[R]):
    """One kind of record as lines of JSON, one row each."""

    def __init__(self, kind: type[R]) -> None:
        """Prepare to read and write rows of one kind."""
        self._decoder = msgspec.json.Decoder(kind)
        self._encoder = msgspec.json.Encoder(enc_hook=_plain)
        self._name = kind.__name__
        numbers = (float, float | None)
        self._floats = [field.name for field in msgspec.structs.fields(kind) if field.type in numbers]

    def encode(self, row: R) -> bytes:
        """Return the line, with its line break.

        Raises:
            ValueError: If a number is not finite: JSON has none, and null would say something else.
        """
        for name in self._floats:
            value = getattr(row, name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"{self._name}.{name} of {row.key} is {value}, which JSON does not have")
        return self._encoder.encode(row) + b"\n"

    def decode(self, line: bytes) -> R:
        """Return the row of a line, with or without its line break.

        Raises:
            RecordError: If the line is not one JSON object, or a field is unknown, missing or mistyped.
        """
        try:
            return self._decoder.decode(line)
        except msgspec.ValidationError as error:
            raise RecordError(f"{self._name}: {error}") from error
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RecordError(f"not JSON ({error})") from error


def _plain(value: Any) -> float:
    """Return the float that a float of numpy is."""
    if isinstance(value, float):
        return float(value)
    raise TypeError(f"a row cannot hold a {type(value).__name__}")


@cache
def row_format(kind: type[R]) -> RowFormat[R]:
    """Return the format of a kind of record, made once."""
    return RowFormat(kind)


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Yield the rows of `path` as records of one kind, one row in memory at a time; blank lines are skipped.

    Raises:
        RecordError: Naming the file and the line of the first bad row.
    """
    decode = row_format(kind).decode
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.isspace():
                continue
            try:
                yield decode(line)
            except RecordError as error:
                raise RecordError(f"{path}, line {number}: {error}") from error


class _OfPrompt(Protocol):
    @property
    def prompt_id(self) -> str: ...


P = TypeVar("P", bound=_OfPrompt)


def by_prompt(rows: Iterable[P]) -> Iterator[tuple[str, list[P]]]:
    """Yield each prompt's id and rows, which stand together in the files of artifacts, in the order of the file.

    Raises:
        ValueError: If the rows of a prompt do not stand together.
    """
    seen = set()
    for prompt_id, group in groupby(rows, key=lambda row: row.prompt_id):
        if prompt_id in seen:
            raise ValueError(f"the rows of prompt {prompt_id} do not stand together")
        seen.add(prompt_id)
        yield prompt_id, list(group)


def write_records(path: Path, records: Iterable[Record]) -> int:
    """Write the records as JSON lines and return how many there were."""
    count = 0
    with path.open("wb") as file:
        for record in records:
            file.write(row_format(type(record)).encode(record))
            count += 1
    return count
