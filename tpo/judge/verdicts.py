"""Prompts of LLM judges and the parser of their answers. Pure text.

Responses are written by the models that are judged. So anything in them that could pass for the judge's verdict, for
the prompt's delimiters or for a chat template's control tokens is disarmed before it enters the prompt. Of an answer
the last verdict counts, after the judge's own thought; an answer without one is unscored, with a reason.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from tpo.config.fields import ConfigError
from tpo.config.tags import last_thought
from tpo.judge.protocol import Judgement

# Verdict -> outcome of the response shown first, and whether it is a strong one.
MENUS: dict[str, dict[str, tuple[float, bool]]] = {
    # The Self-Taught Evaluator's; its prompt offers no tie, but it knows one (its authors' parser).
    "two_way": {"A": (1.0, False), "B": (0.0, False), "C": (0.5, False)},
    # Arena-Hard's, and what means the same read from the other side.
    "five_way": {
        **{"A>>B": (1.0, True), "A>B": (1.0, False), "A=B": (0.5, False), "B>A": (0.0, False), "B>>A": (0.0, True)},
        **{"B<<A": (1.0, True), "B<A": (1.0, False), "B=A": (0.5, False), "A<B": (0.0, False), "A<<B": (0.0, True)},
    },
}

# Full-width forms and the unbreakable space, which models that write Chinese or Japanese use; lengths stay.
_PLAIN = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)} | {0xA0: 0x20}
# [[...]] with what a verdict or score could be; [[1, 2]] and df[["a"]] are code. Markdown escapes brackets.
_MARKER = re.compile(r"(\\?\[)(\\?\[([\w<>=≪≫*`.+/ -]{1,40})\\?\])(\\?\])")
# White space is bounded as all else: a megabyte of it is read once.
_DELIMITER = re.compile(
    r"((?<!\[)\[++|<\|)(\s{0,20}(?:(?:the\s{1,20})?(?:start|end|beginning)\s+of\s[^\[\]<>|\n]{0,100}?"
    r"\b(?:assistant|answer|response|question|prompt|instruction|conversation|reference)\b[^\[\]<>|\n]{0,100}"
    r"|user\s{1,20}(?:question|prompt|query|instruction))\s{0,20})(\]+|\|>)",
    re.IGNORECASE,
)
_CONTROL = re.compile(
    r"(<)(?=\|[^<>|\n]{1,80}\|>|\|\w{1,40}>|\w{1,40}\|>"  # ChatML, Llama 3, Phi, DeepSeek and most others
    r"|/?s>|(?:bos|eos|pad|unk|mask|sop|eop)>|(?:start|end)_of_\w{1,20}>|</?SYS>>"  # Llama 2, Gemma
    r"|/?(?:seed:\w{1,20}|think|thinking|thought|tool_\w{1,20})>)"  # Seed-OSS, Qwen3 and others
    r"|(◁)(?=/?think▷)"  # Kimi-VL
    r"|(\[)(?=/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_RESULTS|TOOL_CALLS|TOOL_CONTENT|THINK|gMASK)\]"  # Mistral
    r"|\|[^\[\]|\n]{1,40}\|\])",  # EXAONE
    re.IGNORECASE,
)


class ParsedScore(NamedTuple):
    """A score as written, or the reason why there is none; exactly one of the two is None."""

    value: int | None
    unscored_reason: str | None
    position: int = -1  # of the number in the text


def require_places(key: str, template: str, places: Sequence[str]) -> None:
    """Raise unless a prompt holds the place of every text that is to be judged.

    Raises:
        ConfigError: Naming the prompt's key and what it lacks.
    """
    missing = [place for place in places if place not in template]
    if missing:
        raise ConfigError(f"{key} has no {' and no '.join(missing)}")


def fill(template: str, *, are_markers_kept: bool = False, **texts: str) -> str:
    """Return the template with each {name} replaced by its text, defused.

    All are replaced in one pass: a text that spells {second} stays as it is.

    Args:
        template: The prompt.
        are_markers_kept: Defuse control tokens alone, for a judge whose verdict is no marker and whose prompt has no
            delimiters of the family that `defuse` knows.
        **texts: By the name of their place.
    """
    fields = {f"{{{name}}}": defuse(text, are_markers_kept=are_markers_kept) for name, text in texts.items()}
    return re.sub("|".join(map(re.escape, fields)), lambda match: fields[match.group()], template)


def defuse(text: str, *, are_markers_kept: bool = False) -> str:
    """Return the text without anything that the judge, the parser of its answer, or a server could misread.

    - `[[A]]`, and any other marker that `parse_verdict` or `parse_score` would read, becomes `[ [A] ]`, so that the
      judge's quotation of it is no verdict. Code keeps its meaning.
    - `[The End of Assistant A's Answer]` and other delimiters of that family become `(The End of ...)`.
    - `<|im_end|>`, `</s>`, `[INST]` and other control tokens of common chat templates become `< |im_end|>` and so on,
      since a server would read them as the end of the turn.

    A text without any of these is returned unchanged, and so is one that was defused before. With `are_markers_kept`,
    only control tokens are rewritten.
    """
    text = text.encode("utf-8", "replace").decode()  # half characters, which no server takes
    while True:
        defused = text
        if not are_markers_kept:
            defused = _rewrite(_DELIMITER, defused, lambda groups: f"({groups[1]})")
            defused = _rewrite(_MARKER, defused, lambda groups: f"{groups[0]} {groups[1]} {groups[3]}")
        defused = _rewrite(_CONTROL, defused, lambda groups: f"{''.join(groups)} ")
        if defused == text:
            return text
        text = defused


def _rewrite(pattern: re.Pattern[str], text: str, rewrite: Callable[[list[str]], str]) -> str:
    """Return the text with each match replaced; full-width forms match like plain ones and are kept."""
    pieces = []
    end = 0
    for match in pattern.finditer(text.translate(_PLAIN)):
        groups = [text[start:stop] if start >= 0 else "" for start, stop in match.regs[1:]]
        pieces += [text[end : match.start()], rewrite(groups)]
        end = match.end()
    return "".join([*pieces, text[end:]])


def parse_verdict(text: str, *, verdicts: str, strong_weight: float, is_cut: bool) -> Judgement:
    """Return the outcome for the response shown first, without `raw` and `num_tokens`.

    What a judge thinks before it answers counts for nothing (`tpo.config.tags`). Of its answer, the last line that
    holds a `[[...]]` decides. Case, spaces, emphasis and full-width forms make no difference.

    Args:
        text: What the judge wrote.
        verdicts: "two_way" or "five_way", the menu that its prompt offers.
        strong_weight: How many games a strong verdict (`[[A>>B]]`) counts for.
        is_cut: Whether the token limit ended the text.

    Returns:
        Unscored, with weight 0, are: "truncated", whatever it says: the judge had not finished, and a thought that a
        server's template opened cannot be told from an answer; "empty"; "open_thought", a thought that ends the text;
        "no_verdict"; "contradictory_verdict", two different ones on the deciding line; "unknown_verdict", not on the
        menu.
    """
    answer = _after_thought(text, is_cut=is_cut)
    if answer.unscored_reason is not None:
        return Judgement(None, answer.unscored_reason, weight=0.0)
    found = {re.sub(r"[\s*_`]", "", marker[3]).upper() for marker in _last_markers(answer.text)}
    found = {verdict.replace("≫", ">>").replace("≪", "<<") for verdict in found}
    menu = MENUS[verdicts]
    outcomes = {menu.get(verdict) for verdict in found}
    if not found:
        return Judgement(None, _absence(answer.text, "no_verdict"), weight=0.0)
    if len(found) > 1 and (len(outcomes) > 1 or None in outcomes):
        return Judgement(None, "contradictory_verdict", weight=0.0)
    (outcome,) = outcomes
    if outcome is None:
        return Judgement(None, "unknown_verdict", weight=0.0)
    value, is_strong = outcome
    return Judgement(value, None, weight=strong_weight if is_strong else 1.0)


def parse_score(text: str, *, low: int, high: int, is_cut: bool) -> ParsedScore:
    """Return the whole number in the last `[[...]]`, from `low` to `high`.

    Returns:
        Unscored are: "truncated", whatever it says, as in `parse_verdict`; "empty"; "open_thought", a thought that ends
        the text; "no_score"; "contradictory_score", two different ones on the deciding line; "unknown_score", not a
        whole number (`[[4.5]]` is not rounded, `[[4/5]]` not understood); "score_out_of_range".
    """
    answer = _after_thought(text, is_cut=is_cut)
    if answer.unscored_reason is not None:
        return ParsedScore(None, answer.unscored_reason)
    markers = _last_markers(answer.text)
    found = {re.sub(r"[\s*_`]", "", marker[3]) for marker in markers}
    if not found:
        return ParsedScore(None, _absence(answer.text, "no_score"))
    if len(found) > 1:
        return ParsedScore(None, "contradictory_score")
    (number,) = found
    if not re.fullmatch(r"-?[0-9]+", number):
        return ParsedScore(None, "unknown_score")
    if not low <= int(number) <= high:
        return ParsedScore(None, "score_out_of_range")
    last = markers[-1]
    position = last.start(3) + re.search(r"[0-9]", last[3]).start()  # type: ignore[union-attr]
    return ParsedScore(int(number), None, answer.start + position)


def expected_score(alternatives: Mapping[str, float], *, low: int, high: int) -> float | None:
    """Return the mean over the valid scores, weighted by their probabilities, which are renormalized over them.

    Finer than the score itself, and less noisy (G-Eval, arXiv 2303.16634, section 2).

    Args:
        alternatives: The likeliest tokens where the score stands: log-probabilities, nats.
        low: Lowest score.
        high: Highest; at most 9, so that one token holds any score.

    Returns:
        None where the valid scores hold less than half of the probability: the judge was not choosing among scores.
    """
    valid = {str(score) for score in range(low, high + 1)}
    weights: dict[int, float] = {}
    for token, logprob in alternatives.items():
        if token.strip() in valid:
            weights[int(token)] = weights.get(int(token), 0.0) + math.exp(logprob)
    total = sum(weights.values())
    if total < 0.5:
        return None
    return sum(score * weight for score, weight in weights.items()) / total


class _FinalAnswer(NamedTuple):
    """What a judge says after its thought, and where that starts; or why there is no such thing."""

    text: str
    start: int
    unscored_reason: str | None


def _after_thought(text: str, *, is_cut: bool) -> _FinalAnswer:
    if is_cut:
        return _FinalAnswer("", 0, "truncated")
    thought = last_thought(text)
    if thought.open_at is not None:
        return _FinalAnswer("", 0, "open_thought")
    return _FinalAnswer(text[thought.stop :], thought.stop, None)


def _last_markers(text: str) -> list[re.Match[str]]:
    """Return the markers on the last line that has any."""
    markers = list(_MARKER.finditer(text.translate(_PLAIN)))
    if not markers:
        return []
    line_start = text.rfind("\n", 0, markers[-1].start()) + 1
    return [marker for marker in markers if marker.start() >= line_start]


def _absence(text: str, reason: str) -> str:
    return reason if text.strip() else "empty"
