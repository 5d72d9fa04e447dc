"""Models for the tests: a tiny one that they make (Llama's architecture, random weights, a real tokenizer and chat
template), and the embedded one, converted once for all of pytest's processes."""

import gc
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from _pytest.logging import LogCaptureHandler
from _pytest.mark.expression import Expression

gc.set_threshold(50_000, 20, 50)  # imports and configs make many objects, few of them garbage
os.environ.setdefault("OMP_NUM_THREADS", "1")  # a second thread slows tiny models down
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may reach for a hub
os.environ.setdefault("WANDB_MODE", "offline")


def pytest_configure(config: pytest.Config) -> None:
    """Hide GPUs from all tests but those of the marker `gpu`: tolerances are a CPU's, and processes are forked."""
    if not asks_for_gpus(config.option.markexpr):
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start the files of the longest tests before others, so that no process is left alone with one at the end."""
    first = {item.path for item in items if item.get_closest_marker("long")}
    items.sort(key=lambda item: item.path not in first)


@pytest.fixture(scope="module", autouse=True)
def rare_collections() -> None:
    """Leave what is there out of the collections that stages ask for: with torch there, they took half of the time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def own_log_handlers() -> Iterator[None]:
    """Remove the handlers that a command left in this process: their stream is that of a test, closed with it."""
    root = logging.getLogger()
    before = {*root.handlers}
    yield
    for handler in {*root.handlers} - before:
        if not isinstance(handler, LogCaptureHandler):  # pytest has one a phase
            root.removeHandler(handler)


def asks_for_gpus(markers: str) -> bool:
    """Whether pytest's option -m is for tests that are marked `gpu`, not only without a word against them."""
    expression = Expression.compile(markers or "not gpu")
    return expression.evaluate(lambda name, **_: name == "gpu") and not expression.evaluate(lambda name, **_: False)


CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def make_tokenizer() -> Any:
    """A byte-level BPE tokenizer trained on the built-in instructions, with BOS, EOS and PAD of its own."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from tpo.sample.sources.builtin import load_builtin

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=["<bos>", "<eos>", "<pad>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([*(prompt.text for prompt in load_builtin()), "Yes No " * 50], trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        additional_special_tokens=["<|user|>", "<|assistant|>"],
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_model(directory: Path, *, seed: int = 0, **overrides: Any) -> Path:
    """Save a float32 Llama of two layers with grouped attention and the tokenizer to `directory`."""
    import torch
    from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    settings = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 1024,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "initializer_range": 0.2,  # larger than usual, so that distributions are not flat
        **overrides,
    }
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.generation_config = GenerationConfig(eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id)
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a tiny model."""
    return make_model(tmp_path_factory.mktemp("tiny_model"))


@pytest.fixture(scope="session")
def wide_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with a head size that vLLM's attention kernels know."""
    sizes = {"hidden_size": 128, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 64}
    return make_model(tmp_path_factory.mktemp("wide_model"), **sizes)


@pytest.fixture(scope="session")
def tokenizer(tiny_model: Path) -> Any:
    """The tiny model's tokenizer."""
    from tpo.model.chat import load_tokenizer

    return load_tokenizer(tiny_model)


@pytest.fixture(scope="session")
def embedded_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the embedded model and its tokenizer, not quantized; nobody writes to it."""
    from tpo.model.prepare import prepare_embedded
    from tpo.store.locks import hold

    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each has a folder below that of all
        root = root.parent
    directory = root / "embedded_model"
    with hold(root / ".embedded_model.lock", purpose="the embedded model"):  # to read it takes 20 s
        if not directory.exists():
            prepare_embedded("smollm2-135m-instruct", directory=root / "embedded_model.part")
            (root / "embedded_model.part").rename(directory)
    return directory


def vllm_settings(**more: Any) -> Any:
    """The group `engine` for a small model on vLLM."""
    from tpo.sample.engines.vllm import VllmEngineConfig

    given = {"max_num_seqs": 16, "enforce_eager": True, "gpu_memory_utilization": 0.1, **more}
    return VllmEngineConfig(**given)
