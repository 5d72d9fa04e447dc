"""Instructions that a model generated (`tpo.sample.synthetic`), filtered and de-duplicated.

Candidates are compared with the shots that they were prompted with and with each other.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from tpo.config.fields import ConfigError, setting
from tpo.config.groups import Instructions, PromptsConfig
from tpo.sample.prompts import make_prompt
from tpo.sample.sources.builtin import load_builtin
from tpo.sample.sources.file import load_file
from tpo.store.records import Prompt


@dataclass
class SyntheticPrompts(PromptsConfig):
    """What a model is prompted with, how it continues, and which candidates are used."""

    are_generated: ClassVar[bool] = True

    kind: str = setting("synthetic")
    shots_path: str | None = setting(None, is_file=True)
    num_shots: int = setting(8, minimum=0)
    num_candidates: int = setting()
    temperature: float = setting(0.8)
    top_p: float = setting(0.95)
    max_tokens: int = setting(128)
    min_characters: int = setting(15, minimum=1)
    max_characters: int = setting(600)
    max_similarity: float = setting(0.7)

    def check(self, at: str) -> None:
        """Check that some length is allowed."""
        if self.min_characters > self.max_characters:
            raise ConfigError(
                f"{at}.min_characters={self.min_characters} is above {at}.max_characters={self.max_characters}"
            )

    def shots(self) -> list[Prompt]:
        """Return the instructions that examples are drawn from: those of a file, or the built-in training ones."""
        if self.shots_path is None:
            return [prompt for prompt in load_builtin() if prompt.split == "train"]
        return load_file(Path(self.shots_path), text_field="text", category_field="category", split_field="split")

    def load(self, candidates: Sequence[Prompt] = ()) -> Instructions:
        """Return the candidates worth using, and why the others are not."""
        return filter_candidates(
            candidates,
            against=self.shots(),
            min_characters=self.min_characters,
            max_characters=self.max_characters,
            max_similarity=self.max_similarity,
        )


def filter_candidates(
    candidates: Iterable[Prompt],
    *,
    against: Sequence[Prompt],
    min_characters: int,
    max_characters: int,
    max_similarity: float,
) -> Instructions:
    """Return the candidates worth using, ids made from their text, and the count of each reason to drop one.

    Args:
        candidates: Raw rows; the split holds the finish reason.
        against: Instructions that candidates must differ from, usually the shots.
        min_characters: Shorter candidates are dropped.
        max_characters: Longer ones too.
        max_similarity: Share of common words (Jaccard index) with any instruction before it from which on
            a candidate is dropped; 1 drops only those with the same words.
    """
    seen = [_words(prompt.text) for prompt in against]
    kept: list[Prompt] = []
    drops: Counter[str] = Counter()
    for candidate in candidates:
        words = _words(candidate.text)
        if candidate.split == "length":
            drops["cut_off"] += 1
        elif not min_characters <= len(candidate.text) <= max_characters:
            drops["length"] += 1
        elif any(similarity(words, other) >= max_similarity for other in seen):
            drops["repetition"] += 1
        else:
            seen.append(words)
            kept.append(
                make_prompt(candidate.text, category=None, source=candidate.source, split="", where=candidate.prompt_id)
            )
    return Instructions(kept, dict(sorted(drops.items())))


def _words(text: str) -> frozenset[str]:
    return frozenset(re.findall(r"\w+", text.lower()))


def similarity(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the Jaccard index of two sets of words: 1 for equal sets (two empty ones too), 0 for disjoint."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0
