"""Models with random weights and pairs of random ids for `experiments.bench.gpu`: no hub is asked."""

from pathlib import Path
from typing import Any

import numpy as np

from tpo.model.architecture import Architecture
from tpo.model.policy import Policy
from tpo.store.records import Pair

SPECIAL = ("<bos>", "<eos>", "<pad>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def save_tokenizer(folder: Path) -> None:
    """Save a tokenizer whose tokens are bytes, with a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    names = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=list(SPECIAL[3:]),
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


def llama_config(sizes: Architecture) -> Any:
    """Return the configuration of a Llama of these sizes."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.head_dim,
        max_position_embeddings=8192,
        tie_word_embeddings=sizes.is_tied,
        bos_token_id=0,
        eos_token_id=1,
        pad_token_id=2,
    )


def random_model(sizes: Architecture, *, device: str, is_decoder: bool = False, dtype: str = "bfloat16") -> Any:
    """Return a model in eval mode whose weights are drawn where it computes."""
    import torch
    from transformers import LlamaForCausalLM, LlamaModel

    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        with torch.device(device):
            return (LlamaModel if is_decoder else LlamaForCausalLM)(llama_config(sizes)).eval()
    finally:
        torch.set_default_dtype(before)


def save_model(folder: Path, sizes: Architecture, *, device: str, dtype: str = "bfloat16") -> Policy:
    """Save a random model with its tokenizer, and return it as a policy."""
    from transformers import GenerationConfig

    model = random_model(sizes, device=device, dtype=dtype)
    model.generation_config = GenerationConfig(eos_token_id=1, pad_token_id=2)
    model.save_pretrained(folder)
    save_tokenizer(folder)
    return Policy(str(folder), None, str(folder), dtype, 8192, None)


def random_pairs(count: int, *, prompt: int, completion: int, vocabulary: int) -> list[Pair]:
    """Return pairs of one size whose ids are random."""
    generator = np.random.default_rng(0)

    def ids(length: int) -> list[int]:
        return [int(number) for number in generator.integers(5, vocabulary, size=length)]

    given: dict[str, Any] = {
        **{f"{side}_{name}": value for side in ("chosen", "rejected") for name, value in (("score", 0.0),)},
        **{f"{side}_{name}": float(completion) for side in ("chosen", "rejected") for name in ("length",)},
        **{f"{side}_{name}": 0 for side in ("chosen", "rejected") for name in ("index", "response_start")},
        **{f"{side}_forced": [0, 0] for side in ("chosen", "rejected")},
    }
    return [
        Pair(
            prompt_id=f"{number:04d}",
            prompt_ids=ids(prompt),
            chosen_ids=ids(completion),
            rejected_ids=ids(completion),
            chosen="",
            rejected="",
            margin=1.0,
            **given,
        )
        for number in range(count)
    ]
