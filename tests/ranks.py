"""Several processes of a training on a CPU, forked from the test's, so that nothing is imported again."""

import json
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import tpo.store.execute


def launcher_arguments(accelerate: dict[str, Any], folder: Path) -> Any:
    """What accelerate's launcher makes of a config file."""
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    file = folder / "accelerate.json"
    file.write_text(json.dumps(accelerate))
    command = ["--config_file", str(file), "--main_process_port", "0", "-m", "tpo.store.execute"]
    arguments, *_ = _validate_launch_command(launch_command_parser().parse_args(command))
    arguments.deepspeed_fields_from_accelerate_config = ""  # of a config file of DeepSpeed's own
    return arguments


def fork_ranks(path: Path, folder: Path, *, prepare: Callable[[], None] = lambda: None) -> None:
    """Execute the step in `path` in the processes that its request asks for, in accelerate's environment of a launch.

    Each calls `prepare` before. If one fails, the others are killed.

    Raises:
        AssertionError: If one fails.
    """
    from accelerate.utils.launch import prepare_multi_gpu_env

    accelerate = json.loads((path / "request.json").read_text())["processes"]
    environment = prepare_multi_gpu_env(launcher_arguments(accelerate, folder))
    size = accelerate["num_processes"]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    environment |= {"WORLD_SIZE": str(size), "LOCAL_WORLD_SIZE": str(size)}
    running: dict[int, int] = {}  # process id to rank
    for rank in range(size):
        pid = os.fork()
        if pid == 0:
            os.environ.update(environment, RANK=str(rank), LOCAL_RANK=str(rank))
            os._exit(_execute(path, size, prepare))
        running[pid] = rank
    failed: list[int] = []
    while running:
        time.sleep(0.02)
        for pid, rank in list(running.items()):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            del running[pid]
            if status != 0:
                failed.append(rank)
                for other in running:
                    os.kill(other, signal.SIGKILL)
    assert not failed, f"rank {failed[0]} failed"


def _execute(path: Path, size: int, prepare: Callable[[], None]) -> int:
    try:
        prepare()
        tpo.store.execute.execute(path)
        assert torch.distributed.get_world_size() == size, "the processes did not train together"
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def shard_on_cpu() -> None:
    """Let accelerate shard on CPUs: torch can, but accelerate starts FSDP only where it sees several GPUs."""
    from accelerate.state import PartialState
    from accelerate.utils import DistributedType

    start = PartialState.__init__

    def start_as_gpus(self: Any, *args: Any, **more: Any) -> None:
        start(self, *args, **more)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = start_as_gpus  # in a process of its own, which ends soon
