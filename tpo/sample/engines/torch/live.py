"""The torch engine for people who wait: requests come and go while others decode, token by token."""

from collections import deque
from collections.abc import Sequence

import torch

from tpo.sample.decoding import Decoding, Progress, Request
from tpo.sample.engines.torch.cache import RowCache
from tpo.sample.engines.torch.draft import Draft
from tpo.sample.engines.torch.engine import TorchEngine, advance

CANCELLED = "cancelled"  # the finish reason of drafts that nobody waits for


class TorchLive:
    """Requests under way in a `TorchEngine`, which nobody else uses meanwhile.

    Each step begins at most one request: a prompt that is prefilled lets all others wait.
    """

    def __init__(self, engine: TorchEngine) -> None:
        """Start with none."""
        self._engine, self.max_sequences = engine, engine.max_sequences
        self._waiting: deque[tuple[Request, Decoding]] = deque()
        self._drafts: dict[str, Draft] = {}
        self._cache = RowCache(device=engine.device)

    def __len__(self) -> int:
        """Return how many requests are under way or wait."""
        return len(self._waiting) + len(self._drafts)

    def add(self, request: Request, decoding: Decoding) -> None:
        """Add a request with one seed."""
        self._waiting.append((request, decoding))

    def cancel(self, key: str) -> None:
        """Take a request out, if it is there."""
        self._waiting = deque(item for item in self._waiting if item[0].key != key)
        if (draft := self._drafts.pop(key, None)) is not None:
            draft.finish_reason = CANCELLED

    @torch.inference_mode()
    def step(self) -> list[Progress]:
        """Begin a request, if one waits and there is a row for it, and compute one token of every other sample."""
        cache = self._cache
        deque(cache.retire(), maxlen=0)  # what was cancelled
        drafts = cache.active
        before = {draft.prompt.key: len(draft.token_ids) for draft in drafts}
        if drafts:
            advance(drafts, self._engine.decode(cache))
        if self._waiting and len(drafts) < self.max_sequences:
            drafts = [*drafts, self._begin(*self._waiting.popleft())]
        found = [_progress(draft, before.get(draft.prompt.key, 0)) for draft in drafts]
        for draft in cache.retire():
            del self._drafts[draft.prompt.key]
        if not cache.active:
            self._cache = RowCache(device=self._engine.device)  # its tensors have grown with the longest sample
        return found

    def _begin(self, request: Request, decoding: Decoding) -> Draft:
        """Prefill a request and return its draft with the first token."""
        [(draft, logits)] = self._engine.prefill([request], self._cache, self._engine.rules(decoding))
        advance([draft], logits[None])
        self._cache.add([draft])
        self._drafts[request.key] = draft
        return draft


def _progress(draft: Draft, before: int) -> Progress:
    new: Sequence[int] = draft.token_ids[before:]
    return Progress(draft.prompt.key, new, draft.finish().generation if draft.finish_reason else None)
