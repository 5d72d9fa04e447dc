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
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tpo.model.load import load_policy
from tpo.model.packed import pack
from tpo.model.policy import Policy
from tpo.model.trees import TreeRow, join
from tpo.sample.decoding import Decoding, Request, Sample
from tpo.sample.engines.torch.draft import Draft, Prompt, Rules
from tpo.sample.engines.torch.nucleus import sample_tokens
from tpo.sample.engines.torch.rows import ATTENTION, Prefix, RowCache
from tpo.store.errors import TpoError

PREFILL_TOKENS = 1024  # of prompts that are prefilled together, or slightly more
REFILL_SHARE = 16  # rows are refilled when one in so many is free, so that several prompts are prefilled together


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
    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        """Yield samples as they end; no more requests are taken than there are free rows for.

        Rows stand still while the next request is waited for, so `requests` should have one ready.

        Raises:
            ValueError: If a prompt and its longest completion exceed `max_len`.
        """
        source = iter(requests)
        rules = Rules(decoding, self.end_ids, self.tokenizer)
        cache = RowCache()
        batch = _Batch(cache)
        waiting: deque[tuple[Draft, Tensor]] = deque()  # without a row, with the logits of their first tokens
        min_free = max(1, self.max_sequences // REFILL_SHARE)
        is_exhausted = False
        while True:
            while (num_free := self.max_sequences - len(batch.active)) >= min_free and not (
                is_exhausted and not waiting
            ):
                while len(waiting) < num_free and not is_exhausted:
                    taken = self._take(source, num_free - len(waiting), decoding)
                    is_exhausted = not taken
                    if taken:
                        waiting += self._prefill(taken, batch, decoding)
                entering = [waiting.popleft() for _ in range(min(num_free, len(waiting)))]
                if entering:
                    drafts = [draft for draft, _ in entering]
                    batch.active += drafts
                    _advance(drafts, torch.stack([logits for _, logits in entering]), rules)
                    yield from batch.retire()
            if not batch.active:
                return
            _advance(batch.active, self._decode(batch), rules)
            yield from batch.retire()

    def close(self) -> None:
        """Do nothing: the engine's memory is freed with the object."""

    def _take(self, source: Iterator[Request], num_free: int, decoding: Decoding) -> list[Request]:
        """Return the next requests: enough for the free rows or for a batch of prefill; none after the last one."""
        taken: list[Request] = []
        while sum(len(request.seeds) for request in taken) < num_free:
            request = next(source, None)
            if request is None:
                break
            longest = len(request.prompt_ids) + decoding.max_total
            if longest > self.max_len:
                raise ValueError(
                    f"a prompt with its completion may take {longest} tokens; the engine has {self.max_len}"
                )
            if request.seeds:
                taken.append(request)
            if sum(len(request.prompt_ids) for request in taken) >= PREFILL_TOKENS:
                break
        return taken

    def _prefill(self, requests: list[Request], batch: "_Batch", decoding: Decoding) -> Iterator[tuple[Draft, Tensor]]:
        """Store prompts in slots; yield their samples, without tokens, and the logits of the first token of each."""
        row = TreeRow([join([list(request.prompt_ids) for request in requests])], device=self.device)
        (span,) = row.spans
        layers = batch.cache.begin_prefill()
        ends = [span.place(branch, len(request.prompt_ids) - 1) for branch, request in enumerate(requests)]
        logits = self.model(
            **row.inputs | {"past_key_values": batch.cache, "use_cache": True},
            logits_to_keep=torch.tensor(ends, device=self.device),
        ).logits[0]
        for request, own, first in zip(requests, pairwise((span.fork, *span.stops)), logits, strict=True):
            prompt = batch.add_prompt(request, Prefix(layers, ((span.start, span.fork), own)))
            for sample_index, seed in request.seeds.items():
                yield Draft.begin(prompt, sample_index, seed=seed, decoding=decoding), first

    def _decode(self, batch: "_Batch") -> Tensor:
        """Run one token of every active sequence; return the next logits (active, vocabulary)."""
        active, cache = batch.active, batch.cache
        own = torch.tensor([draft.length for draft in active], device=self.device)
        before = torch.tensor([draft.prompt.length for draft in active], device=self.device)
        cache.begin_decoding(own, max(draft.length for draft in active))
        visible = torch.cat(
            [
                torch.arange(cache.prompts.window, device=self.device) < before[:, None],
                torch.arange(cache.own.window, device=self.device) <= own[:, None],
            ],
            dim=1,
        )
        mask = torch.zeros(visible.shape, dtype=self.model.dtype, device=self.device).masked_fill(~visible, -torch.inf)
        logits: Tensor = self.model(
            input_ids=torch.tensor([[draft.pending] for draft in active], device=self.device),
            position_ids=(before + own)[:, None],
            attention_mask=mask[:, None, None],
            past_key_values=cache,
            use_cache=True,
            sharing=cache.sharing([draft.prompt.slot for draft in active]),
        ).logits[:, -1]
        for draft in active:
            draft.length += 1
        return logits


class _Batch:
    """The drafts in the rows of a cache and the prompts in its slots, both without gaps."""

    def __init__(self, cache: RowCache) -> None:
        self.cache = cache
        self.active: list[Draft] = []
        self.prompts: list[Prompt] = []

    def add_prompt(self, request: Request, prefix: Prefix) -> Prompt:
        """Store a prefilled prompt in the next slot."""
        prompt = Prompt(request.key, prefix.length, num_unfinished=len(request.seeds), slot=len(self.prompts))
        self.prompts.append(prompt)
        self.cache.put_prompt(prompt.slot, prefix)
        return prompt

    def retire(self) -> Iterator[Sample]:
        """Remove and yield finished samples; the last row or slot moves into each gap."""
        for row in range(len(self.active) - 1, -1, -1):
            draft, prompt = self.active[row], self.active[row].prompt
            if not draft.finish_reason:
                continue
            last = self.active.pop()
            if last is not draft:
                self.cache.own.move(len(self.active), row, last.length)
                self.active[row] = last
            prompt.num_unfinished -= 1
            if prompt.num_unfinished == 0:
                last_prompt = self.prompts.pop()
                if last_prompt is not prompt:
                    self.cache.prompts.move(last_prompt.slot, prompt.slot, last_prompt.length)
                    self.prompts[prompt.slot], last_prompt.slot = last_prompt, prompt.slot
            yield draft.finish()


def _advance(drafts: list[Draft], logits: Tensor, rules: Rules) -> None:
    """Append the next token to every draft, given the logits of each."""
    uniforms = torch.tensor([draft.uniform for draft in drafts], device=logits.device)
    decoding = rules.decoding
    for draft, token in zip(
        drafts, sample_tokens(logits, uniforms, decoding.temperature, decoding.top_p).tolist(), strict=True
    ):
        draft.advance(token, rules)
