"""IFEval: instructions whose following a program can verify (Zhou et al. 2023, arXiv 2311.07911).

The checks are those of `tpo.checks.families.ifeval`. Two sources of chance are fixed: langdetect's seed, and Python's
`random`, from which the harness draws a requirement in place of one that it cannot represent (row 1122 asks for four
"#", and some letter is counted instead: google-research issue 3427).
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

from tpo.checks import RULES, CheckError, passes
from tpo.checks.families.ifeval import require_harness
from tpo.evaluate.benchmarks import Benchmark
from tpo.evaluate.benchmarks.verifiable import (
    BenchmarkError,
    HubData,
    VerifiableQuestion,
    accuracy,
    assemble,
    read_rows,
)
from tpo.results.rate import Rate
from tpo.store.records import Check, CheckResult, Response

HUB = HubData("google/IFEval", None, "train", "966cd89545d6b6acfd7638bc708b98261ca58e84")


class Followed(TypedDict):
    """Which instructions a response follows; the prompt's are followed where all are."""

    prompt_strict: bool
    prompt_loose: bool
    instructions_strict: list[bool]  # in the order of the row's instruction_id_list
    instructions_loose: list[bool]


def load(path: Path | None, *, num_prompts: int | None = None, seed: int = 0) -> Benchmark:
    """Return the prompts, or a seeded choice of them, in their order.

    Args:
        path: JSON lines with "key", "prompt", "instruction_id_list" and "kwargs", gzipped where the name ends
            so; None reads the Hub (541 rows).
        num_prompts: How many to choose; None takes all.
        seed: Of the choice.

    Returns:
        No baseline; `keys` hold these four fields, without the arguments that are null.

    Raises:
        BenchmarkError: Naming the row that cannot be read. Whether the harness knows its instructions is for
            `require` to say.
    """
    questions = []
    for where, fields in read_rows(path, hub=HUB, fields=("key", "prompt", "instruction_id_list", "kwargs")):
        names, arguments = fields["instruction_id_list"], fields["kwargs"]
        if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
            raise BenchmarkError(f"{where}: instruction_id_list is {names!r}; expected a list of names")
        if not isinstance(arguments, list) or not all(isinstance(entry, dict) for entry in arguments):
            raise BenchmarkError(f"{where}: kwargs is {arguments!r}; expected a list of objects")
        if len(names) != len(arguments):
            raise BenchmarkError(f"{where}: {len(names)} instructions, but {len(arguments)} kwargs; expected as many")
        given = [{name: value for name, value in entry.items() if value is not None} for entry in arguments]
        key = {"key": fields["key"], "prompt": fields["prompt"], "instruction_id_list": names, "kwargs": given}
        questions.append(VerifiableQuestion(where, fields["prompt"], key))
    return assemble(questions, source="ifeval", num_prompts=num_prompts, seed=seed)


def require(keys: Iterable[Mapping[str, Any]] = ()) -> None:
    """Make sure that responses can be checked; to be called before any is sampled.

    Args:
        keys: The benchmark's: each is tried on a response of one word.

    Raises:
        CheckError: If a package or nltk's sentence splitter is not installed, or the harness does not know an
            instruction or its arguments.
    """
    require_harness(needs_sentences=True)
    for key in keys:
        check("word", key)


def check(response: str | None, key: Mapping[str, Any]) -> Followed:
    """Return which of the row's instructions the response follows; a missing or blank one follows none.

    Args:
        response: What the user sees, never a thought.
        key: One of `load`'s.

    Raises:
        BenchmarkError: If the harness cannot check an instruction; names the row.
    """
    asked = [Check(*pair) for pair in zip(key["instruction_id_list"], key["kwargs"], strict=True)]
    try:
        strict, loose = ([passes(response, item, rule=rule) for item in asked] for rule in RULES)
    except CheckError as error:
        raise BenchmarkError(f"IFEval row {key['key']}: {error}") from error
    return Followed(
        prompt_strict=all(strict), prompt_loose=all(loose), instructions_strict=strict, instructions_loose=loose
    )


def checks(response: Response, key: Mapping[str, Any]) -> list[CheckResult]:
    """Return the checks of one response, a row per rule and instruction."""
    outcome = check(response.text, key)
    by_rule = zip(RULES, (outcome["instructions_strict"], outcome["instructions_loose"]), strict=True)
    return [
        CheckResult(response.prompt_id, response.sample_index, index, name, rule, is_passed, response.error)
        for rule, passed in by_rule
        for index, (name, is_passed) in enumerate(zip(key["instruction_id_list"], passed, strict=True))
    ]


def summarize(rows: Sequence[CheckResult], *, confidence: float = 0.95) -> dict[str, Rate]:
    """Return the accuracies "prompt_strict", "prompt_loose", "instruction_strict" and "instruction_loose".

    At the prompt level all instructions of a prompt must be followed; at the instruction level each counts, and the
    interval is clustered by prompt.
    """
    results = {}
    for rule in RULES:
        chosen = [row for row in rows if row.rule == rule]
        results[f"prompt_{rule}"] = accuracy(_whole_prompts(chosen), confidence=confidence)
        results[f"instruction_{rule}"] = accuracy(chosen, confidence=confidence)
    return results


def _whole_prompts(rows: Iterable[CheckResult]) -> list[CheckResult]:
    """Return one check per response, passed where all of its checks are."""
    whole: dict[tuple[str, int], CheckResult] = {}
    for row in rows:
        identity = (row.prompt_id, row.sample_index)
        is_passed = row.is_passed and (identity not in whole or whole[identity].is_passed)
        whole[identity] = CheckResult(*identity, 0, "all", row.rule, is_passed, row.error)
    return list(whole.values())
