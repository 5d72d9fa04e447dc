"""A policy behind its address, for tests: a fake engine that writes what it is told, and the server in a thread."""

import contextlib
import threading
import time
from collections import deque
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import uvicorn
from chat_templates import CHATML, TEMPLATES, with_template

from tpo.config.groups import ModelConfig, SampleConfig
from tpo.config.thought import ThoughtFormat
from tpo.model.chat import Chat, end_ids
from tpo.model.policy import Policy, PolicyRef
from tpo.model.template_probe import read_conventions
from tpo.sample.decoding import Decoding, Generation, Progress, Request
from tpo.use.loaded import LoadedPolicy
from tpo.use.serve.app import ServedPolicy
from tpo.use.serve.sampler import Sampler

SAMPLING = SampleConfig(num_samples=1, temperature=0.8, top_p=0.95, max_thought_tokens=100, max_response_tokens=100)
MODEL = ModelConfig(source="pretrained", name="tiny", quantization="none", max_model_len=1024)


class FakeLive:
    """An engine that writes a text to every request, a few tokens a step, up to its end token or the budget."""

    def __init__(self, tokenizer: Any, *texts: str, tokens_a_step: int = 1, step_s: float = 0.0) -> None:
        self.tokenizer, self.texts = tokenizer, deque(texts)
        self.tokens_a_step, self.step_s, self.max_sequences = tokens_a_step, step_s, 4
        self.under_way: dict[str, tuple[list[int], int]] = {}  # token ids and how many are told
        self.asked: list[tuple[Request, Decoding]] = []
        self.cancelled: list[str] = []
        self.sizes: list[int] = []
        self.error: Exception | None = None

    def __len__(self) -> int:
        return len(self.under_way)

    def add(self, request: Request, decoding: Decoding) -> None:
        self.asked.append((request, decoding))
        self.texts.rotate(-1)
        ids = self.tokenizer.encode(self.texts[-1], add_special_tokens=False)
        self.under_way[request.key] = ([*ids, self.tokenizer.eos_token_id][: decoding.max_total], 0)

    def cancel(self, key: str) -> None:
        if self.under_way.pop(key, None) is not None:
            self.cancelled.append(key)

    def step(self) -> list[Progress]:
        time.sleep(self.step_s)
        if self.error is not None:
            raise self.error
        found = []
        self.sizes.append(len(self.under_way))
        for key, (ids, told) in list(self.under_way.items()):
            new = ids[told : told + self.tokens_a_step]
            self.under_way[key] = (ids, told + len(new))
            generation = None
            if told + len(new) == len(ids):
                del self.under_way[key]
                generation = Generation(ids, "stop" if ids[-1] == self.tokenizer.eos_token_id else "length")
            found.append(Progress(key, new, generation))
        return found


def chat_of(template: str) -> tuple[Chat, Policy]:
    """A tokenizer with a chat template and its conventions, without a model."""
    tokenizer = with_template(template)
    found = read_conventions(tokenizer, template_arguments={}, date="2037-02-28")
    ends = end_ids(tokenizer, SimpleNamespace(eos_token_id=None), template_end=found.end_of_turn_id)
    policy = Policy("nowhere", None, "nowhere", "float32", MODEL.max_model_len, None, conventions=found)
    return Chat(tokenizer, ends, found), policy


def fake_policy(form: ThoughtFormat, *texts: str, template: str = CHATML, **pace: Any) -> LoadedPolicy:
    """A policy whose answers are texts in turn."""
    chat, policy = chat_of(template)
    ref = PolicyRef("fake", None, MODEL, form, SAMPLING)  # type: ignore[arg-type]  # no artifact: nothing is loaded
    return LoadedPolicy(ref, policy, chat, FakeLive(chat.tokenizer, *texts, **pace))


QWEN = TEMPLATES["qwen3"]


@contextlib.contextmanager
def serving(
    policy: LoadedPolicy, *, name: str = "fake", max_waiting: int = 8, api_key: str | None = None
) -> Iterator[tuple[str, Sampler]]:
    """Serve a policy in this process; yield the address with /v1, and its sampler."""
    sampler = Sampler(policy.engine, max_waiting=max_waiting)
    app = ServedPolicy(policy, sampler, name=name, seed=0, api_key=api_key).app()
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        while not server.started:
            time.sleep(0.01)
        port = server.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}/v1", sampler
    finally:
        server.should_exit = True
        thread.join()
        sampler.close()


def wait_for(condition: Any, *, seconds: float = 20.0) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)
