"""The server as a process of its own: on the torch engine and on vLLM, asked by the official client, and its end."""

import asyncio
import re
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
from commands import ENVIRONMENT, Fork, run_command, start_command
from test_serve import ASK, read
from test_talk import options
from test_torch_engine import make_adapter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@contextmanager
def started(folder: Path, *arguments: str, **more: bool) -> Iterator[tuple[Fork | subprocess.Popen[bytes], str]]:
    """A server's process and its address, once it says that it listens; what it says goes to files in a folder."""
    stdout, stderr = folder / "stdout", folder / "stderr"
    with stdout.open("wb") as said, stderr.open("wb") as complained:
        process = start_command(
            "tpo.serve",
            *arguments,
            "port=0",
            stdout=said,
            stderr=complained,
            env=ENVIRONMENT,
            loads_models=True,
            **more,
        )
    try:
        while not (urls := re.findall(r" is served at (\S+/v1)", stdout.read_text())):
            assert process.poll() is None, stderr.read_text()[-3000:]
            time.sleep(0.1)
        yield process, urls[0]
    finally:
        process.kill()
        process.wait()


async def ask_all(url: str, count: int, **budgets: Any) -> list[Any]:
    async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
        questions = [[{"role": "user", "content": f"Name {number} rivers."}] for number in range(count)]
        asked: Any = (client.chat.completions.create(model="mine", messages=one, **budgets) for one in questions)
        return [found.choices[0].message for found in await asyncio.gather(*asked)]


def said(messages: list[Any]) -> list[tuple[Any, Any]]:
    return [(message.reasoning_content, message.content) for message in messages]


GREEDY: Any = {"temperature": 0, "max_tokens": 40, "extra_body": {"max_thought_tokens": 8}}


def test_server_answers_and_ends_when_asked_to(tiny_model: Path, tmp_path: Path) -> None:
    arguments = [*options(tiny_model, tmp_path), "name=mine", "shutdown_s=120"]
    for number in (signal.SIGINT, signal.SIGTERM):
        with started(tmp_path, *arguments) as (process, url):
            client = openai.OpenAI(base_url=url, api_key="any", max_retries=0)
            assert [model.id for model in client.models.list()] == ["mine"]
            stream: Any = client.chat.completions.create(
                model="mine", messages=ASK, stream=True, max_tokens=300, temperature=0
            )
            next(iter(stream))
            process.send_signal(number)
            *_, reason, _ = read(stream)
            assert reason in ("stop", "length"), "what was under way could end"
            status, stderr = process.wait(timeout=60), (tmp_path / "stderr").read_text()
            assert status == 0, stderr
            assert "Traceback" not in stderr


def test_address_that_is_taken_is_told_before_a_model_is_loaded(tiny_model: Path, tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = run_command("tpo.serve", *options(tiny_model, tmp_path), f"port={port}")
    assert done.returncode == 1 and f"port={port}: cannot listen there" in done.stderr
    assert "Traceback" not in done.stderr and not (tmp_path / "artifacts").exists()


@pytest.mark.vllm
def test_vllm_says_what_the_torch_engine_says(wide_model: Path, tmp_path: Path) -> None:
    """Greedy, with an adapter and a forced switch; ten at once, and one that is streamed."""
    pytest.importorskip("vllm")
    adapter = make_adapter(wide_model, tmp_path / "adapter")
    arguments = [*options(wide_model, tmp_path), "name=mine", "model=pretrained", f"model.name={wide_model}"]
    arguments = [*arguments[1:], f"policy={adapter}"]
    vllm = ["engine=vllm", "engine.max_num_seqs=16", "engine.enforce_eager=true", "engine.gpu_memory_utilization=0.1"]
    with started(tmp_path, *arguments) as (_, url):
        expected = said(asyncio.run(ask_all(url, 10, **GREEDY)))
    with started(tmp_path, *arguments, *vllm, runs_vllm=True) as (process, url):
        assert said(asyncio.run(ask_all(url, 10, **GREEDY))) == expected
        client = openai.OpenAI(base_url=url, api_key="any", max_retries=0)
        messages: Any = [{"role": "user", "content": "Name 3 rivers."}]
        stream = client.chat.completions.create(model="mine", messages=messages, stream=True, **GREEDY)
        thought, answer, _, pieces = read(stream)
        assert (thought or None, answer or None) == expected[3] and len(pieces) > 1
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 0, (tmp_path / "stderr").read_text()[-3000:]
