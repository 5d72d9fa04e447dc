"""Requests under way in a vLLM of this process.

`LLM.generate` takes all requests at once and returns when the last is finished. Here they are added while others are
computed, and come back one by one, so that the engine always has requests that wait for a place in its batch.
"""

from typing import Any, Generic, TypeVar

T = TypeVar("T")

FIRST, LATER = 0, 1  # priorities of requests that wait for a place in the batch


class InFlight(Generic[T]):
    """Requests that vLLM computes, each with what the caller knows of it."""

    def __init__(self, llm: Any, *, lora: Any = None, is_partial: bool = False) -> None:
        """Start with none.

        Args:
            llm: A `vllm.LLM` that nobody else uses meanwhile.
            lora: A `LoRARequest` for all requests.
            is_partial: Whether a request comes back with every step's new tokens; else once, with all of them.
        """
        self._engine, self._lora, self._is_partial = llm.llm_engine, lora, is_partial
        self._members: dict[str, T] = {}
        self._num_added = 0

    def __len__(self) -> int:
        """Return how many are under way."""
        return len(self._members)

    def add(self, member: T, prompt_ids: list[int], *, priority: int = LATER, **decoding: Any) -> None:
        """Add a request.

        Args:
            member: Comes back with the output.
            prompt_ids: The prompt.
            priority: Of those that wait, `FIRST` come before `LATER`, and of equal ones the first that was added.
            decoding: Arguments of `vllm.SamplingParams`.
        """
        from vllm import SamplingParams, TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        name = str(self._num_added)
        self._engine.add_request(
            name,
            TokensPrompt(prompt_token_ids=prompt_ids),
            SamplingParams(
                output_kind=RequestOutputKind.DELTA if self._is_partial else RequestOutputKind.FINAL_ONLY, **decoding
            ),
            lora_request=self._lora,
            priority=priority,
        )
        self._num_added += 1
        self._members[name] = member

    def step(self) -> list[tuple[T, Any]]:
        """Wait for the engine's next step and return what came back: (member, `vllm.RequestOutput`)."""
        found = [
            request
            for request in self._engine.step()
            if (request.finished or self._is_partial) and request.request_id in self._members
        ]
        ended = {request.request_id for request in found if request.finished}
        back = [(self._members[request.request_id], request) for request in found]
        self._members = {name: member for name, member in self._members.items() if name not in ended}
        return back

    def remove(self, member: T) -> None:
        """Abort a request that is under way."""
        names = [name for name, of in self._members.items() if of is member]
        self._engine.abort_request(names)
        for name in names:
            del self._members[name]

    def close(self) -> None:
        """Abort what is under way."""
        if self._members:
            self._engine.abort_request(list(self._members))
            self._members.clear()
