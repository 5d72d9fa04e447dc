"""Sizes of a decoder, and the weights, bytes and operations that follow from them.

For what is known before a run (`tpo.doctor`), and for floors of what a machine can do. The sizes come from a model's
config.json where that is on this machine; of models that conf/ names they stand here.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

RANK = 16  # of an adapter: conf/train/qlora_dpo.yaml
NORM_HEADS = {"qwen3"}  # model types whose attention norms each head's queries and keys


@dataclass(frozen=True)
class Architecture:
    """A decoder with grouped attention and a gated MLP (the Llama and Qwen families); the defaults are Llama-3-8B.

    Bytes are those of 16-bit numbers unless said.
    """

    hidden: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 8
    head_dim: int = 128
    intermediate: int = 14336
    vocabulary: int = 128256
    is_tied: bool = False
    norms_heads: bool = False  # a norm over each head's query and key, as in Qwen3

    @classmethod
    def of(cls, config: Any) -> "Architecture":
        """Return the sizes of a transformers configuration."""
        return cls(
            hidden=config.hidden_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            intermediate=config.intermediate_size,
            vocabulary=config.vocab_size,
            is_tied=config.tie_word_embeddings,
            norms_heads=config.model_type in NORM_HEADS,
        )

    @classmethod
    def of_model(cls, path: str) -> "Architecture":
        """Return the sizes of a model by its directory or Hub name."""
        from transformers import AutoConfig

        return cls.of(AutoConfig.from_pretrained(path, trust_remote_code=False).get_text_config())

    @property
    def query(self) -> int:
        """Numbers in a token's queries."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Numbers in a token's keys, and in its values."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> list[tuple[int, int]]:
        """(in, out) of a layer's linear maps: q, k, v, o, gate, up, down."""
        attention = [(self.hidden, self.query), *[(self.hidden, self.key)] * 2, (self.query, self.hidden)]
        return [*attention, *[(self.hidden, self.intermediate)] * 2, (self.intermediate, self.hidden)]

    @property
    def num_linear(self) -> int:
        """Weights in linear maps, which NF4 quantizes."""
        return self.layers * sum(inputs * outputs for inputs, outputs in self.linears)

    @property
    def num_head(self) -> int:
        """Weights of the head."""
        return self.hidden * self.vocabulary

    @property
    def num_other(self) -> int:
        """Weights of embedding, head and norms, which stay in 16 bits."""
        norms = (2 * self.layers + 1) * self.hidden + 2 * self.norms_heads * self.layers * self.head_dim
        return (1 if self.is_tied else 2) * self.num_head + norms

    def num_adapter(self, rank: int = RANK) -> int:
        """LoRA's weights on all linear maps: r (in + out) each."""
        return self.layers * rank * sum(inputs + outputs for inputs, outputs in self.linears)

    def base_bytes(self, quantization: str) -> float:
        """Bytes of the weights.

        NF4: half a byte, a byte of scale for 64 weights and, with double quantization, 4 bytes for 256 scales
        (Dettmers et al. 2023, section 3).
        """
        linear = 0.5 + 1 / 64 + 4 / (64 * 256) if quantization == "nf4" else 2
        return linear * self.num_linear + 2 * self.num_other

    @property
    def step_bytes(self) -> int:
        """Bytes of the weights that a step of decoding reads; of the embedding, single rows only."""
        return 2 * (self.num_linear + self.num_head)

    @property
    def kv_bytes(self) -> int:
        """Bytes of a token's keys and values."""
        return 2 * 2 * self.layers * self.key

    @property
    def attention_operations(self) -> int:
        """Operations of one query and one key in all layers: the score, and the value that it weighs."""
        return 4 * self.query * self.layers

    def forward_operations(self, depths: Sequence[int], *, num_logits: int) -> float:
        """Return the operations of a forward pass.

        Args:
            depths: For every token, how many positions it attends to, itself included.
            num_logits: Positions whose logits are computed.
        """
        linear = 2 * self.num_linear * len(depths) + 2 * self.num_head * num_logits
        return linear + self.attention_operations * sum(depths)


LLAMA_8B = Architecture()
QWEN3_0_6B = Architecture(
    hidden=1024, layers=28, heads=16, intermediate=3072, vocabulary=151936, is_tied=True, norms_heads=True
)
QWEN3_1_7B = Architecture(
    hidden=2048, layers=28, heads=16, intermediate=6144, vocabulary=151936, is_tied=True, norms_heads=True
)
QWEN3_8B = Architecture(layers=36, intermediate=12288, vocabulary=151936, norms_heads=True)
# The models that conf/ names, by their published config.json.
KNOWN = {
    "meta-llama/Meta-Llama-3-8B-Instruct": LLAMA_8B,
    "RLHFlow/ArmoRM-Llama3-8B-v0.1": LLAMA_8B,
    "Skywork/Skywork-Reward-V2-Llama-3.1-8B": LLAMA_8B,
    "Qwen/Qwen3-0.6B": QWEN3_0_6B,
    "Qwen/Qwen3-1.7B": QWEN3_1_7B,
    "Qwen/Qwen3-8B": QWEN3_8B,
    "Skywork/Skywork-Reward-V2-Qwen3-0.6B": QWEN3_0_6B,
    "Skywork/Skywork-Reward-V2-Qwen3-1.7B": QWEN3_1_7B,
    "Skywork/Skywork-Reward-V2-Qwen3-8B": QWEN3_8B,
    "HuggingFaceTB/SmolLM3-3B": Architecture(
        hidden=2048, layers=36, heads=16, kv_heads=4, intermediate=11008, vocabulary=128256, is_tied=True
    ),
    "smollm2-135m-instruct": Architecture(
        hidden=576, layers=30, heads=9, kv_heads=3, head_dim=64, intermediate=1536, vocabulary=49152, is_tied=True
    ),
}


def find_architecture(name: str, *, revision: str | None = None) -> Architecture | None:
    """Return a model's sizes without loading it or asking the Hub.

    Args:
        name: Hub name, local directory, or the name of an embedded model.
        revision: Of the Hub repository.

    Returns:
        None where no config.json is on this machine and conf/ does not name the model, or where it is no decoder with
        grouped attention and a gated MLP, such as a mixture of experts: its sizes would be guessed.
    """
    path = Path(name) / "config.json"
    if not path.is_file():
        from huggingface_hub import try_to_load_from_cache
        from huggingface_hub.errors import HFValidationError

        try:
            cached = try_to_load_from_cache(name, "config.json", revision=revision)
        except HFValidationError:  # the path of a directory that is not there
            cached = None
        if not isinstance(cached, str):
            return KNOWN.get(name)
        path = Path(cached)
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return _from_json(config.get("text_config", config))


def _from_json(config: Mapping[str, Any]) -> Architecture | None:
    needed = {"hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size"}
    if not needed <= config.keys() or any("expert" in key for key in config):
        return None
    heads = config["num_attention_heads"]
    return Architecture(
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        intermediate=config["intermediate_size"],
        vocabulary=config["vocab_size"],
        is_tied=config.get("tie_word_embeddings", False),
        norms_heads=config.get("model_type") in NORM_HEADS,
    )
