"""Sampling engines behind one protocol; the engines are in `tpo.sample.engines`."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple, Protocol

from tpo.config.groups import EngineConfig
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.store.errors import TpoError


@dataclass(frozen=True)
class Decoding:
    """How one completion is decoded.

    Attributes:
        temperature: 0 is greedy.
        top_p: Nucleus mass in (0, 1].
        max_tokens: Budget of the whole completion or, where `switch_ids` is given, of the thought.
        max_response_tokens: Budget after the response delimiter; used only with `switch_ids`.
        response_delimiter: Text that ends the thought; used only with `switch_ids`.
        switch_ids: Tokens to append to a thought that ends without the response delimiter; None samples
            the completion in one piece.
    """

    temperature: float
    top_p: float
    max_tokens: int
    max_response_tokens: int = 0
    response_delimiter: str | None = None
    switch_ids: tuple[int, ...] | None = None

    @property
    def max_total(self) -> int:
        """The longest completion possible, forced tokens included."""
        if self.switch_ids is None:
            return self.max_tokens
        return self.max_tokens + len(self.switch_ids) + self.max_response_tokens


@dataclass(frozen=True)
class Generation:
    """A completion's token ids, of which `token_ids[forced_start:forced_stop]` were appended, not sampled."""

    token_ids: list[int]
    finish_reason: str  # "stop": ends with EOS; "length": the budget ended it
    forced_start: int = 0
    forced_stop: int = 0


class Request(NamedTuple):
    """A prompt to sample from, once for each of its seeds."""

    key: str  # what the caller knows it by
    prompt_ids: Sequence[int]
    seeds: Mapping[int, int]  # sample index to the seed of that sample


class Sample(NamedTuple):
    """One finished sample of a request."""

    key: str  # of the request
    sample_index: int
    generation: Generation


class Engine(Protocol):
    """Samples completions of token-id prompts."""

    #: Whether a sample is drawn with its own seed; otherwise the engine has one random stream for all.
    uses_seeds: bool

    def stream(self, requests: Iterable[Request], *, decoding: Decoding) -> Iterator[Sample]:
        """Yield every sample of every request as it is finished, in any order.

        Requests are taken as there is room for them, so the engine is never empty before the last one.
        """
        ...

    def close(self) -> None:
        """End the engine's use; the process may cache what a later step can use again."""
        ...


class Progress(NamedTuple):
    """What a sample under way has gained; `generation` is None until it has ended."""

    key: str  # of the request
    token_ids: Sequence[int]  # new ones; an end token comes with the generation at the earliest
    generation: Generation | None


class LiveEngine(Protocol):
    """Samples for people who wait: requests come and go while others decode, each with its own decoding.

    Not to be used by several threads at a time.
    """

    #: Samples that decode together; further ones wait.
    max_sequences: int

    def __len__(self) -> int:
        """Return how many requests are under way or wait."""
        ...

    def add(self, request: Request, decoding: Decoding) -> None:
        """Add a request with one seed, whose key no other has that is under way."""
        ...

    def cancel(self, key: str) -> None:
        """Take a request out; nothing happens where there is none of this key."""
        ...

    def step(self) -> list[Progress]:
        """Compute about one token of every sample that has its turn; return what is new."""
        ...


@dataclass
class EngineSettings(EngineConfig):
    """Settings of an engine; each kind has a module or a package in `tpo/sample/engines`.

    Attributes:
        has_windows: Whether it computes attention that reaches back over fewer tokens than there are.
    """

    has_windows: ClassVar[bool] = True

    def make(self, policy: Policy, *, chat: Chat, max_len: int, seed: int) -> Engine:
        """Return the engine.

        Args:
            policy: What to sample from.
            chat: The policy's tokenizer and end ids.
            max_len: Tokens of the longest prompt plus completion that will be asked for.
            seed: For engines with one random stream for all samples.

        Raises:
            TpoError: If the engine cannot sample here.
        """
        raise NotImplementedError

    def make_live(self, policy: Policy, *, chat: Chat, max_len: int, seed: int) -> LiveEngine:
        """Return the engine in a form that chat and serve need, the policy loaded; arguments are those of `make`.

        Raises:
            TpoError: If the engine cannot sample here, or not so.
        """
        raise TpoError(
            f"engine={self.kind} samples for runs and evaluations only; chat and serve use engine=torch or engine=vllm"
        )


def longest(contexts: Iterable[Sequence[int]], decoding: Decoding) -> int:
    """Return the number of tokens of the longest prompt plus the longest possible completion."""
    return max(map(len, contexts), default=0) + decoding.max_total


class Thought(NamedTuple):
    """A sampled thought, followed by the response delimiter, which was appended where it had not been sampled."""

    token_ids: list[int]
    forced_start: int  # token_ids[forced_start:forced_stop] were appended
    forced_stop: int


def switch_to_response(
    token_ids: Sequence[int], *, is_delimited: bool, switch_ids: Sequence[int], end_ids: frozenset[int]
) -> Thought:
    """Return the thought with the response delimiter at its end, after which the response is sampled.

    Args:
        token_ids: As sampled.
        is_delimited: Whether they end with the response delimiter.
        switch_ids: Appended where they do not, replacing an end token.
        end_ids: Token ids that end a completion.
    """
    if is_delimited:
        return Thought([*token_ids], 0, 0)
    thought = token_ids[:-1] if token_ids and token_ids[-1] in end_ids else token_ids
    return Thought([*thought, *switch_ids], len(thought), len(thought) + len(switch_ids))
