"""Sizes of a decoder, and the weights, bytes and operations that follow from them.

For what cannot be measured here (`experiments.memory`) and what no machine can do without (`experiments.bench.floors`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

RANK = 16  # of an adapter: conf/train/qlora_dpo.yaml


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
        )

    @classmethod
    def of_model(cls, path: str) -> "Architecture":
        """Return the sizes of a model by its directory or Hub name."""
        from transformers import AutoConfig

        return cls.of(AutoConfig.from_pretrained(path).get_text_config())

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
        return (1 if self.is_tied else 2) * self.num_head + (2 * self.layers + 1) * self.hidden

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
