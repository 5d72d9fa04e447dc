"""Labelled preferences: read from a file, turned into the rows that judges work on, and what judges say of them.

Reads JSON lines of `Preference`, gzipped where the name ends in .gz; makes `Prompt` and `Response` rows without
duplicates, so that a pointwise judge scores a text once however many comparisons it is in, and a `LabelledPair` per
comparison that points to them. `predict_from_scores` and `predict_from_verdicts` bring judgements back to the pairs.
"""

import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tpo.judge.protocol import Judgement
from tpo.sample.prompts import PromptError, make_prompt
from tpo.store.errors import TpoError
from tpo.store.job import Job, Metrics
from tpo.store.records import (
    LabelledPair,
    Preference,
    Prompt,
    RecordError,
    Response,
    Score,
    Verdict,
    read_json_lines,
    write_records,
)

REQUIRED = ("instruction", "response_a", "response_b", "preference")


class LabelError(TpoError):
    """Labelled preferences that cannot be used; names the file, the line, the field and what to do."""


class LabelledRows(NamedTuple):
    """What judges and statistics need of labelled preferences; one pair per preference, in their order."""

    prompts: list[Prompt]
    responses: list[Response]
    pairs: list[LabelledPair]


def work(job: Job) -> Metrics:
    """Read labelled preferences."""
    prompts, responses, pairs = to_rows(load_preferences(Path(job.how["path"])))
    for name, rows in (("prompts", prompts), ("responses", responses), ("pairs", pairs)):
        write_records(job.path / f"{name}.jsonl", rows)
    return {"num_instructions": len(prompts), "num_responses": len(responses), "num_pairs": len(pairs)}


def load_preferences(path: Path) -> list[Preference]:
    """Return the labelled preferences of a JSON-lines file.

    A line is an object with `instruction`, `response_a`, `response_b`, `preference` (that `response_a` is better,
    from 0 to 1) and perhaps `group` (without it, the file's name without its endings). An empty response is allowed:
    some models give one, and labels say that it lost.

    Raises:
        LabelError: If the file is missing, unreadable or without rows, or a line is not such an object.
    """
    if not path.is_file():
        raise LabelError(f"there is no file {path}")
    default_group = Path(path.name.removesuffix(".gz")).stem
    try:
        preferences = [
            _parse(row, default_group=default_group, where=f"{path}, line {number}")
            for number, row in read_json_lines(path)
        ]
    except RecordError as error:
        raise LabelError(str(error)) from error
    except UnicodeDecodeError as error:
        raise LabelError(f"{path}: not UTF-8 ({error}); save it as UTF-8") from error
    except (OSError, EOFError, zlib.error) as error:  # gzip complains in all three ways
        raise LabelError(f"{path}: cannot be read ({error})") from error
    if not preferences:
        raise LabelError(f"{path}: no rows; expected one JSON object with {', '.join(REQUIRED)} a line")
    return preferences


def _parse(row: dict[str, Any], *, default_group: str, where: str) -> Preference:
    for name in REQUIRED:
        if name not in row:
            raise LabelError(f"{where}: no field {name!r}; it has {sorted(row)}")
    allowed = list(Preference.__struct_fields__)
    for name in sorted(row):
        if name not in allowed:
            # An optional field of a mistyped name would otherwise be ignored without a word.
            raise LabelError(f"{where}: unknown field {name!r}; remove it, or rename it to one of {allowed}")
    row = {"group": default_group, **row}
    for name in ("instruction", "response_a", "response_b", "group"):
        _check_text(row[name], name=name, may_be_empty=name.startswith("response"), where=where)
    value = row["preference"]
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise LabelError(
            f"{where}: 'preference' is {value!r}; expected a number from 0 (response_b is better) to 1 (response_a is)"
        )
    return Preference(row["instruction"], row["response_a"], row["response_b"], float(value), row["group"])


def _check_text(value: Any, *, name: str, may_be_empty: bool, where: str) -> None:
    if not isinstance(value, str):
        raise LabelError(f"{where}: {name!r} is {value!r}; expected text")
    if not may_be_empty and not value.strip():
        raise LabelError(f"{where}: {name!r} is empty; fill it or remove the line")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise LabelError(f"{where}: {name!r} is not valid Unicode ({error})") from error


def to_rows(preferences: Iterable[Preference]) -> LabelledRows:
    """Return the distinct instructions, their distinct responses, and the comparisons between them.

    Instructions that differ only in white space at the ends are one `Prompt`, in split "test". Responses are told
    apart by their exact text and numbered per prompt as they come. One without anything but white space is a
    `Response` without text and with the error "empty", which no judge is asked about. A comparison of a text with
    itself stays a pair; its two indices are equal.

    Raises:
        LabelError: If an instruction is empty.
    """
    prompts: dict[str, Prompt] = {}
    indices: dict[str, dict[str, int]] = {}
    responses, pairs = [], []
    for number, row in enumerate(preferences, start=1):
        try:
            prompt = make_prompt(
                row.instruction, category=None, source="labelled", split="test", where=f"preference {number}"
            )
        except PromptError as error:
            raise LabelError(str(error)) from error
        prompts.setdefault(prompt.prompt_id, prompt)
        known = indices.setdefault(prompt.prompt_id, {})
        texts = [text if text.strip() else "" for text in (row.response_a, row.response_b)]
        for text in texts:
            if text not in known:
                known[text] = len(known)
                responses.append(Response(prompt.prompt_id, known[text], text or None, None if text else "empty"))
        pairs.append(
            LabelledPair(
                prompt_id=prompt.prompt_id,
                first_index=known[texts[0]],
                second_index=known[texts[1]],
                preference=row.preference,
                group=row.group,
                first_length=len(texts[0]),
                second_length=len(texts[1]),
            )
        )
    return LabelledRows(list(prompts.values()), responses, pairs)


def predict_from_scores(pairs: Sequence[LabelledPair], scores: Iterable[Score]) -> list[Judgement]:
    """Return one prediction per pair: the higher score wins, equal scores tie.

    Raises:
        ValueError: If a response of a pair has no score row.
    """
    by_key = {(score.prompt_id, score.sample_index): score for score in scores}
    predictions = []
    for pair in pairs:
        keys = [(pair.prompt_id, index) for index in (pair.first_index, pair.second_index)]
        if not by_key.keys() >= set(keys):
            raise ValueError(f"responses {keys} do not both have a score row: the scores belong to other responses")
        first, second = (by_key[key] for key in keys)
        if first.score is None or second.score is None:
            predictions.append(_unscored(row.unscored_reason for row in (first, second) if row.score is None))
        else:
            predictions.append(
                Judgement(0.5 + 0.5 * (first.score > second.score) - 0.5 * (first.score < second.score), None)
            )
    return predictions


def predict_from_verdicts(pairs: Sequence[LabelledPair], verdicts: Sequence[Verdict]) -> list[Judgement]:
    """Return one prediction per pair: the mean outcome of its scored orders, so that contradicting orders tie.

    The weights of strong verdicts play no part, since labels have none. A pair without any verdict, as where a
    response is empty, is unscored with reason "no_verdict".

    Raises:
        ValueError: If two verdicts are on the same responses in the same order.
    """
    by_key = by_order(verdicts)
    predictions = []
    for pair in pairs:
        forward = by_key.get((pair.prompt_id, pair.first_index, pair.second_index))
        backward = by_key.get((pair.prompt_id, pair.second_index, pair.first_index))
        outcomes = [forward.outcome] if forward and forward.outcome is not None else []
        outcomes += [1 - backward.outcome] if backward and backward.outcome is not None else []
        if outcomes:
            predictions.append(Judgement(sum(outcomes) / len(outcomes), None))
        else:
            predictions.append(_unscored([row.unscored_reason for row in (forward, backward) if row] or ["no_verdict"]))
    return predictions


def _unscored(reasons: Iterable[str | None]) -> Judgement:
    # Sorted, so that it does not matter which response is called the first.
    return Judgement(None, "; ".join(sorted({reason or "unknown" for reason in reasons})))


def by_order(verdicts: Sequence[Verdict]) -> dict[tuple[str, int, int], Verdict]:
    """Return the verdicts by (prompt_id, first_index, second_index).

    Raises:
        ValueError: If two are on the same responses in the same order.
    """
    by_key = {(row.prompt_id, row.first_index, row.second_index): row for row in verdicts}
    if len(by_key) < len(verdicts):
        raise ValueError(f"{len(verdicts) - len(by_key)} verdicts repeat the responses and the order of another one")
    return by_key
