"""What a program can tell of a response, without a judge: constraints on its form, numbers, exact answers.

An instruction carries its checks (`Prompt.checks`); `judge=checked` scores by them, the evaluation reports the share of
held-out instructions whose checks a response passes. A family of checks is a file in `families/`:

    families/ifeval.py         constraints of IFEval (arXiv 2311.07911), checked by lm-evaluation-harness
    families/answers.py        a number at the end, as in GSM8K; a text
    families/reasoning_gym.py  answers to reasoning-gym's tasks, by its own scorers; optional
    families/floor.py          the least that any response has to be

    protocol.py                what a family has to do
    ifeval_constraints.py      the constraints that instructions are made with, and how each is asked for
    responses.py               the checks of one response together
"""

from tpo.checks.protocol import RULES, CheckError, Constraint, Family
from tpo.checks.responses import (
    check_type,
    constraints,
    passes,
    passes_all,
    passes_each,
    require_checks,
    share_passed,
    without_floors,
)

__all__ = [
    "RULES",
    "CheckError",
    "Constraint",
    "Family",
    "check_type",
    "constraints",
    "passes",
    "passes_all",
    "passes_each",
    "require_checks",
    "share_passed",
    "without_floors",
]
