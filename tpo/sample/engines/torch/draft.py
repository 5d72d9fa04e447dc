"""An unfinished sample: which token comes next, and when the thought, or the whole completion, has ended."""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from tpo.sample.decoding import Decoding, Generation, Sample

if TYPE_CHECKING:
    from tpo.sample.engines.torch.prompts import Prompt


@dataclass(frozen=True)
class Rules:
    """How drafts are continued and ended; the same for all of a stream."""

    decoding: Decoding
    end_ids: frozenset[int]
    tokenizer: Any  # decodes the tail of thoughts to find the delimiter


@dataclass(eq=False)
class Draft:
    """One unfinished sample. `length` counts the cached tokens of its row; `pending` is the next to be cached."""

    prompt: "Prompt"
    sample_index: int
    rules: Rules
    uniforms: np.ndarray[Any, np.dtype[np.float64]]
    is_thinking: bool
    budget: int
    length: int = 0
    pending: int = -1
    token_ids: list[int] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)
    forced_start: int = 0
    forced_stop: int = 0
    finish_reason: str = ""

    @classmethod
    def begin(cls, prompt: "Prompt", sample_index: int, *, seed: int, rules: Rules) -> "Draft":
        """Return a sample without tokens, with its own stream of uniforms, one a token."""
        decoding = rules.decoding
        uniforms = np.random.default_rng(seed).random(decoding.max_total)
        return cls(prompt, sample_index, rules, uniforms, decoding.switch_ids is not None, decoding.max_tokens)

    @property
    def uniform(self) -> float:
        """What the next token is drawn with."""
        return float(self.uniforms[len(self.token_ids)])

    def advance(self, token: int) -> None:
        """Append the next token: the next forced one if there is any, else the sampled `token`."""
        decoding = self.rules.decoding
        if self.forced:
            self._take(self.forced.popleft())
        elif token in self.rules.end_ids:
            if self.is_thinking:  # the EOS is dropped: the turn continues with the response
                self._force_switch(decoding)
                self._take(self.forced.popleft())
            else:
                self._take(token)
                self.finish_reason = "stop"
        else:
            self._take(token)
            self.budget -= 1
            if self.is_thinking and self._wrote_delimiter():
                self.is_thinking, self.budget = False, decoding.max_response_tokens
            elif self.budget == 0 and self.is_thinking:
                self._force_switch(decoding)
            elif self.budget == 0:
                self.finish_reason = "length"

    def finish(self) -> Sample:
        """Return the finished sample."""
        generation = Generation(self.token_ids, self.finish_reason, self.forced_start, self.forced_stop)
        return Sample(self.prompt.key, self.sample_index, generation)

    def _take(self, token: int) -> None:
        self.token_ids.append(token)
        self.pending = token

    def _force_switch(self, decoding: Decoding) -> None:
        assert decoding.switch_ids is not None
        self.forced = deque(decoding.switch_ids)
        self.forced_start = len(self.token_ids)
        self.forced_stop = self.forced_start + len(decoding.switch_ids)
        self.is_thinking, self.budget = False, decoding.max_response_tokens

    def _wrote_delimiter(self) -> bool:
        rules, delimiter = self.rules, self.rules.decoding.response_delimiter
        assert delimiter is not None
        # A token has at least one byte of text, and the first may begin before the delimiter.
        tail = self.token_ids[-(len(delimiter.encode()) + 1) :]
        return delimiter in rules.tokenizer.decode(tail, skip_special_tokens=False, clean_up_tokenization_spaces=False)
