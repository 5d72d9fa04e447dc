"""Whether training has broken the policy: its test answers beside those of the untrained policy. Pure.

A judge's score may rise while the policy falls silent, says the same to everybody, or stops after a word. None of this
needs a judge to be seen. The thresholds are far from what training does to a working policy, so that a run is stopped
for nothing else; each asks for a change since iteration 0, so that a model that never followed the format, or a task
whose answers are few, is not called collapsed.
"""

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

from tpo.store.records import Completion

#: Fewer answers say nothing: of 20, more than half go missing by chance in 1.7 % of cases where 30 % do in truth.
MIN_RESPONSES = 20
#: More than this share is "most". What was so before training, or nearly, is not collapse: the share of answers that
#: hold a response must have fallen by `FACTOR`, that of the commonest text risen by it.
MOST = 0.5
FACTOR = 2
#: How many times shorter responses must be. Length control shortens them too: in a prototype from 53 to 18 tokens, with
#: a better pass rate; a tenth of 53 tokens is no sentence.
SHORTENING = 10
SHOWN = 40  # characters of a text that the sentence quotes


class Answers(NamedTuple):
    """What is counted of a policy's answers to the test instructions."""

    num_answers: int
    num_missing: int  # without a response; an empty one is none
    num_tokens: int  # of all responses
    num_alike: int  # responses that are the commonest text, if it answers different instructions; else 0
    alike: str  # that text, cut

    @property
    def num_responses(self) -> int:
        """How many responses there are."""
        return self.num_answers - self.num_missing

    @property
    def mean_tokens(self) -> float:
        """Mean length of the responses there are."""
        return self.num_tokens / self.num_responses if self.num_responses else 0.0

    @property
    def share_answered(self) -> float:
        """Share of answers that hold a response."""
        return self.num_responses / self.num_answers

    @property
    def share_alike(self) -> float:
        """Share of responses that are the commonest text."""
        return self.num_alike / self.num_responses if self.num_responses else 0.0


def count(rows: Iterable[Completion]) -> Answers:
    """Return the counts of answers, which are read once; texts are compared without case and white space."""
    num_answers = num_missing = num_tokens = 0
    uses: dict[bytes, _Use] = {}
    for row in rows:
        num_answers += 1
        if row.response is None:
            num_missing += 1
            continue
        num_tokens += row.num_response_tokens
        text = " ".join(row.response.split())
        key = blake2b(text.casefold().encode(), digest_size=16).digest()
        shown = text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
        before = uses.get(key, _Use(0, shown, row.prompt_id, False))
        is_shared = before.is_shared or before.prompt_id != row.prompt_id
        uses[key] = before._replace(num_uses=before.num_uses + 1, is_shared=is_shared)
    alike = max(
        (use for use in uses.values() if use.is_shared), key=lambda use: use.num_uses, default=_Use(0, "", "", True)
    )
    return Answers(num_answers, num_missing, num_tokens, alike.num_uses, alike.text)


class _Use(NamedTuple):
    """Of one text: how often it is a response, how it is written first, in answer to what, and whether to more."""

    num_uses: int
    text: str
    prompt_id: str
    is_shared: bool


def find_collapse(trained: Iterable[Completion], untrained: Iterable[Completion]) -> str | None:
    """Return one sentence that says how the policy has collapsed, or None if it has not.

    It has where, with at least `MIN_RESPONSES` answers of either policy, one of these holds:

    - most answers hold no response, and it answers half as often as the untrained policy or less;
    - most responses, to different instructions, are one text, whose share is at least twice that of the untrained
      policy's commonest text;
    - responses have on average a tenth of the untrained policy's tokens or less.

    Args:
        trained: Answers to the test instructions after some iteration.
        untrained: Iteration 0's.
    """
    now, before = count(trained), count(untrained)
    if min(now.num_answers, before.num_answers) < MIN_RESPONSES:
        return None
    found = []
    if now.share_answered < MOST and 0 < before.share_answered >= FACTOR * now.share_answered:
        found.append(
            f"{now.num_missing:,} of {now.num_answers:,} answers hold no response "
            f"({before.num_missing:,} of {before.num_answers:,} at iteration 0)"
        )
    is_alike = now.share_alike > MOST and now.share_alike >= FACTOR * before.share_alike
    if is_alike and now.num_responses >= MIN_RESPONSES:
        found.append(
            f"{now.num_alike:,} of {now.num_responses:,} responses are one text, {now.alike!r} "
            f"(the commonest of iteration 0: {before.num_alike:,} of {before.num_responses:,})"
        )
    if now.num_responses and SHORTENING * now.mean_tokens <= before.mean_tokens:
        found.append(
            f"responses have {now.mean_tokens:.1f} tokens on average ({before.mean_tokens:.1f} at iteration 0)"
        )
    return f"the policy has collapsed: {'; '.join(found)}" if found else None
