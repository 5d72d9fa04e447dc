"""Right answers to reasoning-gym's tasks (Stojanovski et al. 2025, arXiv 2505.24760), as its own scorers see it.

The package is optional (requirements-reasoning-gym.txt). Of its 105 tasks those in `TASKS` are used, which were
verified on this version: the right answer scores 1, while an empty one, another row's, one with text around it and
degenerate texts do not; nothing raises, hangs, prints or runs code of the response; the rows do not depend on
PYTHONHASHSEED, on the state of other generators or on a network; no constant answer is right more than half the time;
and each answer is what a program of the tests computes from the question. Each of the others fails one of these, or
has no such program; for example:

    basic_arithmetic      -438 / -648036 is 0 in one place and rounded down to -1 in another
    binary_matrix         evaluates the response as Python
    coin_flip             does not come back from 1e999999999
    complex_arithmetic    takes NaN for right
    game_of_life_halting  takes any text for right
    prime_factorization   raises an error on words
    ransom_note           has other rows with another PYTHONHASHSEED
    simple_equations      asks for which i 0 = 0
    simple_geometry       has convex polygons with angles of 268 degrees
"""

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ClassVar

from tpo.checks.protocol import CheckError, Family
from tpo.store.records import Check

PREFIX = "reasoning_gym"
PACKAGE_VERSION = "0.1.25"  # the one whose scorers were verified
#: Task to the metadata of a row that its scorer reads besides the answer.
TASKS: Mapping[str, tuple[str, ...]] = {
    "base_conversion": (),
    "caesar_cipher": (),
    "chain_sum": (),
    "color_cube_rotation": (),
    "count_bits": (),
    "count_primes": (),
    "decimal_chain_sum": (),
    "dice": (),
    "gcd": (),
    "largest_island": (),
    "lcm": (),
    "leg_counting": (),
    "letter_counting": (),
    "mini_sudoku": ("solution",),
    "palindrome_generation": ("letters",),
    "products": (),
    "rotate_matrix": (),
    "rotten_oranges": (),
    "shortest_path": ("matrix",),
    "spell_backward": (),
    "word_sequence_reversal": (),
    "word_sorting": ("sorted_words",),
}

_PHRASE = re.compile(r"The final answer is:?")
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_NUMBER = re.compile(r"-?\d+(?:,\d{3})*(?:\.\d+)?")
_MARKS = "*_`$\"' \t\r\n"  # what Markdown and habit put around an answer

Scorer = Callable[[str, dict[str, Any]], float]


class ReasoningGym(Family):
    """The response gives an answer to which the task's scorer gives exactly 1.

    A score below 1 is for a part of the answer, or for the right one among other text; neither passes. A check holds
    what its scorer needs of the row, so nothing is generated again.
    """

    prefixes: ClassVar[tuple[str, ...]] = (PREFIX,)

    def passes(self, response: str, check: Check, *, rule: str) -> bool:
        """Return whether the response gives a right answer.

        Strictly the answer is what follows the last "The final answer is", up to the end of the response, or all of it
        where that is not said; white space and a full stop at its end are left out. Loosely it may also be as many
        first lines of that, or last lines of the response, as the right answer has, or what follows the last colon or
        equals sign there; the last LaTeX box; and, where the right answer is a number, the last number. Marks of
        emphasis and quotation around it are then left out as well.

        A scorer that raises an error has been given no right answer: `require` shows that it knows the right one.
        """
        task, entry = _parts(check)
        score = _scorer(task)
        return any(_is_right(score, answer, entry) for answer in answers(response, entry["answer"], rule=rule))

    def require(self, check: Check) -> None:
        """Make sure that the package is there, and that the answer that the check holds is right."""
        task, entry = _parts(check)
        if not _is_right(_scorer(task), entry["answer"], entry):
            raise CheckError(
                f"check {check.name}: reasoning-gym does not score its answer {entry['answer']!r:.80} with 1, so the "
                "row is damaged or of another version"
            )

    def type_of(self, check: Check) -> str:
        """Return the task."""
        return check.name.partition(":")[2]


def make_check(task: str, row: Mapping[str, Any]) -> Check:
    """Return what checks responses to a row of a task: its answer, and what the scorer needs besides."""
    metadata = {key: row["metadata"][key] for key in TASKS[task]}
    return Check(f"{PREFIX}:{task}", {"entry": {"answer": row["answer"], "metadata": metadata}})


def require_package() -> None:
    """Make sure that the package is installed, in the version whose scorers were verified.

    Raises:
        CheckError: Saying what to install.
    """
    needs = f"{PREFIX} needs the package reasoning-gym {PACKAGE_VERSION}"
    try:
        found = version("reasoning-gym")
    except PackageNotFoundError:
        raise CheckError(f"{needs}, which is not installed: run `make setup-reasoning-gym`") from None
    if found != PACKAGE_VERSION:
        raise CheckError(
            f"{needs}, whose scorers were verified, but {found} is installed: run `make setup-reasoning-gym`"
        )


def answers(response: str, right: str, *, rule: str) -> Iterator[str]:
    """Yield what may be the answer that a response gives.

    Args:
        response: Not empty.
        right: The right answer, which says how many lines an answer has and whether it is a number.
        rule: "strict" or "loose"; the latter yields what the former does, and more.
    """
    said = _PHRASE.split(response)[-1].strip()
    yield said
    yield said.removesuffix(".")
    if rule == "strict":
        return
    num_lines = len(right.splitlines())
    for text in ("\n".join(said.splitlines()[:num_lines]), "\n".join(response.strip().splitlines()[-num_lines:])):
        yield _without_marks(text)
        yield _without_marks(re.split("[:=]", text)[-1])
    yield from map(_without_marks, _BOXED.findall(response)[-1:])
    if _NUMBER.fullmatch(right):
        yield from (number.replace(",", "") for number in _NUMBER.findall(response)[-1:])


def _without_marks(text: str) -> str:
    return text.strip(_MARKS).removesuffix(".").strip(_MARKS)


def _is_right(score: Scorer, answer: str, entry: dict[str, Any]) -> bool:
    try:
        return bool(score(answer, entry) == 1.0)
    except Exception:
        return False


def _parts(check: Check) -> tuple[str, dict[str, Any]]:
    """Return the task of a check and what its scorer gets."""
    task, entry = check.name.partition(":")[2], check.arguments.get("entry")
    if check.name != f"{PREFIX}:{task}" or task not in TASKS:
        raise CheckError(f"check {check.name}: the tasks whose scorers were verified are {', '.join(TASKS)}")
    if (
        len(check.arguments) != 1
        or not isinstance(entry, dict)
        or not isinstance(entry.get("answer"), str)
        or not isinstance(entry.get("metadata"), dict)
        or not entry["metadata"].keys() >= set(TASKS[task])
    ):
        needed = ", ".join(("the answer", *TASKS[task]))
        raise CheckError(f"check {check.name}: expected an entry that holds {needed}, not {check.arguments!r:.100}")
    return task, entry


@cache
def _scorer(task: str) -> Scorer:
    """Return the scorer of a task; it depends on no setting of the task."""
    score: Scorer = load_package().get_score_answer_fn(task)
    return score


def load_package() -> Any:
    """Return the package, which takes seconds to import.

    Raises:
        CheckError: Saying what to install.
    """
    require_package()
    try:
        import reasoning_gym
    except ImportError as error:
        raise CheckError(f"reasoning-gym lacks the package {error.name}: run `make setup-reasoning-gym`") from error
    return reasoning_gym
