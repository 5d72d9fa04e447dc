"""Questions with a right answer: what an instruction asks for, and what checks a response to it.

A question that has a number as its answer is put into words that say how to end, for training instructions
(`tpo.sample.sources`) and for the benchmark GSM8K alike, so that a text trained on is recognized there.
"""

import re
from collections.abc import Sequence
from typing import Any, NamedTuple

from tpo.checks.families.answers import normalized_number
from tpo.store.records import Check

ANSWERS = ("number", "exact")
NUMBER_QUESTION = """Solve this problem.

{question}

End your response with the sentence "The final answer is N.", where N is the number that answers the question."""


class Question(NamedTuple):
    """An instruction, and what checks a response to it."""

    text: str
    checks: Sequence[Check]


def make_question(text: str, answer: Any, *, kind: str) -> Question | None:
    """Return the instruction of a question that has a right answer; None where the answer is none of its kind.

    Args:
        text: The question.
        answer: As the source has it. A number may be one, or a text that is one or ends with one after "####", as
            GSM8K's worked solutions do.
        kind: "number", or "exact" for a text, whose question is left as it is.
    """
    if kind == "number":
        found = number_of(answer)
        return None if found is None else Question(number_question(text), (_check(kind, found),))
    if not isinstance(answer, str | int | float) or not str(answer).strip():
        return None
    return Question(text, (_check(kind, str(answer).strip()),))


def number_question(text: str) -> str:
    """Return the instruction that asks a question and says how to end."""
    return NUMBER_QUESTION.replace("{question}", text.strip())


def number_of(answer: Any) -> str | None:
    """Return the number that an answer is, or ends with after "####", in digits; None where there is none."""
    if isinstance(answer, float) and answer.is_integer():
        answer = int(answer)
    if not isinstance(answer, str | int | float) or isinstance(answer, bool):
        return None
    found = normalized_number(str(answer).rpartition("####")[2].strip())
    return found if re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", found) else None


def _check(kind: str, answer: str) -> Check:
    return Check(f"answer:{kind}", {"answer": answer})
