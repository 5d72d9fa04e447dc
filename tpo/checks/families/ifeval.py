"""Constraints of IFEval (Zhou et al. 2023, arXiv 2311.07911): lm-evaluation-harness checks them, as Google wrote it.

The types, the ranges of their arguments and the phrasings are ours: the paper's ask for hundreds of words. "strict"
checks the response as it is; "loose" passes where it or one of seven variants does: without its first line, its last,
or both, and each of the four without asterisks. Sources of chance are fixed: langdetect's seed, and Python's `random`,
from which the harness draws a requirement in place of one that it cannot represent, and whose state is put back.
"""

import importlib.util
import os
import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, ClassVar

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

_KEYWORDS = [
    "balance",
    "bridge",
    "careful",
    "choice",
    "circle",
    "community",
    "curious",
    "daily",
    "detail",
    "discover",
    "early",
    "energy",
    "example",
    "famous",
    "garden",
    "gentle",
    "growing",
    "healthy",
    "history",
    "honest",
    "island",
    "journey",
    "kitchen",
    "knowledge",
    "language",
    "lesson",
    "market",
    "memory",
    "modern",
    "morning",
    "mountain",
    "music",
    "nature",
    "ocean",
    "patient",
    "people",
    "personal",
    "planet",
    "pleasant",
    "popular",
    "practice",
    "quiet",
    "reason",
    "river",
    "season",
    "signal",
    "silver",
    "simple",
    "special",
    "story",
    "strong",
    "summer",
    "support",
    "surface",
    "system",
    "teacher",
    "together",
    "travel",
    "useful",
    "valley",
    "value",
    "visit",
    "weather",
    "window",
    "winter",
    "wonder",
    "world",
    "yellow",
]
_COMMON = ("the", "and", "very", "is", "of", "in", "to", "can", "that", "it", "with", "for", "are", "you", "a")
_ENDINGS = (
    "That is all.",
    "Thank you for reading.",
    "I hope this helps.",
    "Let me know what you think.",
    "Any other questions?",
    "Have a nice day.",
)


def _none(_: random.Random, __: tuple[int, int]) -> dict[str, Any]:
    return {}


def _middle(words: tuple[int, int]) -> int:
    return (words[0] + words[1]) // 2


CONSTRAINTS: dict[str, Constraint] = {
    "no_comma": Constraint(
        "punctuation:no_comma",
        _none,
        (
            "Do not use any commas.",
            "Your answer must not contain a comma.",
            "Write without commas.",
            "In your entire response, refrain from the use of any commas.",
        ),
    ),
    "fewer_words": Constraint(
        "length_constraints:number_words",
        lambda rng, words: {"num_words": rng.randint(words[0], _middle(words)), "relation": "less than"},
        (
            "Answer with less than {num_words} words.",
            "Keep it short: fewer than {num_words} words.",
            "Use fewer than {num_words} words in total.",
            "Your response must have less than {num_words} words.",
        ),
    ),
    "more_words": Constraint(
        "length_constraints:number_words",
        lambda rng, words: {"num_words": rng.randint(_middle(words), words[1]), "relation": "at least"},
        (
            "Answer with at least {num_words} words.",
            "Write {num_words} words or more.",
            "Your response must have at least {num_words} words.",
            "Do not use fewer than {num_words} words.",
        ),
    ),
    "bullets": Constraint(
        "detectable_format:number_bullet_lists",
        lambda rng, _: {"num_bullets": rng.randint(2, 4)},
        (
            "Your answer must contain exactly {num_bullets} bullet points. Use markdown bullets such as: * This is a "
            "point.",
            "Answer as a list of exactly {num_bullets} bullet points, each starting with * and a space.",
            "Give exactly {num_bullets} bullet points in markdown (* point).",
        ),
    ),
    "title": Constraint(
        "detectable_format:title",
        _none,
        (
            "Your answer must contain a title, wrapped in double angular brackets, such as <<title>>.",
            "Give your answer a title in double angular brackets, like <<my title>>.",
            "Start with a title that is written like this: <<a title>>.",
        ),
    ),
    "keyword": Constraint(
        "keywords:existence",
        lambda rng, _: {"keywords": [rng.choice(_KEYWORDS)]},
        (
            'Include the word "{keywords}" in your response.',
            'Use the word "{keywords}" somewhere in your answer.',
            'Your answer must contain the word "{keywords}".',
        ),
    ),
    "forbidden_word": Constraint(
        "keywords:forbidden_words",
        lambda rng, _: {"forbidden_words": [rng.choice(_COMMON)]},
        (
            'Do not use the word "{forbidden_words}" in your response.',
            'The word "{forbidden_words}" must not appear in your answer.',
            'Avoid the word "{forbidden_words}" completely.',
        ),
    ),
    "ending": Constraint(
        "startend:end_checker",
        lambda rng, _: {"end_phrase": rng.choice(_ENDINGS)},
        (
            "Finish your response with this exact phrase: {end_phrase} No other words should follow this phrase.",
            "The last words of your answer must be: {end_phrase}",
            "End with the exact sentence: {end_phrase}",
        ),
    ),
    "lowercase": Constraint(
        "change_case:english_lowercase",
        _none,
        (
            "Your entire response should be in English, and in all lowercase letters. No capital letters are allowed.",
            "Write in lowercase letters only.",
            "Do not use any capital letters.",
        ),
    ),
    "uppercase": Constraint(
        "change_case:english_capital",
        _none,
        (
            "Your entire response should be in English, and in all capital letters.",
            "Write in capital letters only.",
            "USE ONLY CAPITAL LETTERS in your whole answer.",
        ),
    ),
    "quotation": Constraint(
        "startend:quotation",
        _none,
        (
            "Wrap your entire response with double quotation marks.",
            "Put your whole answer inside double quotation marks.",
            'Start and end your answer with a double quotation mark (").',
        ),
    ),
    "postscript": Constraint(
        "detectable_content:postscript",
        lambda _, __: {"postscript_marker": "P.S."},
        (
            "At the end of your response, please explicitly add a postscript starting with {postscript_marker}",
            "Add a postscript that starts with {postscript_marker}",
            "Close with a short note that begins with {postscript_marker}",
        ),
    ),
    "placeholders": Constraint(
        "detectable_content:number_placeholders",
        lambda rng, _: {"num_placeholders": rng.randint(1, 2)},
        (
            "The response must contain at least {num_placeholders} placeholders represented by square brackets, such "
            "as [address].",
            "Leave at least {num_placeholders} blanks to fill in, written in square brackets like [name].",
        ),
    ),
    "highlights": Constraint(
        "detectable_format:number_highlighted_sections",
        lambda rng, _: {"num_highlights": rng.randint(1, 2)},
        (
            "Highlight at least {num_highlights} sections in your answer with markdown, i.e. *highlighted section*.",
            "Put at least {num_highlights} phrases between asterisks, like *this phrase*.",
        ),
    ),
    "paragraphs": Constraint(
        "length_constraints:number_paragraphs",
        lambda rng, _: {"num_paragraphs": rng.randint(2, 3)},
        (
            "There should be {num_paragraphs} paragraphs. Paragraphs are separated with the markdown divider: ***",
            "Write exactly {num_paragraphs} paragraphs with a line of *** between them.",
        ),
    ),
    "letter": Constraint(
        "keywords:letter_frequency",
        lambda rng, _: {
            "letter": rng.choice("bcfgkpvwy"),
            "let_frequency": rng.randint(3, 6),
            "let_relation": "at least",
        },
        (
            'In your response, the letter "{letter}" should appear at least {let_frequency} times.',
            'Use the letter "{letter}" {let_frequency} times or more.',
        ),
    ),
    "word_frequency": Constraint(
        "keywords:frequency",
        lambda rng, _: {"keyword": rng.choice(_KEYWORDS), "frequency": 2, "relation": "at least"},
        (
            'In your response, the word "{keyword}" should appear at least {frequency} times.',
            'Use the word "{keyword}" {frequency} times or more.',
        ),
    ),
    "two_responses": Constraint(
        "combination:two_responses",
        _none,
        (
            "Give two different responses. Responses and only responses should be separated by 6 asterisk symbols: "
            "******.",
            "Answer twice, differently, and put ****** between the two answers.",
        ),
    ),
    "json": Constraint(
        "detectable_format:json_format",
        _none,
        (
            "Entire output should be wrapped in JSON format. You can use markdown ticks such as ```.",
            "Answer with valid JSON and nothing else.",
        ),
    ),
}


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
