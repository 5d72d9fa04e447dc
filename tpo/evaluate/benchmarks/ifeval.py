"""IFEval: instructions whose following a program can verify (Zhou et al. 2023, arXiv 2311.07911).

The checks are those of lm-evaluation-harness, which keeps Google's up to date. "strict" checks the response as it
is; "loose" passes where it or one of seven variants does: without its first line, its last, or both, and each of the
four without asterisks. Two sources of chance are fixed: langdetect's seed, and Python's `random`, from which the
harness draws a requirement in place of one that it cannot represent (row 1122 asks for four "#", and some letter is
counted instead: google-research issue 3427).
"""

import functools
import importlib.util
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypedDict

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
from tpo.store.records import CheckResult, Response

HUB = HubData("google/IFEval", None, "train", "966cd89545d6b6acfd7638bc708b98261ca58e84")
RULES = ("strict", "loose")
SEED = 0

_PACKAGES = ("lm_eval", "langdetect", "immutabledict", "nltk")  # the last three are lm-eval's extra "ifeval"


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
        BenchmarkError: If a package or nltk's sentence splitter is not installed, or the harness does not know an
            instruction or its arguments.
    """
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise BenchmarkError(f"IFEval needs the packages {', '.join(absent)}: pip install 'lm-eval[ifeval]'")
    import nltk

    # The harness would download the splitter when it is imported, and go on without it where it cannot.
    try:
        nltk.data.find("tokenizers/punkt_tab/english/")
    except LookupError as error:
        raise BenchmarkError(
            f"IFEval counts sentences with nltk's punkt_tab, which is not in {', '.join(nltk.data.path)}: "
            "run `python -m nltk.downloader punkt_tab`, or set NLTK_DATA to where it is"
        ) from error
    for key in keys:
        check("word", key)


def check(response: str | None, key: Mapping[str, Any]) -> Followed:
    """Return which of the row's instructions the response follows; a missing or blank one follows none.

    A text in which langdetect finds no language (figures, for example) counts as being in the language asked for, as in
    the original.

    Args:
        response: What the user sees, never a thought.
        key: One of `load`'s.

    Raises:
        BenchmarkError: As `require`.
    """
    pairs = [
        _follows(response or "", key, name=name, arguments=arguments)
        for name, arguments in zip(key["instruction_id_list"], key["kwargs"], strict=True)
    ]
    strict, loose = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    return Followed(
        prompt_strict=all(strict), prompt_loose=all(loose), instructions_strict=strict, instructions_loose=loose
    )


def _follows(response: str, key: Mapping[str, Any], *, name: str, arguments: Mapping[str, Any]) -> tuple[bool, bool]:
    """Return whether one instruction is followed, strictly and loosely."""
    process_results = _harness()
    row = {"key": key["key"], "prompt": key["prompt"], "instruction_id_list": [name], "kwargs": [arguments]}
    state = random.getstate()
    random.seed(SEED)
    try:
        found = process_results(row, [response])
    except RecursionError:  # json.loads, on brackets nested a thousand deep, as a model that repeats itself may write
        return False, False
    except Exception as error:
        raise BenchmarkError(
            f"IFEval row {key['key']}: {name} with {dict(arguments)} cannot be checked by lm-eval: {error!r}"
        ) from error
    finally:
        random.setstate(state)
    strict = bool(found["inst_level_strict_acc"][0])
    # What passes as it is passes loosely; only where the harness drew another requirement might it say no.
    return strict, strict or bool(found["inst_level_loose_acc"][0])


@functools.cache
def _harness() -> Callable[[dict[str, Any], list[str]], dict[str, Any]]:
    require()
    from langdetect import DetectorFactory
    from lm_eval.tasks.ifeval.utils import process_results

    DetectorFactory.seed = SEED
    return process_results  # type: ignore[no-any-return]


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
