"""How far back a model's attention reaches, by its configuration: what computes whole sequences at once needs all."""

from typing import Any, NamedTuple

from tpo.store.errors import TpoError

# Keys that confine attention to so many tokens.
REACHES = (
    "sliding_window",
    "attention_chunk_size",
    "window_size",
    "attention_window_size",
    "local_attention",
    "keep_window_size",
    "index_topk",
)


class Reach(NamedTuple):
    """Up to how many tokens all of a sequence see one another, and the key of the configuration that says so."""

    tokens: int
    name: str


def reach(config: Any) -> Reach | None:
    """Return the first limit beyond which a model computes otherwise, None where there is none."""
    text = config.get_text_config()
    found = [
        Reach(size, name)
        for name in REACHES
        if isinstance(size := getattr(text, name, None), int)
        and not (name == "sliding_window" and not getattr(text, "use_sliding_window", True))
    ]
    # Rotary embeddings that are rescaled once the longest sequence of a batch is longer.
    rope = getattr(text, "rope_parameters", None) or {}
    if rope.get("rope_type") in ("longrope", "dynamic"):
        found.append(Reach(rope.get("original_max_position_embeddings") or text.max_position_embeddings, "rope_type"))
    return min(found, default=None)


def read_reach(model: str, *, revision: str | None) -> Reach | None:
    """Return the limit of a local model or of one on the Hub; None where there is none or no configuration is found."""
    from transformers import AutoConfig

    try:
        return reach(AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False))
    except (OSError, ValueError):  # who loads the weights says what is wrong
        return None


def require_reach(limit: Reach | None, *, needed: int, model: str) -> None:
    """Raise a TpoError if sequences of the `needed` tokens go beyond a model's limit."""
    if limit is not None and limit.tokens < needed:
        raise TpoError(
            f"{model} computes otherwise beyond {limit.tokens} tokens ({limit.name} in its configuration), and "
            f"{needed} may be needed: use engine=vllm, or smaller token budgets"
        )
