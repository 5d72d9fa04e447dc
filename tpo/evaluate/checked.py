"""Stage "checked": which held-out instructions' checks the responses pass. No judge and no baseline take part.

The checks are the instructions' own (`Prompt.checks`). A response passes where it passes all of them and is not below
the floor; one that is missing passes nothing.
"""

from collections.abc import Iterable, Iterator, Sequence

from tpo.checks import RULES, CheckError, check_type, passes_each, without_floors
from tpo.results.checked import summarize
from tpo.store.artifacts import Artifact
from tpo.store.job import Job, Metrics
from tpo.store.records import CheckResult, Completion, Prompt, by_prompt, read_records, write_records


def work(job: Job) -> Metrics:
    """Check the responses to the test instructions."""
    prompts, trained = _test_prompts(job.inputs["prompts"])
    if not any(without_floors(prompt.checks) for prompt in prompts):
        raise CheckError(
            f"{job.inputs['prompts'].path}: no test instruction has checks, though its source says that they have"
        )
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
