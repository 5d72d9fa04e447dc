"""Stage "checked": which held-out instructions' checks the responses pass. No judge and no baseline take part.

The checks are the instructions' own (`Prompt.checks`). A response passes where it passes all of them and is not below
the floor; one that is missing passes nothing.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import mean
from typing import Any

from tpo.checks import RULES, check_type, passes_each, without_floors
from tpo.results.rate import Rate
from tpo.results.stats import mean_interval
from tpo.store.artifacts import Artifact
from tpo.store.job import Job, Metrics
from tpo.store.records import CheckResult, Completion, Prompt, by_prompt, read_records, write_records

GROUPS = ("strict", "loose", "trained", "unseen")


def work(job: Job) -> Metrics:
    """Check the responses to the test instructions."""
    prompts, trained = _test_prompts(job.inputs["prompts"])
    path = job.path / "rows.jsonl"
    write_records(path, check_responses(prompts, job.inputs["completions"].rows(Completion)))
    results = list(read_records(path, CheckResult))
    bases = {prompt.prompt_id: prompt.base_id for prompt in prompts}
    return summarize(results, bases=bases, trained=trained, confidence=job.config["confidence"])


def _test_prompts(prompts: Artifact) -> tuple[list[Prompt], set[str]]:
    """Return the test instructions, and the types of checks that training instructions have."""
    test: list[Prompt] = []
    trained: set[str] = set()
    for row in prompts.rows(Prompt):
        if row.split == "test":
            test.append(row)
        elif row.split.startswith("train-"):
            trained |= {check_type(check) for check in without_floors(row.checks)}
    return test, trained


def check_responses(prompts: Sequence[Prompt], completions: Iterable[Completion]) -> Iterator[CheckResult]:
    """Yield the result of every check of every response, by every rule.

    Args:
        prompts: The instructions.
        completions: One or more of each, in their order.

    Raises:
        ValueError: If the completions are not of the instructions, in their order.
    """
    for prompt, (prompt_id, rows) in zip(prompts, by_prompt(completions), strict=True):
        if prompt_id != prompt.prompt_id:
            raise ValueError(f"completions of {prompt_id} stand where those of {prompt.prompt_id} should")
        types = [check_type(check) for check in without_floors(prompt.checks)]
        for row in rows:
            for rule in RULES:
                passed = passes_each(row.response, prompt.checks, rule=rule)
                for index, (name, is_passed) in enumerate(zip(types, passed, strict=True)):
                    yield CheckResult(prompt_id, row.sample_index, index, name, rule, is_passed, row.split_error)


def pass_rates(results: Iterable[CheckResult], *, rule: str = "strict") -> dict[str, float]:
    """Return for each instruction the share of its responses that pass all checks."""
    passed: dict[str, dict[int, bool]] = defaultdict(dict)
    for row in results:
        if row.rule == rule:
            samples = passed[row.prompt_id]
            samples[row.sample_index] = samples.get(row.sample_index, True) and row.is_passed
    return {prompt_id: mean(samples.values()) for prompt_id, samples in passed.items()}


def by_group(results: Sequence[CheckResult], *, trained: Iterable[str]) -> dict[str, dict[str, float]]:
    """Return `pass_rates` of the instructions whose checks are all of trained types, and of those with an unseen one.

    Args:
        results: Of all instructions.
        trained: Types that training instructions have.
    """
    seen = set(trained)
    unseen = {row.prompt_id for row in results if row.name not in seen}
    rates = pass_rates(results)
    return {
        "trained": {key: value for key, value in rates.items() if key not in unseen},
        "unseen": {key: value for key, value in rates.items() if key in unseen},
    }


def by_type(results: Iterable[CheckResult], *, rule: str = "strict") -> dict[str, dict[str, float]]:
    """Return for each type of check, for each instruction that has it, the share of responses that pass it."""
    passed: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in results:
        if row.rule == rule:
            passed[row.name][row.prompt_id].append(row.is_passed)
    return {
        name: {prompt_id: mean(values) for prompt_id, values in found.items()} for name, found in sorted(passed.items())
    }


def summarize(
    results: Sequence[CheckResult], *, bases: Mapping[str, str], trained: Iterable[str], confidence: float
) -> dict[str, Any]:
    """Return the share of instructions whose checks are passed: strictly, loosely, by trained types, and by type.

    Args:
        results: Of all checks of all responses.
        bases: Prompt id to the identity of the base instruction: intervals are clustered by it.
        trained: Types that training instructions have.
        confidence: Of the intervals.

    Returns:
        "strict", "loose", "trained" and "unseen" (both strict), rates as dictionaries; "types" by type, strict, trained
        ones first; "unseen_types", their names; "num_no_response".
    """
    names = sorted({row.name for row in results})
    seen = [name for name in names if name in set(trained)]
    unseen = [name for name in names if name not in set(trained)]

    def rate(values: Mapping[str, float]) -> dict[str, Any] | None:
        if not values:
            return None
        clusters = [bases[prompt_id] for prompt_id in values]
        interval = mean_interval(list(values.values()), confidence=confidence, clusters=clusters)
        return Rate(mean(values.values()), interval, len(values), 0).to_dict()

    groups, types = by_group(results, trained=seen), by_type(results)
    return {
        **{rule: rate(pass_rates(results, rule=rule)) for rule in RULES},
        **{name: rate(values) for name, values in groups.items()},
        "types": {name: rate(types[name]) for name in (*seen, *unseen)},
        "unseen_types": unseen,
        "num_no_response": len({(row.prompt_id, row.sample_index) for row in results if row.error is not None}),
    }
