"""GSM8K: grade-school maths with a number as the answer, to see what general training costs (Cobbe et al. 2021).

Scoring follows `gsm8k_cot_llama` of lm-evaluation-harness 0.4.13, the task for instruct models: its two filters
("strict": the sentence that was asked for; "flexible": the last number anywhere) and its exact match of strings.
The request is not the task's: no worked examples, and words of our own, which leave open whether the reasoning goes
into the thought or into the response. So compare policies with each other, not with published figures.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tpo.checks.families.answers import last_number, stated_number
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
from tpo.sample.answers import number_of, number_question
from tpo.store.records import CheckResult, Response

HUB = HubData("openai/gsm8k", "main", "test", "e53f048856ff4f594e959d75785d2c2d37b678ee")
RULES = ("strict", "flexible")


def load(path: Path | None, *, num_prompts: int | None = None, seed: int = 0) -> Benchmark:
    """Return the questions of the test split, or a seeded choice of them, in their order.

    Args:
        path: JSON lines with "question" and "answer" ("... #### 42"), gzipped where the name ends so; None reads
            the Hub (1,319 rows).
        num_prompts: How many to choose; None takes all.
        seed: Of the choice.

    Returns:
        No baseline; `keys` hold the "question" and the "answer", normalised.

    Raises:
        BenchmarkError: Naming the row if it cannot be read, or its answer is not a number after "####".
    """
    questions = []
    for where, fields in read_rows(path, hub=HUB, fields=("question", "answer")):
        question = fields["question"]
        if not isinstance(question, str) or not question.strip():
            raise BenchmarkError(f"{where}: the question is {question!r}; expected text that is not empty")
        key = {"question": question, "answer": _gold(fields["answer"], where=where)}
        questions.append(VerifiableQuestion(where, number_question(question), key, base=question.strip()))
    return assemble(questions, source="gsm8k", num_prompts=num_prompts, seed=seed)


def _gold(answer: Any, *, where: str) -> str:
    if not isinstance(answer, str) or "####" not in answer:
        raise BenchmarkError(f'{where}: the answer is {answer!r}; expected text that ends with "#### <number>"')
    gold = number_of(answer)
    if gold is None:
        after = answer.rpartition("####")[2].strip()
        raise BenchmarkError(f"{where}: the answer after #### is {after!r}; expected a number")
    return gold


def is_correct(response: str | None, gold: str) -> dict[str, bool]:
    """Return whether the response gives the answer, by rule.

    "strict" reads the last "The final answer is <number>", "flexible" the last number. Commas, dollar signs and one
    full stop at the end are ignored; the rest must be the same string, so 42.0 is not 42. Without a
    response, or a number in it, both are False.

    Args:
        response: What the user sees, never a thought.
        gold: The answer as `load` normalised it.
    """
    text = response or ""
    return {"strict": stated_number(text) == gold, "flexible": last_number(text) == gold}


def checks(response: Response, key: Mapping[str, Any]) -> list[CheckResult]:
    """Return the checks of one response, a row per rule."""
    return [
        CheckResult(response.prompt_id, response.sample_index, 0, "answer", rule, is_passed, response.error)
        for rule, is_passed in is_correct(response.text, key["answer"]).items()
    ]


def summarize(rows: Sequence[CheckResult], *, confidence: float = 0.95) -> dict[str, Rate]:
    """Return the accuracy by rule."""
    return {rule: accuracy([row for row in rows if row.rule == rule], confidence=confidence) for rule in RULES}
