"""Loading models: the seed model, prepared once where it is embedded, and adapters on top of it."""

import hashlib
import os
from pathlib import Path
from typing import Any

from tpo.store.errors import TpoError


class ModelError(TpoError):
    """A model that cannot be used; the message says what to do."""


def default_device() -> str:
    """Return "cuda" if there is a GPU, with its number if several processes train together, else "cpu".

    Raises:
        ModelError: If there are fewer GPUs than processes.
    """
    import torch

    if not torch.cuda.is_available():
        return "cpu"
    rank = os.environ.get("LOCAL_RANK")  # set by accelerate's launcher
    if rank is None:
        return "cuda"
    if int(rank) >= torch.cuda.device_count():
        raise ModelError(f"train.num_processes is above the number of GPUs here, {torch.cuda.device_count()}: lower it")
    return f"cuda:{rank}"


def fingerprint(name: str) -> str | None:
    """Return a digest of a local model directory, or None for a Hub name.

    It covers the name and size of every file, all bytes of files of up to two megabytes, and the first and last
    megabyte of larger ones, since hashing tens of gigabytes at every start would take minutes.
    """
    directory = Path(name)
    if not directory.is_dir():
        return None
    digest = hashlib.sha256()
    for file in sorted(path for path in directory.rglob("*") if path.is_file()):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(directory).as_posix()} {size}\n".encode())
        with file.open("rb") as stream:
            digest.update(stream.read(2**20))
            if size > 2**20:
                stream.seek(max(2**20, size - 2**20))
                digest.update(stream.read())
    return digest.hexdigest()


def load_model(
    path: str | Path, *, revision: str | None, dtype: str, quantization: str = "none", is_shardable: bool = False
) -> Any:
    """Return a causal language model in eval mode on the default device.

    Args:
        path: Local directory or Hub name.
        revision: Of the Hub repository.
        dtype: "bfloat16" or "float32".
        quantization: "nf4" loads the weights in 4 bits with double quantization, as QLoRA does (Dettmers
            et al. 2023, section 3); "none" loads them in `dtype`.
        is_shardable: Store the same 4-bit values in tensors of `dtype`, since FSDP does not shard integer tensors.
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    kind = getattr(torch, dtype)
    settings: dict[str, Any] = {"dtype": kind, "revision": revision, "device_map": {"": default_device()}}
    if quantization == "nf4":
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=kind,
            bnb_4bit_quant_storage=kind if is_shardable else torch.uint8,
        )
    return AutoModelForCausalLM.from_pretrained(str(path), **settings).eval()


def load_policy(path: str | Path, *, revision: str | None, dtype: str, adapter_path: Path | None) -> Any:
    """Return the seed model with the adapter, unmerged and frozen, if there is one."""
    model = load_model(path, revision=revision, dtype=dtype)
    if adapter_path is None:
        return model
    from peft import PeftModel

    from tpo.model.lora import unwrap_adapter

    # By default peft loads the adapter in float32; training and vLLM compute it in the dtype of the base.
    policy = PeftModel.from_pretrained(model, str(adapter_path), autocast_adapter_dtype=False).to(model.dtype)
    return unwrap_adapter(policy.eval())
