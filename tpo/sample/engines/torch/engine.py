"""Continuous batching in plain torch, through transformers' own forward pass and its attention interface.

Prompts are prefilled several at a time, as branches of the template that they begin with (`tpo.model.trees`), and each
prompt's keys and values are stored once for its K samples. Each sample has a row of the cache (`rows.py`); when it
ends, the next sample gets the row. All rows decode together with one query token each: a row attends to its prompt and
to its own first `length` positions, whatever the lengths of the other rows. The forced switch from thought to response
feeds the delimiter through the same decoding steps, without a second prefill.

Every sample has a seeded stream of uniforms of its own, one a token, from which tokens are drawn by inverting the
distribution function. So a sample does not depend on which others share its batch, up to the rounding of the matrix
products.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tpo.model.load import load_policy
from tpo.model.packed import pack
from tpo.model.policy import Policy
from tpo.model.trees import TreeRow, join
from tpo.sample.decoding import Decoding, Generation
from tpo.sample.engines.torch.nucleus import sample_tokens
from tpo.sample.engines.torch.rows import ATTENTION, Prefix, RowCache
from tpo.store.errors import TpoError

PREFILL_TOKENS = 1024  # of prompts that are prefilled together


@dataclass
class _Prompt:
    """A prompt with unfinished samples; `slot` is its index in the cache, -1 before it is stored there."""

    index: int
    length: int
    num_unfinished: int
    slot: int = -1


@dataclass
class _Sequence:
    """One unfinished sample. `length` counts its cached tokens after the prompt; `pending` is the next to be cached."""

    prompt: _Prompt
    sample_index: int
    uniforms: np.ndarray[Any, np.dtype[np.float64]]
    length: int = 0
    pending: int = -1
    token_ids: list[int] = field(default_factory=list)
    forced: deque[int] = field(default_factory=deque)
    forced_start: int = 0
    forced_stop: int = 0
    is_thinking: bool = False
    budget: int = 0
    finish_reason: str = ""


class TorchEngine:
    """Samples with any decoder that transformers runs through its attention interface."""

    uses_seeds = True

    def __init__(
        self, policy: Policy, *, tokenizer: Any, end_ids: frozenset[int], max_sequences: int, max_len: int
    ) -> None:
        """Load the policy.

        Args:
            policy: Seed model and adapter.
            tokenizer: The policy's tokenizer; decodes the tail of thoughts to find the delimiter.
            end_ids: Token ids that end a completion.
            max_sequences: Rows that decode together.
            max_len: The longest prompt plus completion.

        Raises:
            TpoError: If the model attends through a window shorter than `max_len`, which a row cache
                does not represent.
        """
        self.model = load_policy(
            policy.model_path, revision=policy.revision, dtype=policy.dtype, adapter_path=policy.adapter_path
        )
        config = self.model.config.get_text_config()
        sliding = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        if sliding is not None and sliding < max_len:
            raise TpoError(
                f"{policy.model_path} attends through a sliding window of {sliding} tokens and {max_len} may be "
                "needed: use engine=vllm, or smaller token budgets"
            )
        self.model.set_attn_implementation(ATTENTION)
        pack(self.model, num_rows=max_sequences)
        self.tokenizer, self.end_ids = tokenizer, end_ids
        self.max_sequences, self.max_len = max_sequences, max_len
        self.device = self.model.device

    @torch.inference_mode()
    def generate(
        self, prompts: Sequence[Sequence[int]], *, seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Generation]]:
        """Return for each prompt one generation per seed, in order.

        Raises:
            ValueError: If a prompt and its longest completion exceed `max_len`.
        """
        longest = max(len(prompt) for prompt in prompts) + decoding.max_total
        if longest > self.max_len:
            raise ValueError(f"a prompt with its completion may take {longest} tokens; the engine has {self.max_len}")
        num_rows = min(self.max_sequences, sum(len(group) for group in seeds))
        cache = RowCache(num_rows, num_slots=min(num_rows, len(prompts)))
        results: list[list[Generation | None]] = [[None] * len(group) for group in seeds]
        waiting = self._admissions(prompts, seeds, decoding, cache)
        active: list[_Sequence] = []
        in_slots: list[_Prompt] = []
        is_exhausted = False
        while True:
            while len(active) < num_rows and not is_exhausted:
                entered = next(waiting, None)
                if entered is None:
                    is_exhausted = True
                    break
                sequence, prefix, logits = entered
                if sequence.prompt.slot < 0:
                    sequence.prompt.slot = len(in_slots)
                    in_slots.append(sequence.prompt)
                    cache.put_prompt(sequence.prompt.slot, prefix)
                active.append(sequence)
                self._advance([sequence], logits, decoding)
                self._retire(active, in_slots, cache, results)
            if not active:
                break
            self._advance(active, self._decode(active, cache), decoding)
            self._retire(active, in_slots, cache, results)
        return [[generation for generation in group if generation is not None] for group in results]

    def close(self) -> None:
        """Do nothing: the engine's memory is freed with the object."""

    def _admissions(self, prompts: Any, seeds: Any, decoding: Decoding, cache: RowCache) -> Any:
        """Yield (sequence, prefilled prompt, first logits); prompts are prefilled in batches as they are needed."""
        for batch in _prefill_batches(prompts):
            tree = join([list(prompts[index]) for index in batch])
            row = TreeRow([tree], device=self.device)
            span = row.spans[0]
            layers = cache.begin_prefill()
            ends = [span.place(branch, len(prompts[index]) - 1) for branch, index in enumerate(batch)]
            logits = self.model(
                **row.inputs | {"past_key_values": cache, "use_cache": True},
                logits_to_keep=torch.tensor(ends, device=self.device),
            ).logits[0]
            for prompt_index, own, first in zip(batch, pairwise((span.fork, *span.stops)), logits, strict=True):
                prefix = Prefix(layers, ((span.start, span.fork), own))
                samples = seeds[prompt_index]
                prompt = _Prompt(prompt_index, prefix.length, num_unfinished=len(samples))
                for sample_index, seed in enumerate(samples):
                    sequence = _Sequence(
                        prompt,
                        sample_index,
                        uniforms=np.random.default_rng(seed).random(decoding.max_total),
                        is_thinking=decoding.switch_ids is not None,
                        budget=decoding.max_tokens,
                    )
                    yield sequence, prefix, first[None]

    def _decode(self, active: list[_Sequence], cache: RowCache) -> Tensor:
        """Run one token of every active sequence; return the next logits (active, vocabulary)."""
        own = torch.tensor([sequence.length for sequence in active], device=self.device)
        before = torch.tensor([sequence.prompt.length for sequence in active], device=self.device)
        cache.begin_decoding(own, max(sequence.length for sequence in active))
        visible = torch.cat(
            [
                torch.arange(cache.prompts.window, device=self.device) < before[:, None],
                torch.arange(cache.own.window, device=self.device) <= own[:, None],
            ],
            dim=1,
        )
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=self.device).masked_fill(~visible, -torch.inf)
        logits: Tensor = self.model(
            input_ids=torch.tensor([[sequence.pending] for sequence in active], device=self.device),
            position_ids=(before + own)[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=cache,
            use_cache=True,
            sharing=cache.sharing([sequence.prompt.slot for sequence in active]),
        ).logits[:, -1]
        for sequence in active:
            sequence.length += 1
        return logits

    def _advance(self, active: list[_Sequence], logits: Tensor, decoding: Decoding) -> None:
        """Append the next token to every sequence: the next forced one if there is any, else a sampled one."""
        uniforms = [sequence.uniforms[len(sequence.token_ids)] for sequence in active]
        sampled = sample_tokens(
            logits, torch.tensor(uniforms, device=logits.device), decoding.temperature, decoding.top_p
        ).tolist()
        for sequence, token in zip(active, sampled, strict=True):
            if sequence.forced:
                self._take(sequence, sequence.forced.popleft())
            elif token in self.end_ids:
                self._end_of_turn(sequence, token, decoding)
            else:
                self._take(sequence, token)
                sequence.budget -= 1
                if sequence.is_thinking and self._wrote_delimiter(sequence, decoding):
                    sequence.is_thinking, sequence.budget = False, decoding.max_response_tokens
                elif sequence.budget == 0:
                    self._out_of_budget(sequence, decoding)

    def _take(self, sequence: _Sequence, token: int) -> None:
        sequence.token_ids.append(token)
        sequence.pending = token

    def _end_of_turn(self, sequence: _Sequence, token: int, decoding: Decoding) -> None:
        if sequence.is_thinking:  # the EOS is dropped: the turn continues with the response
            self._force_switch(sequence, decoding)
            self._take(sequence, sequence.forced.popleft())
        else:
            self._take(sequence, token)
            sequence.finish_reason = "stop"

    def _out_of_budget(self, sequence: _Sequence, decoding: Decoding) -> None:
        if sequence.is_thinking:
            self._force_switch(sequence, decoding)
        else:
            sequence.finish_reason = "length"

    def _force_switch(self, sequence: _Sequence, decoding: Decoding) -> None:
        assert decoding.switch_ids is not None
        sequence.forced = deque(decoding.switch_ids)
        sequence.forced_start = len(sequence.token_ids)
        sequence.forced_stop = sequence.forced_start + len(decoding.switch_ids)
        sequence.is_thinking, sequence.budget = False, decoding.max_response_tokens

    def _wrote_delimiter(self, sequence: _Sequence, decoding: Decoding) -> bool:
        delimiter = decoding.response_delimiter
        assert delimiter is not None
        # A token has at least one byte of text, and the first may begin before the delimiter.
        tail = sequence.token_ids[-(len(delimiter.encode()) + 1) :]
        return delimiter in self.tokenizer.decode(tail, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _retire(
        self, active: list[_Sequence], in_slots: list[_Prompt], cache: RowCache, results: list[list[Generation | None]]
    ) -> None:
        """Remove finished sequences; the last row or slot moves into each gap, so that those in use stay contiguous."""
        for row in range(len(active) - 1, -1, -1):
            sequence, prompt = active[row], active[row].prompt
            if not sequence.finish_reason:
                continue
            results[prompt.index][sequence.sample_index] = Generation(
                sequence.token_ids, sequence.finish_reason, sequence.forced_start, sequence.forced_stop
            )
            last = active.pop()
            if last is not sequence:
                cache.own.move(len(active), row, last.length)
                active[row] = last
            prompt.num_unfinished -= 1
            if prompt.num_unfinished == 0:
                last_prompt = in_slots.pop()
                if last_prompt is not prompt:
                    cache.prompts.move(last_prompt.slot, prompt.slot, last_prompt.length)
                    in_slots[prompt.slot], last_prompt.slot = last_prompt, prompt.slot


def _prefill_batches(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield indices of prompts in batches of at most `PREFILL_TOKENS` tokens; a longer prompt is a batch of its own."""
    batch: list[int] = []
    for index, prompt in enumerate(prompts):
        if batch and sum(len(prompts[member]) for member in batch) + len(prompt) > PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
