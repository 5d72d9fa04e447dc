"""Loading models: the seed model, prepared once where it is embedded, and adapters on top of it."""

import hashlib
import json
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tpo.store.errors import TpoError, why

log = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"  # peft's name
PICKLES = ("*.bin", "*.pt", "*.pth")


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


def require_unchanged(name: str, expected: str | None) -> None:
    """Check a local model directory against its fingerprint; a Hub name has none.

    Raises:
        ModelError: If its files have changed.
    """
    if expected is not None and fingerprint(name) != expected:
        raise ModelError(
            f"{name} (model.name): files of the model have changed, or are gone, since the run began: put them back, "
            "or run the same command again, which computes everything anew with the model as it is"
        )


def find_commit(name: str | Path, *, revision: str | None) -> str | None:
    """Return which commit of a Hub model a branch or tag is in the local cache; None for a local directory."""
    from huggingface_hub import try_to_load_from_cache

    if Path(name).is_dir():
        return None
    found = try_to_load_from_cache(str(name), "config.json", revision=revision)
    return Path(found).parent.name if isinstance(found, str) else None


def load_model(
    path: str | Path,
    *,
    revision: str | None,
    dtype: str,
    quantization: str = "none",
    is_shardable: bool = False,
    is_trained: bool = False,
) -> Any:
    """Return a causal language model in eval mode on the default device.

    Args:
        path: Local directory or Hub name.
        revision: Of the Hub repository.
        dtype: "bfloat16" or "float32".
        quantization: "nf4" loads the weights in 4 bits with double quantization, as QLoRA does (Dettmers
            et al. 2023, section 3); "none" loads them in `dtype`.
        is_shardable: Store the same 4-bit values in tensors of `dtype`, since FSDP does not shard integer tensors.
        is_trained: For training, where every dropout of its configuration is off: with one, the policy of the first
            step would not be its own reference.

    Raises:
        ModelError: If it is an adapter, brings code of its own, or cannot be loaded.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

    check_no_adapter(path)
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
    if is_trained:
        config = AutoConfig.from_pretrained(str(path), revision=revision, trust_remote_code=False)
        settings["config"] = without_dropout(config, name=path)
    with loading(path):
        model = AutoModelForCausalLM.from_pretrained(
            str(path), **settings, trust_remote_code=False, use_safetensors=True
        ).eval()
    text = model.config.get_text_config()
    if getattr(text, "output_router_logits", False):  # for a loss that balances experts, which is no part of DPO's
        text.output_router_logits = False
    return model


@contextmanager
def loading(name: str | Path, *, key: str = "model.name") -> Iterator[None]:
    """Turn what transformers says to a model's files into sentences.

    Everything that reads a model does so with `trust_remote_code=False` and reads weights from safetensors only: no
    code that comes with a model is run, and nobody is asked whether to.

    Args:
        name: Local directory or Hub name.
        key: The setting that names it.

    Raises:
        ModelError: Says what to do.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if getattr(error, "errno", None) is not None:  # the operating system's
            raise
        if "trust_remote_code" in str(error):
            said = (
                "it comes with Python code of its own (auto_map in its config.json), which is never run: name a model "
                "whose architecture is one of transformers' own"
            )
        elif has_pickles(name):
            said = PICKLED
        else:
            said = f"it cannot be loaded ({why(error)}): get the files again, or name another model"
        raise ModelError(f"{name} ({key}): {said}") from error


PICKLED = (
    "its weights are pickled (.bin, .pt), and to load such a file may run code that is in it: save them as "
    "safetensors, or name a model that has them"
)


def has_pickles(name: str | Path) -> bool:
    """Return whether a local directory holds pickled weights and no others."""
    folder = Path(name)
    return not any(folder.glob("*.safetensors")) and any(any(folder.glob(kind)) for kind in PICKLES)


def check_weights(name: str | Path, *, revision: str | None) -> None:
    """Check that a model's configuration can be read without its code, and that its weights are no pickles.

    Raises:
        ModelError: Says what to do.
    """
    from transformers import AutoConfig

    with loading(name):
        AutoConfig.from_pretrained(str(name), revision=revision, trust_remote_code=False)
    if has_pickles(name):
        raise ModelError(f"{name} (model.name): {PICKLED}")


def check_no_adapter(path: str | Path) -> None:
    """Raise where a directory holds an adapter, which transformers would put on its base model unasked.

    Raises:
        ModelError: Says what to do with it.
    """
    if (Path(path) / ADAPTER_CONFIG).is_file():
        raise ModelError(
            f"{path} (model.name) is an adapter: save it merged into its base model, or measure it with "
            f"`python -m tpo.evaluate model.name=<its base model> policy={path}`"
        )


def without_dropout(config: Any, *, name: str | Path) -> Any:
    """Return a model's configuration with every dropout set to 0, its parts' too, and say which there were."""
    found: dict[str, float] = {}
    parts = [config]
    for part in parts:
        for key, value in list(vars(part).items()):
            if key in part.sub_configs and value is not None:
                parts.append(value)
            elif "drop" in key and isinstance(value, float) and value > 0:
                found[key] = value
                setattr(part, key, 0.0)
    if found and os.environ.get("LOCAL_RANK", "0") == "0":
        said = ", ".join(f"{key}={value:g}" for key, value in sorted(found.items()))
        log.warning("%s: dropout is off in training; the model's configuration has %s", name, said)
    return config


def load_policy(path: str | Path, *, revision: str | None, dtype: str, adapter_path: Path | None) -> Any:
    """Return the seed model with the adapter, unmerged and frozen, if there is one.

    Raises:
        ModelError: If the adapter is not one of this model.
    """
    model = load_model(path, revision=revision, dtype=dtype)
    if adapter_path is None:
        return model
    from tpo.model.lora import unwrap_adapter

    return unwrap_adapter(load_adapter(model, adapter_path).to(model.dtype).eval())


def load_adapter(model: Any, adapter_path: Path, **arguments: Any) -> Any:
    """Return the `PeftModel` of a model and an adapter, in the dtype of the model.

    Args:
        model: The base model.
        adapter_path: Local directory.
        **arguments: Further ones of peft's.

    Raises:
        ModelError: If the adapter cannot be read, is of a kind that no engine computes, or is not one of this model:
            its layers or their sizes are others, it is incomplete, or it was made after the embeddings had been
            resized.
    """
    import torch
    from peft import PeftConfig, PeftModel

    check_adapter(adapter_path)
    if has_pickles(adapter_path):
        raise ModelError(f"{adapter_path}: {PICKLED}")
    try:
        PeftConfig.from_pretrained(str(adapter_path))
    except Exception as error:  # whatever peft says to keys and kinds that it does not know
        raise ModelError(
            f"{adapter_path / ADAPTER_CONFIG}: peft cannot read it ({why(error)}): save the adapter again, with the "
            "version of peft that is installed here"
        ) from error

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Found missing adapter keys")
        try:
            # By default peft loads the adapter in float32; training and vLLM compute it in the dtype of the base.
            return PeftModel.from_pretrained(model, str(adapter_path), autocast_adapter_dtype=False, **arguments)
        except torch.OutOfMemoryError:
            raise
        except (RuntimeError, ValueError, KeyError, UserWarning) as error:
            raise ModelError(
                f"{adapter_path}: this adapter does not fit the model {model.name_or_path}, whose layers or vocabulary "
                f"are others: name the model that it was trained on ({why(error)})"
            ) from error
        except Exception as error:  # of a file that is cut off, for one
            raise ModelError(
                f"{adapter_path}: the adapter cannot be loaded ({why(error)}): copy or save it again"
            ) from error


def check_adapter(path: Path) -> None:
    """Check that an adapter changes what layers compute of a token, whatever stands before it, and nothing else.

    Raises:
        ModelError: If its configuration cannot be read, or it is of another kind, which engines compute as if it were
            not, or not at all.
    """
    file = path / ADAPTER_CONFIG
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        kind = config["peft_type"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(
            f"{file}: not the configuration of an adapter ({why(error)}): copy or save the adapter again"
        ) from error
    if config.get("num_virtual_tokens") or config.get("adapter_len"):
        does = f"is of the kind {kind}, which puts tokens of its own before a prompt"
    elif config.get("alora_invocation_tokens"):
        does = "is an activated LoRA (alora_invocation_tokens), which begins within a sequence"
    else:
        return
    raise ModelError(f"{path}: this adapter {does}: engines do not sample from it, so name an adapter of the kind LORA")
