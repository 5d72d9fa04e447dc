"""Sampling engines behind one protocol.

`torch_engine` on any device; vLLM in this process (`vllm_engine`), in several (`vllm_workers`), or behind a server
(`server_engine`).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from tpo.model.chat import Chat

# Where and how fast an engine samples: no part of what it samples. Tensor parallelism is, since it adds up in another
# order, as are the other settings of vLLM that may change a last bit; each of several engines adds up as one does.
_HOW = (
    "data_parallel_size",
    "base_urls",
    "api_key_env",
    "max_concurrency",
    "max_retries",
    "patience_s",
    "timeout_s",
)


@dataclass(frozen=True)
class Policy:
    """A model to sample from: the seed model with, from iteration 1 on, a LoRA adapter that stays unmerged.

    Or, where all weights are trained, another model from iteration 1 on.

    Attributes:
        model_path: 16-bit weights, a local directory or a Hub name. For a quantized policy they hold the
            quantized values, so that the policy that is sampled is the one that is trained.
        revision: Of the Hub repository.
        tokenizer_path: Local directory.
        dtype: Of weights and activations.
        max_model_len: Longest prompt plus completion, tokens.
        adapter_path: None for the seed model.
        unquantized_path: The weights before quantization, which training quantizes itself; None where the
            policy is not quantized.
        seed_path: The seed model's weights where `model_path` has others; None where it has these.
    """

    model_path: str
    revision: str | None
    tokenizer_path: str
    dtype: str
    max_model_len: int
    adapter_path: Path | None
    unquantized_path: str | None = None
    seed_path: str | None = None


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
    """Sampled token ids; `token_ids[forced_start:forced_stop]` were appended by force, not sampled."""

    token_ids: list[int]
    finish_reason: str  # "stop": ends with EOS; "length": the budget ended it
    forced_start: int = 0
    forced_stop: int = 0


class Engine(Protocol):
    """Samples completions of token-id prompts."""

    #: Whether the per-sample seeds decide the result; vLLM keeps a stream of its own.
    uses_seeds: bool

    def generate(
        self, prompts: Sequence[Sequence[int]], *, seeds: Sequence[Sequence[int]], decoding: Decoding
    ) -> list[list[Generation]]:
        """Return for each prompt one generation per seed, in order."""
        ...

    def close(self) -> None:
        """Be done: the engine samples nothing afterwards. What the next stage could use, the process may keep."""
        ...


class Thought(NamedTuple):
    """A sampled thought, followed by the switch to the response where it had to be forced."""

    token_ids: list[int]
    forced_start: int  # token_ids[forced_start:forced_stop] were appended
    forced_stop: int


def switch_to_response(
    token_ids: Sequence[int], *, is_delimited: bool, switch_ids: Sequence[int], end_ids: frozenset[int]
) -> Thought:
    """Return the thought such that the response can follow.

    Args:
        token_ids: As sampled.
        is_delimited: Whether they end with the response delimiter.
        switch_ids: Appended where they do not, in the place of an end token.
        end_ids: Token ids that end a completion.
    """
    if is_delimited:
        return Thought([*token_ids], 0, 0)
    kept = token_ids[:-1] if token_ids and token_ids[-1] in end_ids else token_ids
    return Thought([*kept, *switch_ids], len(kept), len(kept) + len(switch_ids))


def split_settings(settings: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the `engine` group into what a step's result depends on and `Step.how` of it; `join_settings` undoes it."""
    how = {key: value for key, value in settings.items() if key in _HOW}
    return {key: value for key, value in settings.items() if key not in _HOW}, ({"engine": how} if how else {})


def join_settings(config: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    """Return the `engine` group of a step from its config and its `how`."""
    settings: dict[str, Any] = config["engine"] | how.get("engine", {})
    return settings


def load_engine(
    config: Any, policy: Policy, *, chat: "Chat", contexts: Iterable[Sequence[int]], decoding: Decoding, seed: int
) -> Engine:
    """Return the engine that `config` (the `engine` group, as a dictionary) asks for.

    Args:
        config: Settings of the engine; `kind` selects it.
        policy: What to sample from.
        chat: The policy's tokenizer and end ids.
        contexts: All token-id prompts that will be asked for.
        decoding: How they will be decoded.
        seed: For engines that keep a random stream of their own.

    Raises:
        TpoError: If the engine cannot sample here.
    """
    max_tokens = max(map(len, contexts), default=0) + decoding.max_total
    match config["kind"]:
        case "torch":
            from tpo.sample.engines.torch_engine import TorchEngine

            return TorchEngine(
                policy,
                tokenizer=chat.tokenizer,
                end_ids=chat.end_ids,
                max_sequences=config["max_sequences"],
                max_len=max_tokens,
            )
        case "vllm" if config["data_parallel_size"] > 1:
            from tpo.sample.engines.vllm_workers import VllmWorkers

            return VllmWorkers(config, policy, end_ids=chat.end_ids, seed=seed)
        case "vllm":
            from tpo.sample.engines.vllm_engine import VllmEngine

            return VllmEngine(config, policy, end_ids=chat.end_ids, seed=seed)
        case "server":
            from tpo.sample.engines.server_engine import ServerEngine

            return ServerEngine(config, policy, end_ids=chat.end_ids, max_tokens=max_tokens)
        case kind:
            raise ValueError(f"engine.kind={kind}: expected torch, vllm or server")
