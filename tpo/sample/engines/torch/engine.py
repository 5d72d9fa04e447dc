"""Continuous batching in plain torch, through transformers' own forward pass and its attention interface.

Requests are taken as rows become free and prefilled several at a time (`prefill.py`). What the prompts of the first
such batch begin with, the chat template and the thought prompt, is the *trunk*: it is computed once, and later prompts
use as much of it as they begin with (`prompts.py`). Each sample has a row of the cache (`cache.py`); when it ends, the
next one gets the row. All rows decode together with one query token each, whatever their lengths (`rows.py`). The
forced switch from thought to response feeds the delimiter through the same decoding steps, without a second prefill
(`draft.py`).

When an engine loads, it computes two short prompts and two tokens after each and compares the logits with the model's
own forward pass: families with more than attention in their layers, or another cache, are refused there.

Every sample has a seeded stream of uniforms of its own, one a token, from which tokens are drawn by inverting the
distribution function. So a sample does not depend on which others share its batch, up to the rounding of the matrix
products; oneDNN's on a CPU were found to round a row alike in every batch.
"""

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from os.path import commonprefix
from typing import Any

import torch
from torch import Tensor

from tpo.model.load import load_policy
from tpo.model.packed import pack
from tpo.model.policy import Policy
from tpo.model.probe import agrees, has_convolutions, probe_ids, reach
from tpo.sample.decoding import Decoding, Request, Sample
from tpo.sample.engines.torch.cache import RowCache
from tpo.sample.engines.torch.draft import Draft, Rules
from tpo.sample.engines.torch.nucleus import sample_tokens
from tpo.sample.engines.torch.prefill import Prefill
from tpo.sample.engines.torch.prompts import Layer, Prefix, Prompt, Trunk
from tpo.sample.engines.torch.rows import ATTENTION, DecodingStep
from tpo.store.errors import TpoError, why

log = logging.getLogger(__name__)

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
            TpoError: If the model computes otherwise beyond fewer tokens than `max_len`, or if it does not compute here
                what it computes by itself.
        """
        self.policy = policy
        self.tokenizer, self.end_ids = tokenizer, end_ids
        self.max_sequences, self.max_len = max_sequences, max_len
        self.slow_path: str | None = None  # what was given up of the fast path
        said = self._load(packs=True)
        if said is not None and self.is_packed:
            self.slow_path = f"layers are not packed, since that does not compute the same ({said})"
            log.warning("%s: %s", self.family, self.slow_path)
            del self.model  # before there is a second one in memory
            said = self._load(packs=False)
        if said is not None:
            raise TpoError(
                f"engine=torch does not compute models of the family {self.family} as they compute themselves "
                f"({said}): use engine=vllm"
            )

    @property
    def family(self) -> str:
        """The model's family, as transformers names it."""
        return str(self.model.config.model_type)

    @torch.inference_mode()
    def _load(self, *, packs: bool) -> str | None:
        """Load the policy and test it: return in what it differs from its own forward pass, None if in nothing."""
        policy = self.policy
        self.model = load_policy(
            policy.model_path, revision=policy.revision, dtype=policy.dtype, adapter_path=policy.adapter_path
        )
        self.device = self.model.device
        limit = reach(self.model.config)
        if limit is not None and limit.tokens < self.max_len:
            raise TpoError(
                f"{policy.model_path} computes otherwise beyond {limit.tokens} tokens ({limit.name} in its "
                f"configuration), and {self.max_len} may be needed: use engine=vllm, or smaller token budgets"
            )
        self.is_packed = False
        if has_convolutions(self.model.get_decoder()):
            return "its layers have a state"
        ids = probe_ids(self.model, 22)
        prompts, following = [ids[:5] + ids[5:11], ids[:5] + ids[11:17]], ids[17:19]
        sequences = torch.tensor([prompt + following for prompt in prompts], device=self.device)
        asked = slice(len(prompts[0]) - 1, None)
        try:
            own = (self.model(input_ids=row[None], use_cache=False).logits[0, asked] for row in sequences)
            expected = torch.cat(list(own))
            self.model.set_attn_implementation(ATTENTION)
            self.is_packed = packs and pack(self.model, num_rows=self.max_sequences)
            found = self._decode_along(prompts, following)
        except Exception as error:  # whatever a family's own code says to what it does not expect
            return why(error)
        is_same = agrees(found.flatten(0, 1), expected, dtype=self.model.dtype)
        return None if is_same else "its logits differ"

    def _decode_along(self, prompts: Sequence[list[int]], following: Sequence[int]) -> Tensor:
        """Return the logits after each prompt and after each token that follows it, (prompts, steps, vocabulary)."""
        cache = RowCache(device=self.device)
        requests = [Request(str(number), prompt, {0: 0}) for number, prompt in enumerate(prompts)]
        decoding = Decoding(temperature=0, top_p=1, max_tokens=len(following) + 1)
        drafts, first = zip(*self._prefill(requests, cache, decoding), strict=True)
        cache.add(drafts)
        steps = [torch.stack(first)]
        for token in following:
            for draft in drafts:
                draft.pending = token
            found = dict(zip(map(id, cache.active), self._decode(cache), strict=True))
            steps.append(torch.stack([found[id(draft)] for draft in drafts]))
        return torch.stack(steps, dim=1)

    @torch.inference_mode()
    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        """Yield samples as they end; no more requests are taken than there are free rows for.

        Rows stand still while the next request is waited for, so `requests` should have one ready.

        Raises:
            ValueError: If a prompt and its longest completion exceed `max_len`.
        """
        source = iter(requests)
        rules = Rules(decoding, self.end_ids, self.tokenizer)
        cache = RowCache(device=self.device)
        waiting: deque[tuple[Draft, Tensor]] = deque()  # without a row, with the logits of their first tokens
        num_active, is_exhausted = 0, False
        while True:
            # Rows stay free until there are several, so that several prompts are prefilled together.
            while (num_free := self.max_sequences - num_active) * REFILL_SHARE >= self.max_sequences:
                while len(waiting) < num_free and not is_exhausted:
                    taken = self._take(source, num_free - len(waiting), cache, decoding)
                    is_exhausted = not taken
                    waiting += self._prefill(taken, cache, decoding)
                if not waiting:
                    break
                entering = [waiting.popleft() for _ in range(min(num_free, len(waiting)))]
                drafts = [draft for draft, _ in entering]
                _advance(drafts, torch.stack([logits for _, logits in entering]), rules)
                cache.add(drafts)
                yield from (draft.finish() for draft in cache.retire())
                num_active = len(cache.active)
            if not num_active:
                return
            _advance(cache.active, self._decode(cache), rules)
            yield from (draft.finish() for draft in cache.retire())
            num_active = len(cache.active)

    def close(self) -> None:
        """Do nothing: the engine's memory is freed with the object."""

    def _take(self, source: Iterator[Request], num_free: int, cache: RowCache, decoding: Decoding) -> list[Request]:
        """Return the next requests: enough for the free rows or for a batch of prefill; none after the last one."""
        taken: list[Request] = []
        num_tokens = 0  # to be computed
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
                num_tokens += len(request.prompt_ids)
                num_tokens -= 0 if cache.trunk is None else cache.trunk.common(request.prompt_ids)
            if num_tokens >= PREFILL_TOKENS:
                break
        return taken

    def _prefill(self, requests: list[Request], cache: RowCache, decoding: Decoding) -> Iterator[tuple[Draft, Tensor]]:
        """Store prompts in the cache; yield their samples, without tokens, and each one's logits of the first token."""
        if not requests:
            return
        prompts = [list(request.prompt_ids) for request in requests]
        if cache.trunk is None and len(prompts) > 1:
            common = list(commonprefix(prompts))
            step = Prefill([common], None, device=self.device)
            cache.trunk = Trunk(common, self._compute(step, cache)[0] if common else [])
        step = Prefill(prompts, cache.trunk, device=self.device)
        layers, logits = self._compute(step, cache)
        for request, own, first in zip(requests, pairwise(step.edges), logits, strict=True):
            prompt = Prompt(request.key, len(request.prompt_ids), num_unfinished=len(request.seeds))
            cache.add_prompt(prompt, Prefix(layers, *own))
            for sample_index, seed in request.seeds.items():
                yield Draft.begin(prompt, sample_index, seed=seed, decoding=decoding), first

    def _compute(self, step: Prefill, cache: RowCache) -> tuple[list[Layer], Tensor]:
        """Return keys and values of the tokens that are computed, and each prompt's logits of the next token."""
        layers = cache.begin_prefill()
        return layers, self.model(**step.inputs, past_key_values=cache, use_cache=True).logits[0]

    def _decode(self, cache: RowCache) -> Tensor:
        """Run one token of every active sequence; return the next logits (active, vocabulary)."""
        cache.begin_decoding()
        step = DecodingStep(cache, dtype=self.model.dtype)
        logits: Tensor = self.model(
            input_ids=torch.tensor([[draft.pending] for draft in cache.active], device=self.device),
            position_ids=step.positions[:, None],
            past_key_values=cache,
            use_cache=True,
            step=step,
        ).logits[:, -1]
        for draft in cache.active:
            draft.length += 1
        return logits


def _advance(drafts: list[Draft], logits: Tensor, rules: Rules) -> None:
    """Append the next token to every draft, given the logits of each."""
    uniforms = torch.tensor([draft.uniform for draft in drafts], device=logits.device)
    decoding = rules.decoding
    for draft, token in zip(
        drafts, sample_tokens(logits, uniforms, decoding.temperature, decoding.top_p).tolist(), strict=True
    ):
        draft.advance(token, rules)
