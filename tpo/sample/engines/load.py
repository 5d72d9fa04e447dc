"""The engine that a config asks for."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from tpo.config.schema import EngineConfig
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Engine
from tpo.store.stage import RunsOn

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


def split_settings(engine: EngineConfig) -> tuple[dict[str, Any], dict[str, Any]]:
    """Split the `engine` group into what a step's result depends on and `Step.how` of it; `join_settings` undoes it."""
    settings = asdict(engine)
    how = {key: value for key, value in settings.items() if key in _HOW}
    return {key: value for key, value in settings.items() if key not in _HOW}, ({"engine": how} if how else {})


def join_settings(config: dict[str, Any], how: dict[str, Any]) -> dict[str, Any]:
    """Return the `engine` group of a step from its config and its `how`."""
    settings: dict[str, Any] = config["engine"] | how.get("engine", {})
    return settings


def runs_on(engine: EngineConfig) -> RunsOn:
    """Return what steps that sample with this engine compute with."""
    return {"vllm": RunsOn.VLLM, "server": RunsOn.HOST}.get(engine.kind, RunsOn.DEVICE)


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
