"""vLLM's own server, for tests that need it, and what vLLM's worker is asked about its model."""

import importlib
import os
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from commands import ENVIRONMENT, REPOSITORY, Fork, start_command

import tpo.judge.llm.local
import tpo.sample.engines.vllm

SERVER = "vllm.entrypoints.openai.api_server"
TESTS = REPOSITORY / "tests"
PARTS = {"qkv_proj": ["q_proj", "k_proj", "v_proj"], "gate_up_proj": ["gate_proj", "up_proj"]}


def holds_values(model: Any, *, saved: Path) -> dict[str, bool]:
    """Return for each matrix that vLLM's model holds in 4 bits whether its values are those of a file, bit for bit."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from safetensors.torch import load_file

    expected, found = load_file(saved), {}
    for name, module in model.named_modules():
        weight = getattr(module, "weight", None)
        states = getattr(weight, "bnb_quant_state", None)
        if weight is None or states is None or name.endswith(".base_layer"):
            continue
        edges = weight.bnb_shard_offsets
        shards = [weight[edges[at] : edges[at + 1]] for at in range(len(states))]
        values = torch.cat([dequantize_4bit(shard, states[at]) for at, shard in enumerate(shards)])
        stem, last = name.rsplit(".", 1)
        whole = torch.cat([expected[f"{stem}.{part}.weight"] for part in PARTS.get(last, [last])])
        found[name] = torch.equal(values, whole.to(values.device))
    return found


def start_script(
    script: str, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None
) -> Fork | subprocess.Popen[bytes]:
    """Start a script of Python in a process that has imported vLLM and finds the tests' modules.

    Args:
        script: Its text.
        arguments: Of its command line.
        folder: Where it is written and started, and what it says is written, to the file "said".
        environment: Variables in addition to those of this process at its start: what it imports since sets others.
    """
    (folder / "script.py").write_text(script)
    paths = [*map(str, (TESTS, TESTS / "sample", TESTS / "judge", REPOSITORY)), os.environ.get("PYTHONPATH", "")]
    given = {**ENVIRONMENT, **(environment or {}), "PYTHONPATH": os.pathsep.join(paths)}
    with (folder / "said").open("wb") as file:
        return start_command("script", *arguments, cwd=folder, env=given, stdout=file, stderr=file, runs_vllm=True)


def run_script(script: str, *arguments: str, folder: Path, environment: Mapping[str, str] | None = None) -> None:
    """Execute a script to its end, as `start_script` starts it; it must not fail."""
    status = start_script(script, *arguments, folder=folder, environment=environment).wait(timeout=500)
    assert status == 0, (folder / "said").read_text()[-3000:]


def forking_engine(**arguments: Any) -> Any:
    """Return what one of several engines does in its own process, where vLLM's processes are forks of that one."""
    importlib.import_module("forked_vllm")
    return tpo.sample.engines.vllm.vllm_stream(**arguments)


def forking_judge(settings: Mapping[str, Any], *, seed: int) -> Any:
    """Return what one of several judges does in its own process, where vLLM's processes are forks of that one."""
    importlib.import_module("forked_vllm")
    return tpo.judge.llm.local.vllm_stream(settings, seed=seed)


class Server:
    """vLLM's server, started, killed and started again on the same port."""

    def __init__(self, model: Path, options: Sequence[str], environment: Mapping[str, str] | None = None) -> None:
        """Prepare to serve what the stage "model" wrote to the directory `model`, in float32."""
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.model, self.options, self.environment = model, options, environment or {}
        self.log = model / "server.log"
        self.process: Fork | subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def start(self) -> None:
        # What `vllm serve` starts; that command itself fails in the CPU build, which asks for its version as "vllm".
        options = [
            *("--model", str(self.model / "model")),
            *("--tokenizer", str(self.model / "tokenizer"), "--generation-config", "vllm", "--dtype", "float32"),
            *("--host", "127.0.0.1", "--port", str(self.port), "--enforce-eager", *self.options),
            *("--gpu-memory-utilization", "0.1"),
        ]
        cores = ",".join(map(str, range(os.cpu_count() or 1)))
        environment = {"VLLM_CPU_OMP_THREADS_BIND": cores, **ENVIRONMENT, **self.environment}
        with self.log.open("ab") as file:
            streams: dict[str, Any] = {"stdout": file, "stderr": file}
            self.process = start_command(SERVER, *options, env=environment, runs_vllm=True, **streams)
        while not self.is_up():
            assert self.process.poll() is None, self.log.read_text()[-3000:]
            time.sleep(0.5)

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def kill(self) -> None:
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)  # the engine lives in a child
            self.process.wait()
            self.process = None

    def num_answered(self) -> int:
        """Return how many requests this process of the server has answered to the end."""
        while True:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/metrics", timeout=10) as reply:
                metrics = reply.read().decode()
            (running,) = re.findall(r"^vllm:num_requests_running\{.*\} (\S+)$", metrics, re.MULTILINE)
            if float(running) == 0:
                pattern = r'^vllm:request_success_total\{.*finished_reason="(?:stop|length)".*\} (\S+)$'
                return int(sum(map(float, re.findall(pattern, metrics, re.MULTILINE))))
            time.sleep(0.2)
