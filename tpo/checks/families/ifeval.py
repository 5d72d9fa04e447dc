"""Constraints of IFEval (Zhou et al. 2023, arXiv 2311.07911): lm-evaluation-harness checks them, as Google wrote it.

Those that instructions are made with are a table of ours (`tpo.checks.ifeval_constraints`). "strict" checks the
response as it is; "loose" passes where it or one of seven variants does: without its first line, its last, or both, and
each of the four without asterisks. Sources of chance are fixed: langdetect's seed, and Python's `random`, from which
the harness draws a requirement in place of one that it cannot represent, and whose state is put back.
"""

import importlib.util
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

from tpo.checks.ifeval_constraints import CONSTRAINTS
from tpo.checks.protocol import CheckError, Constraint, Family
from tpo.store.records import Check

SEED = 0
PREFIXES = (
    "keywords",
    "language",
    "length_constraints",
    "detectable_content",
    "detectable_format",
    "combination",
    "startend",
    "change_case",
    "punctuation",
)

_PACKAGES = ("lm_eval", "langdetect", "immutabledict", "nltk")  # the last three are lm-eval's extra "ifeval"
#: Checks that count sentences, for which nltk needs data that it would download.
_NEED_SENTENCES = ("length_constraints:number_sentences", "change_case:capital_word_frequency")


class Ifeval(Family):
    """Whatever lm-evaluation-harness calls an instruction of IFEval, by its name there."""

    prefixes: ClassVar[tuple[str, ...]] = PREFIXES
    constraints: ClassVar[Mapping[str, Constraint]] = CONSTRAINTS

    def passes(self, response: str, check: Check, *, rule: str) -> bool:
        """Return whether a response follows the instruction.

        A text in which langdetect finds no language (figures, for example) counts as being in the language asked for,
        as in the original.
        """
        make, loose = _harness()
        if check.name not in make:
            raise CheckError(f"check {check.name}: lm-eval has no such instruction of IFEval")
        with _seeded():
            try:
                if response.strip() and _follows(make[check.name], response, check):
                    return True
                return rule == "loose" and loose(response, check)
            except RecursionError:  # json.loads, on brackets nested a thousand deep, as a repetitive model may write
                return False
            except Exception as error:
                raise CheckError(
                    f"check {check.name} with {check.arguments} cannot be made by lm-eval: {error!r}"
                ) from error

    def require(self, check: Check) -> None:
        """Make sure that the packages are there, and nltk's sentence splitter where sentences are counted."""
        require_harness(needs_sentences=check.name in _NEED_SENTENCES)
        super().require(check)

    def type_of(self, check: Check) -> str:
        """Return the type of the constraint, else the harness's name."""
        if check.name == "length_constraints:number_words":
            return "fewer_words" if check.arguments.get("relation") == "less than" else "more_words"
        return next((kind for kind, item in CONSTRAINTS.items() if item.check == check.name), check.name)


def require_harness(*, needs_sentences: bool) -> None:
    """Make sure that the harness can be used.

    Raises:
        CheckError: If a package or, where it is needed, nltk's sentence splitter is not installed.
    """
    absent = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if absent:
        raise CheckError(f"IFEval needs the packages {', '.join(absent)}: pip install 'lm-eval[ifeval]'")
    if needs_sentences:
        import nltk

        try:
            nltk.data.find("tokenizers/punkt_tab/english/")
        except LookupError as error:
            raise CheckError(
                f"IFEval counts sentences with nltk's punkt_tab, which is not in {', '.join(nltk.data.path)}: "
                "run `python -m nltk.downloader punkt_tab`, or set NLTK_DATA to where it is"
            ) from error


def contradict(first: str, second: str) -> bool:
    """Return whether two checks of these names may not be asked of the same response, as the harness has it."""
    require_harness(needs_sentences=False)
    with _without_download():
        from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_CONFLICTS
    conflicts = {name: set(others) for name, others in INSTRUCTION_CONFLICTS.items()}
    # The harness has none between a word that is forbidden and a phrase that holds it.
    quoted = {"startend:end_checker", "keywords:existence", "keywords:frequency", "detectable_content:postscript"}
    if "keywords:forbidden_words" in (first, second) and quoted & {first, second}:
        return True
    return second in conflicts.get(first, set()) or first in conflicts.get(second, set())


@cache
def _harness() -> tuple[Mapping[str, Any], Callable[[str, Check], bool]]:
    """Return the harness's classes by name, and its loose rule."""
    require_harness(needs_sentences=False)
    with _without_download():
        from lm_eval.tasks.ifeval import utils
        from lm_eval.tasks.ifeval.instructions_registry import INSTRUCTION_DICT
    from langdetect import DetectorFactory

    DetectorFactory.seed = SEED

    def loose(response: str, check: Check) -> bool:
        example = utils.InputExample(0, [check.name], "", [dict(check.arguments)])
        return bool(utils.test_instruction_following_loose(example, response).follow_all_instructions)

    return INSTRUCTION_DICT, loose


def _follows(make: Any, response: str, check: Check) -> bool:
    instruction = make(check.name)
    # As the harness does it, which takes an argument of 0 for one that is not given.
    instruction.build_description(**{name: value for name, value in check.arguments.items() if value})
    return bool(instruction.check_following(response))


@contextmanager
def _seeded() -> Iterator[None]:
    """Give the harness the same numbers from `random` each time, and everybody else theirs."""
    state = random.getstate()
    random.seed(SEED)
    try:
        yield
    finally:
        random.setstate(state)


@contextmanager
def _without_download() -> Iterator[None]:
    """Import the harness without its attempt to download nltk's data, which only the first of several ranks makes."""
    rank = os.environ.get("LOCAL_RANK")
    os.environ["LOCAL_RANK"] = "1"
    try:
        yield
    finally:
        if rank is None:
            del os.environ["LOCAL_RANK"]
        else:
            os.environ["LOCAL_RANK"] = rank
