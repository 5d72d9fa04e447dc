"""Sampling engines behind one protocol: `torch_engine` (any device) and `vllm_engine`."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from tpo.chat import Chat


@dataclass(frozen=True)
class Policy:
    """A model to sample from: the seed model with, from iteration 1 on, a LoRA adapter that stays unmerged.

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
    """

    model_path: str
    revision: str | None
    tokenizer_path: str
    dtype: str
    max_model_len: int
    adapter_path: Path | None
    unquantized_path: str | None = None


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
    """
    match config["kind"]:
        case "torch":
            from tpo.engines.torch_engine import TorchEngine

            return TorchEngine(
                policy,
                tokenizer=chat.tokenizer,
                end_ids=chat.end_ids,
                max_sequences=config["max_sequences"],
                max_len=max(map(len, contexts), default=0) + decoding.max_total,
            )
        case "vllm":
            from tpo.engines.vllm_engine import VllmEngine

            return VllmEngine(config, policy, end_ids=chat.end_ids, seed=seed)
        case kind:
            raise ValueError(f"engine.kind={kind}: expected torch or vllm")
