"""What the benchmarks without a judge share: reading their rows, choosing among them, accuracies with intervals.

Their checks are `CheckResult` rows. A response that is missing passes nothing: it is counted as failed, and counted.
"""

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tpo.evaluate.benchmarks import Benchmark
from tpo.results.rate import Rate
from tpo.results.stats import mean_interval
from tpo.sample.prompts import make_prompt, prompt_id
from tpo.store.errors import TpoError
from tpo.store.records import CheckResult, RecordError, read_json_lines
from tpo.store.seeds import derive_seed


class BenchmarkError(TpoError):
    """A benchmark that cannot be read or scored; the message names the file, the row or what is not installed."""


class HubData(NamedTuple):
    """A data set on the Hub at a fixed revision."""

    name: str
    config: str | None
    split: str
    revision: str  # the full commit


class SourceRow(NamedTuple):
    """One row of a benchmark as its source has it."""

    where: str  # the file and the line, or the data set and the row, for messages
    fields: dict[str, Any]


class VerifiableQuestion(NamedTuple):
    """One instruction and what its response is checked with."""

    where: str
    text: str
    key: dict[str, Any]
    base: str | None = None  # what the text asks in other words; None where that is all there is


def read_rows(path: Path | None, *, hub: HubData, fields: Sequence[str]) -> list[SourceRow]:
    """Return the rows of a JSON-lines file, gzipped where its name ends so, or of the Hub's data set.

    Args:
        path: A local copy; None reads the Hub.
        hub: Where the benchmark is published.
        fields: What every row must have.

    Raises:
        BenchmarkError: Naming the file and the line, if a row cannot be read or lacks a field, or the data set,
            if it cannot be fetched.
    """
    rows = _hub_rows(hub) if path is None else _local_rows(path)
    for where, found in rows:
        missing = [field for field in fields if field not in found]
        if missing:
            raise BenchmarkError(f"{where}: no field {missing[0]!r}; it has {sorted(found)}")
    if not rows:
        raise BenchmarkError(f"{path or hub.name}: there are no rows")
    return rows


def _local_rows(path: Path) -> list[SourceRow]:
    if not path.is_file():
        raise BenchmarkError(f"there is no file {path}")
    try:
        return [SourceRow(f"{path}, line {number}", fields) for number, fields in read_json_lines(path)]
    except RecordError as error:
        raise BenchmarkError(str(error)) from error
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise BenchmarkError(f"{path}: cannot be read ({error})") from error


def _hub_rows(hub: HubData) -> list[SourceRow]:
    from datasets import load_dataset

    try:
        data = load_dataset(hub.name, hub.config, revision=hub.revision, split=hub.split)
    except OSError as error:  # what datasets and huggingface_hub raise offline, and for what does not exist
        raise BenchmarkError(
            f"{hub.name} cannot be fetched from the Hub at {hub.revision} ({error}); give a local copy, an object a "
            "line with the same fields, as eval.path"
        ) from error
    return [SourceRow(f"{hub.name}, row {number}", dict(fields)) for number, fields in enumerate(data)]


def assemble(questions: Iterable[VerifiableQuestion], *, source: str, num_prompts: int | None, seed: int) -> Benchmark:
    """Return the benchmark of these questions, or of a seeded choice of them, in their order.

    Questions of equal text are one question.

    Args:
        questions: In the benchmark's order.
        source: The benchmark's name, for the prompts.
        num_prompts: How many to choose; None takes all.
        seed: Of the choice.

    Raises:
        BenchmarkError: If two questions of equal text are checked differently, or there are too few.
    """
    prompts, keys, places = [], {}, {}
    for where, text, key, base in questions:
        base_id = None if base is None else prompt_id(base)
        prompt = make_prompt(text, category=None, source=source, split="test", where=where, base_id=base_id)
        if prompt.prompt_id not in keys:
            prompts.append(prompt)
            keys[prompt.prompt_id], places[prompt.prompt_id] = key, where
        elif _requirements(keys[prompt.prompt_id]) != _requirements(key):
            raise BenchmarkError(f"{where}: the question of {places[prompt.prompt_id]} again, but checked differently")
    if num_prompts is not None:
        if not 0 < num_prompts <= len(prompts):
            raise BenchmarkError(f"{source} has {len(prompts)} different questions, num_prompts is {num_prompts}")
        generator = random.Random(derive_seed(seed, source))
        prompts = [prompts[index] for index in sorted(generator.sample(range(len(prompts)), num_prompts))]
    return Benchmark(prompts, [], {prompt.prompt_id: keys[prompt.prompt_id] for prompt in prompts})


def _requirements(key: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in key.items() if name != "key"}  # IFEval's number of the row


def accuracy(rows: Sequence[CheckResult], *, confidence: float = 0.95) -> Rate:
    """Return the fraction of checks that passed; the interval allows for checks of one prompt going together.

    Args:
        rows: Checks by one rule.
        confidence: Nominal coverage in (0, 1).
    """
    if not rows:
        return Rate(None, None, 0, 0, 0)
    prompt_ids, values = [row.prompt_id for row in rows], [float(row.is_passed) for row in rows]
    interval = mean_interval(values, confidence=confidence, clusters=prompt_ids)
    return Rate(sum(values) / len(values), interval, len(set(prompt_ids)), 0, len(values))


def count_no_response(rows: Sequence[CheckResult]) -> int:
    """Return how many responses are missing; their checks count as failed."""
    return len({(row.prompt_id, row.sample_index) for row in rows if row.error is not None})
