"""What this machine is, and what it reaches: matrix products in 16 bits, and reading memory.

`python -m experiments.bench.machine <model>` prints both as JSON, for a model's directory. They are the limits of the
floors (`floors.py`), measured with the same library as the contenders use, with all cores.
"""

import json
import os
import platform
import re
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tpo.model.architecture import Architecture
from tpo.store.processes.cores import usable_cores

SECONDS = 1.0  # to repeat each measurement for
# What multiplies matrices, the fastest first, as the system names it and as people do.
INSTRUCTION_SETS = {
    "amx_bf16": "AMX",
    "avx512_bf16": "AVX-512 bf16",
    "avx512f": "AVX-512",
    "avx2": "AVX2",
    "asimd": "Neon",
}


def describe() -> dict[str, Any]:
    """Return the processor, what it can do, its cores that this process may use, memory, GPU if any, and the system."""
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    found: dict[str, Any] = {
        "cpu": cpu_entry("model name") or platform.processor() or platform.machine(),
        "cpu_generation": {key: cpu_entry(key) for key in ("cpu family", "model")},  # several are called "AMD EPYC"
        "instruction_sets": instruction_sets(cpu_entry("flags") or cpu_entry("Features") or ""),
        "num_cores": len(usable_cores()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": round(memory / 2**30, 1),
        "gpu": None,
        "system": platform.platform(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found |= {"gpu": properties.name, "gpu_memory_gib": round(properties.total_memory / 2**30, 1)}
    return found


def cpu_entry(key: str) -> str | None:
    """Return what the system says of its first core under a key, None where it says nothing."""
    try:
        found = re.search(rf"^{key}\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return found.group(1) if found else None


def instruction_sets(flags: str) -> list[str]:
    """Return those of `INSTRUCTION_SETS` that are among a processor's flags, the fastest first."""
    return [name for name in INSTRUCTION_SETS if name in flags.split()]


def processor_text(machine: Mapping[str, Any]) -> str:
    """Return the name of the GPU, or of the processor with its best instruction set and its cores."""
    if machine["gpu"]:
        return str(machine["gpu"])
    best = [INSTRUCTION_SETS[name] for name in machine["instruction_sets"][:1]]
    name = re.sub(r"\((R|TM)\)", "", machine["cpu"])
    return ", ".join([name, *best, f"{machine['num_cores']} cores"])


def file_name(machine: Mapping[str, Any]) -> str:
    """Return the name of the machine's files, after its processor."""
    return re.sub(r"[^a-z0-9]+", "-", processor_text(machine).lower()).strip("-")


def probe(*, weight_bytes: int) -> dict[str, float]:
    """Return what the machine reaches at best, per second.

    Args:
        weight_bytes: Of the model: where its weights fit into a cache, reading them again is faster than memory.
    """
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    sizes = (4096, 8192) if device == "cuda" else (1024, 2048, 4096)
    found = {
        f"{name}_operations_per_s": max(2 * size**3 / _product_seconds(size, kind, device) for size in sizes)
        for name, kind in (("bfloat16", torch.bfloat16), ("float32", torch.float32))
    }
    large = 2**31
    reads = {"memory": large, "weights": min(weight_bytes, large)}
    found |= {f"{name}_bytes_per_s": size / _read_seconds(size, device) for name, size in reads.items()}
    return found


def limits(found: dict[str, float]) -> dict[str, float]:
    """Return the arguments of `floors.floor`: the best that was reached, whichever way."""
    return {
        "operations_per_s": found["bfloat16_operations_per_s"],
        "bytes_per_s": max(found["memory_bytes_per_s"], found["weights_bytes_per_s"]),
    }


def _product_seconds(size: int, kind: Any, device: str) -> float:
    import torch

    first, second = (torch.randn(size, size, device=device).to(kind) for _ in range(2))
    return best_seconds(lambda: torch.mm(first, second))


def _read_seconds(size: int, device: str) -> float:
    """Return the seconds of reading so many bytes, by a product of a matrix with a vector, as decoding one token."""
    import torch

    columns = 4096
    matrix = torch.ones(size // (4 * columns), columns, device=device)
    vector = torch.ones(columns, device=device)
    return min(best_seconds(lambda: torch.mv(matrix, vector)), best_seconds(lambda: matrix.sum()))


def best_seconds(work: Callable[[], Any]) -> float:
    """Return the shortest of repeated calls."""
    import torch

    best = float("inf")
    stop = time.perf_counter() + SECONDS
    while time.perf_counter() < stop:
        started = time.perf_counter()
        work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return best


if __name__ == "__main__":
    sizes = Architecture.of_model(sys.argv[1])
    print(json.dumps({"machine": describe(), "reaches": probe(weight_bytes=sizes.step_bytes)}, indent=2))
