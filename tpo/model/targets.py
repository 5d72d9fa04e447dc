"""Which layers of a model get an adapter: those that are asked for, less what a loss on text does not train."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import Tensor, nn

from tpo.model.load import ModelError
from tpo.model.probe import probe_ids

ALL_LINEAR = "all-linear"
AT = "train.lora_targets"


def split_targets(targets: str) -> str | list[str]:
    """Return what peft takes as its target modules: names, or the word for all linear layers."""
    return targets if targets == ALL_LINEAR else [name.strip() for name in targets.split(",")]


def check_targets(model: Any, targets: str, *, excluded: str | None = None) -> None:
    """Check that each name is one of linear layers below the text decoder, which training adapts.

    Args:
        model: With or without weights.
        targets: The names, with commas between them, or `ALL_LINEAR`.
        excluded: A regular expression of layers that get no adapter; without it, those outside of the text decoder.

    Raises:
        ModelError: Naming every name that is not, with near ones that are.
    """
    if targets == ALL_LINEAR:
        return
    outside = re.compile(excluded or _outside_of_text(model) or "(?!)")
    layers = dict(model.named_modules())
    head = model.get_output_embeddings()
    adapted = {name for name, layer in layers.items() if _is_linear(layer) and layer is not head}
    adapted = {name for name in adapted if not outside.fullmatch(name)}
    known = sorted({name.rpartition(".")[2] for name in adapted})
    said = []
    for target in split_targets(targets):
        found = {name for name in layers if name == target or name.endswith(f".{target}")}
        reached = {name for name in found if not outside.fullmatch(name)}
        if not target:
            said.append("a name is empty")
        elif not found:
            near = get_close_matches(target, known, n=3)
            said.append(f"no layer is called {target}" + (f" (near: {', '.join(near)})" if near else ""))
        elif not reached:
            said.append(f"the loss does not reach {target}")
        elif others := sorted(reached - adapted):
            is_head = layers[others[0]] is head
            what = "the model's head" if is_head else f"of the class {type(layers[others[0]]).__name__}"
            said.append(f"{target} is {what}, no linear layer of the decoder")
    if said:
        raise ModelError(f"{AT}={targets}: {'; '.join(said)}. Take {ALL_LINEAR}, or of {', '.join(known)}")


def make_skeleton(path: str, *, revision: str | None) -> Any:
    """Return a model with its layers and no weights, as its configuration says: takes no memory and no device."""
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    with init_empty_weights():
        config = AutoConfig.from_pretrained(path, revision=revision, trust_remote_code=False)
        return AutoModelForCausalLM.from_config(config, trust_remote_code=False)


def has_towers(model: Any) -> bool:
    """Return whether a model has parts for other modalities than text."""
    return model.config.get_text_config() is not model.config


def without_adapter(model: Any) -> str | None:
    """Return a regular expression of layers that get no adapter whatever the targets are; None where there are none.

    They are the towers of other modalities and whatever else a loss on a few tokens of text does not reach, such as
    indexers that only choose; routers that are called as linear layers and return more than a product; and in layers
    with a state space the projections whose weights are read past their forward passes, by fused kernels or always.
    """
    unreached, others = _try_out(model)
    outside = _outside_of_text(model)
    patterns = {outside} if outside else set()
    layers = [name for name, module in model.named_modules() if _is_linear(module)]
    for name, module in model.named_modules():
        if hasattr(module, "A_log") and hasattr(module, "D"):
            others |= {f"{name}.{read}" for read in ("dt_proj", "out_proj") if hasattr(module, read)}
    for name in unreached | others:
        if outside and re.fullmatch(outside, name):
            continue
        alike = re.sub(r"\d+", r"\\d+", re.escape(name))
        is_whole = name in others or all(one in unreached for one in layers if re.fullmatch(alike, one))
        patterns.add(alike if is_whole else re.escape(name))
    return "|".join(sorted(patterns)) or None


def _outside_of_text(model: Any) -> str | None:
    """Return a regular expression of what is not below the text decoder of a model that has towers."""
    if not has_towers(model):
        return None
    decoder = model.get_decoder()
    text = next(name for name, module in model.named_modules() if module is decoder)
    return rf"(?!{re.escape(text)}\.).*"


def _is_linear(layer: nn.Module) -> bool:
    from transformers.pytorch_utils import Conv1D

    return isinstance(layer, nn.Linear | Conv1D)


def _try_out(model: Any) -> tuple[set[str], set[str]]:
    """Return the linear layers that the logits of a few tokens do not depend on, and those that return no tensor.

    Whether they depend on a layer is told by the gradient of a zero that is added to what the layer returns. Of a
    list's experts, of which a few tokens take a few, all are reached where one is.
    """
    layers = {name: module for name, module in model.named_modules() if _is_linear(module)}
    zeros: dict[str, Tensor] = {}
    others: set[str] = set()
    handles = [
        module.register_forward_hook(
            lambda _module, _given, result, name=name: _add_zero(result, name, zeros=zeros, others=others)
        )
        for name, module in layers.items()
    ]
    try:
        with torch.enable_grad(), _differentiable(model):
            ids = torch.tensor([probe_ids(model, 4)], device=model.device)
            logits = model(input_ids=ids, use_cache=False).logits
            grads = torch.autograd.grad(logits.float().sum(), list(zeros.values()), allow_unused=True)
    finally:
        for handle in handles:
            handle.remove()
    reached = {name for name, grad in zip(zeros, grads, strict=True) if grad is not None} | others
    taken = {_as_expert(name) for name in reached}
    return {name for name in layers if name not in reached and _as_expert(name) not in taken}, others


def _add_zero(result: Any, name: str, *, zeros: dict[str, Tensor], others: set[str]) -> Any:
    if not isinstance(result, Tensor):
        others.add(name)
        return result
    if name not in zeros:
        zeros[name] = torch.zeros((), dtype=result.dtype, device=result.device, requires_grad=True)
    return result + zeros[name]


def _as_expert(name: str) -> str:
    """Return a layer's name without its number in the innermost of several lists.

    The outermost counts layers, of which each is reached or not.
    """
    numbers = list(re.finditer(r"(?<=\.)\d+(?=\.|$)", name))
    return name if len(numbers) < 2 else f"{name[: numbers[-1].start()]}*{name[numbers[-1].end() :]}"


@contextmanager
def _differentiable(model: Any) -> Iterator[None]:
    """Let 4-bit layers be in training mode, in which a CPU does not repack them for a kernel without a gradient."""
    packed = [module for module in model.modules() if type(module).__module__.startswith("bitsandbytes")]
    for module in packed:
        module.training = True
    try:
        yield
    finally:
        for module in packed:
            module.training = False
