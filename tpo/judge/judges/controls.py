"""What every judge is measured against: the length of the response, and chance."""

import hashlib
import json
from collections.abc import Sequence

from tpo.judge.protocol import Candidates, Judgement


class LengthJudge:
    """Scores a response by its number of characters."""

    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return the lengths."""
        return [[Judgement(float(len(response)), None) for response in item.responses] for item in candidates]


class RandomJudge:
    """Scores a response by a hash of instruction and response: the same each time, and unrelated to either."""

    def score(self, candidates: Sequence[Candidates]) -> list[list[Judgement]]:
        """Return numbers in [0, 1)."""
        return [
            [Judgement(_hash(item.instruction, response), None) for response in item.responses] for item in candidates
        ]


def _hash(instruction: str, response: str) -> float:
    digest = hashlib.sha256(json.dumps([instruction, response]).encode()).digest()
    return int.from_bytes(digest[:6]) / 2**48
