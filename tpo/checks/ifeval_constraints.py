"""The constraints of IFEval that instructions are made with: types, ranges of their arguments, phrasings.

All three are ours, since the paper's ask for hundreds of words; names and arguments are those of lm-evaluation-harness,
which checks them (`tpo.checks.families.ifeval`).
"""

import random
from typing import Any

from tpo.checks.protocol import Constraint

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
