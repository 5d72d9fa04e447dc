"""Continuous batching in plain torch, through transformers' own forward and its attention interface.

Each sequence owns a row of a static key-value cache. Prompts are prefilled several at a time, as branches of the
template that they begin with (`tpo.trees`), and each one's keys and values are copied to the rows of its K samples; a
finished sequence gives its row to the next sample. All rows decode together with one query token each, so no row
needs padding: a row attends to its own first `length` positions, wherever the others are. The forced switch from
thought to response feeds the delimiter through the same steps, without a second prefill.

Every sample draws from its own seeded stream of uniforms, one a token, by inverting the distribution
function. What a sample is therefore does not depend on which others share its batch, up to the rounding of the
matrix products.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface

from tpo.engines import Decoding, Generation, Policy
from tpo.errors import TpoError
from tpo.models import load_policy
from tpo.packed import pack
from tpo.trees import Row, join, tree_attention

ATTENTION = "tpo_rows"
NUM_CANDIDATES = 256  # most nuclei are smaller; where one is not, the full sort decides
PREFILL_TOKENS = 1024  # of prompts that are prefilled together
CACHE_STEP = 64  # attention reads a whole number of these positions, so that few shapes occur


def row_attention(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    row: Row | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Return attention for prefill (a row of prompts) and for decoding (one query token a row of the cache).

    The query heads that share a key-value head are handed over as query *positions* of that head, which
    computes grouped attention without repeating keys and values. On a CPU, decoding is two matrix products and a
    softmax: one query a row leaves nothing to gain from the fused kernel's blocks, which takes twice as long.

    Args:
        module: The attention layer; unused.
        query: (batch, heads, queries, head_dim).
        key: (batch, kv_heads, positions, head_dim).
        value: Like `key`.
        attention_mask: None for prefill; (batch, 1, 1, positions) additive for decoding.
        row: The prompts; None for decoding.
        scaling: Of the scores.
        kwargs: What else the model hands to its attention.

    Returns:
        (batch, queries, heads, head_dim) and, for the interface, no weights.

    Raises:
        TpoError: If the model's attention is more than a softmax over scores.
    """
    for name in ("softcap", "s_aux"):  # Gemma 2's capped scores, GPT-OSS's attention sinks
        if kwargs.get(name) is not None:
            raise TpoError(f"engine=torch does not know this model's attention ({name}): use engine=vllm")
    if row is not None:
        return tree_attention(module, query, key, value, None, row=row, scaling=scaling)
    assert attention_mask is not None
    batch, heads, _queries, dim = query.shape
    groups = heads // key.shape[1]
    grouped = query.reshape(batch, key.shape[1], groups, dim)
    if query.device.type == "cpu":
        scores = torch.matmul(grouped * (dim**-0.5 if scaling is None else scaling), key.transpose(2, 3))
        weights = torch.softmax(scores.add_(attention_mask), dim=-1, dtype=torch.float32)
        out = torch.matmul(weights.to(value.dtype), value)
    else:
        mask = attention_mask.expand(batch, 1, groups, key.shape[2])
        out = scaled_dot_product_attention(grouped, key, value, attn_mask=mask, scale=scaling)
    return out.reshape(batch, 1, heads, dim), None


AttentionInterface.register(ATTENTION, row_attention)


class RowCache:
    """Keys and values of all rows, per layer (rows, kv_heads, max_len, head_dim), in transformers' cache protocol."""

    is_compileable = False

    def __init__(self, num_rows: int, max_len: int) -> None:
        """Make an empty cache; a layer's memory is taken when its first prompt is prefilled."""
        self.num_rows, self.max_len = num_rows, max_len
        self.layers: list[tuple[Tensor, Tensor]] = []
        self.prefilled: list[tuple[Tensor, Tensor]] = []
        self.is_prefill = True
        self.rows = torch.empty(0, dtype=torch.long)
        self.positions = torch.empty(0, dtype=torch.long)
        self.window = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0: positions are always given explicitly."""
        return 0

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store new keys and values; return what the new queries attend to."""
        if self.is_prefill:
            self.prefilled.append((key, value))
            if layer_idx == len(self.layers):
                shape = (self.num_rows, key.shape[1], self.max_len, key.shape[3])
                self.layers.append((key.new_zeros(shape), value.new_zeros(shape)))
            return key, value
        keys, values = self.layers[layer_idx]
        keys[self.rows, :, self.positions] = key[:, :, 0]
        values[self.rows, :, self.positions] = value[:, :, 0]
        num_active = len(self.rows)
        return keys[:num_active, :, : self.window], values[:num_active, :, : self.window]

    def fill_row(self, row: int, prefix: "_Prefix") -> None:
        """Copy a prefilled prompt into a row."""
        start = 0
        for begin, stop in prefix.parts:
            for (keys, values), (key, value) in zip(self.layers, prefix.layers, strict=True):
                keys[row, :, start : start + stop - begin] = key[0, :, begin:stop]
                values[row, :, start : start + stop - begin] = value[0, :, begin:stop]
            start += stop - begin

    def move_row(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of a row to another row."""
        for keys, values in self.layers:
            keys[target, :, :length] = keys[source, :, :length]
            values[target, :, :length] = values[source, :, :length]


class _Prefix(NamedTuple):
    """Where a prompt's keys and values lie in what was prefilled: [begin, stop) of its trunk and of its branch."""

    layers: list[tuple[Tensor, Tensor]]
    parts: tuple[tuple[int, int], tuple[int, int]]


@dataclass
class _Sequence:
    """One sample in flight. `length` counts cached positions; the next input token is `pending`."""

    prompt_index: int
    sample_index: int
    uniforms: np.ndarray[Any, np.dtype[np.float64]]
    length: int
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
        cache = RowCache(num_rows, longest)
        results: list[list[Generation | None]] = [[None] * len(group) for group in seeds]
        waiting = self._admissions(prompts, seeds, decoding, cache)
        active: list[_Sequence] = []
        is_exhausted = False
        while True:
            while len(active) < num_rows and not is_exhausted:
                entered = next(waiting, None)
                if entered is None:
                    is_exhausted = True
                    break
                sequence, prefix, logits = entered
                cache.fill_row(len(active), prefix)
                active.append(sequence)
                self._advance([sequence], logits, decoding)
                self._retire(active, cache, results)
            if not active:
                break
            self._advance(active, self._decode(active, cache), decoding)
            self._retire(active, cache, results)
        return [[generation for generation in group if generation is not None] for group in results]

    def close(self) -> None:
        """Do nothing: all that the engine holds goes with it."""

    def _admissions(self, prompts: Any, seeds: Any, decoding: Decoding, cache: RowCache) -> Any:
        """Yield (sequence, prefilled prompt, first logits); prompts are prefilled when the first of them enters."""
        for batch in _prefill_batches(prompts):
            tree = join([list(prompts[index]) for index in batch])
            row = Row([tree], device=self.device)
            span = row.spans[0]
            cache.is_prefill, cache.prefilled = True, []
            ends = [span.place(branch, len(prompts[index]) - 1) for branch, index in enumerate(batch)]
            logits = self.model(
                **row.inputs | {"past_key_values": cache, "use_cache": True},
                logits_to_keep=torch.tensor(ends, device=self.device),
            ).logits[0]
            layers = cache.prefilled
            for prompt_index, own, first in zip(batch, pairwise((span.fork, *span.stops)), logits, strict=True):
                prefix = _Prefix(layers, ((span.start, span.fork), own))
                for sample_index, seed in enumerate(seeds[prompt_index]):
                    sequence = _Sequence(
                        prompt_index,
                        sample_index,
                        uniforms=np.random.default_rng(seed).random(decoding.max_total),
                        length=len(prompts[prompt_index]),
                        is_thinking=decoding.switch_ids is not None,
                        budget=decoding.max_tokens,
                    )
                    yield sequence, prefix, first[None]

    def _decode(self, active: list[_Sequence], cache: RowCache) -> Tensor:
        """Run one token of every active sequence; return the next logits (active, vocabulary)."""
        lengths = torch.tensor([sequence.length for sequence in active], device=self.device)
        longest = max(sequence.length for sequence in active) + 1
        cache.window = min(-(-longest // CACHE_STEP) * CACHE_STEP, cache.max_len)
        cache.is_prefill = False
        cache.rows = torch.arange(len(active), device=self.device)
        cache.positions = lengths
        visible = torch.arange(cache.window, device=self.device)[None] <= lengths[:, None]
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=self.device).masked_fill(~visible, -torch.inf)
        logits: Tensor = self.model(
            input_ids=torch.tensor([[sequence.pending] for sequence in active], device=self.device),
            position_ids=lengths[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=cache,
            use_cache=True,
        ).logits[:, -1]
        for sequence in active:
            sequence.length += 1
        return logits

    def _advance(self, active: list[_Sequence], logits: Tensor, decoding: Decoding) -> None:
        """Give every sequence its next token: the forced one where there is one, else a sampled one."""
        uniforms = [sequence.uniforms[len(sequence.token_ids)] for sequence in active]
        sampled = sample_tokens(
            logits.float(), torch.tensor(uniforms, device=logits.device), decoding.temperature, decoding.top_p
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
        if sequence.is_thinking:  # the EOS is not kept: the turn goes on with the response
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
        # A token holds at least one byte of text, and a token may reach across the delimiter's ends.
        tail = sequence.token_ids[-(len(delimiter.encode()) + 1) :]
        return delimiter in self.tokenizer.decode(tail, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def _retire(self, active: list[_Sequence], cache: RowCache, results: list[list[Generation | None]]) -> None:
        """Take finished sequences out; the last row moves into the gap, so that active rows stay in front."""
        for row in range(len(active) - 1, -1, -1):
            sequence = active[row]
            if not sequence.finish_reason:
                continue
            results[sequence.prompt_index][sequence.sample_index] = Generation(
                sequence.token_ids, sequence.finish_reason, sequence.forced_start, sequence.forced_stop
            )
            last = active.pop()
            if last is not sequence:
                cache.move_row(len(active), row, last.length)
                active[row] = last


def sample_tokens(logits: Tensor, uniforms: Tensor, temperature: float, top_p: float) -> Tensor:
    """Return one token a row, drawn from the nucleus by inverting its distribution function.

    The nucleus is the smallest set of most probable tokens whose mass reaches `top_p` (Holtzman et al.
    2020, section 3.1). The largest `NUM_CANDIDATES` probabilities settle it without sorting the
    vocabulary; rows whose nucleus is larger are sorted in full.

    Args:
        logits: (rows, vocabulary), float32.
        uniforms: (rows,) in [0, 1).
        temperature: 0 takes the most probable token.
        top_p: In (0, 1]; 1 keeps every token.

    Returns:
        (rows,) token ids.
    """
    if temperature == 0:
        return logits.argmax(dim=-1)
    probabilities = torch.softmax(logits / temperature, dim=-1)
    if top_p == 1:  # no nucleus to find: any order of the tokens will do, so nothing is sorted
        tokens = torch.arange(logits.shape[-1], device=logits.device).expand_as(logits)
        return _invert(probabilities, tokens, uniforms, top_p)[0]
    num_candidates = min(NUM_CANDIDATES, logits.shape[-1])
    values, tokens = probabilities.topk(num_candidates, dim=-1)
    chosen, is_settled = _invert(values, tokens, uniforms, top_p)
    open_rows = torch.nonzero(~is_settled).flatten()
    if len(open_rows):
        values, tokens = probabilities[open_rows].sort(dim=-1, descending=True, stable=True)
        chosen[open_rows] = _invert(values, tokens, uniforms[open_rows], top_p)[0]
    return chosen


def _invert(values: Tensor, tokens: Tensor, uniforms: Tensor, top_p: float) -> tuple[Tensor, Tensor]:
    """Return the drawn tokens, and for which rows the `values`, sorted unless top_p is 1, reach the mass `top_p`."""
    mass = values.double().cumsum(dim=-1)
    is_kept = mass - values < top_p  # the token that crosses top_p still belongs to the nucleus
    total = torch.where(is_kept, values.double(), 0.0).sum(dim=-1)
    position = torch.searchsorted(mass, (uniforms.double() * total)[:, None], right=True).flatten()
    position = torch.minimum(position, is_kept.sum(dim=-1) - 1)
    return tokens.gather(-1, position[:, None]).flatten(), mass[:, -1] >= top_p


def _prefill_batches(prompts: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the prompts' indices in batches of at most `PREFILL_TOKENS`, before sharing; a longer one is by itself."""
    batch: list[int] = []
    for index, prompt in enumerate(prompts):
        if batch and sum(len(prompts[member]) for member in batch) + len(prompt) > PREFILL_TOKENS:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
