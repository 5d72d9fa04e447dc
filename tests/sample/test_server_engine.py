"""Sampling through a server, against a fake of vLLM's: what is sent, what is refused, and what is lived through.

The real server is in test_server_engine_vllm.py.
"""

import json
import logging
import random
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import count
from pathlib import Path
from typing import Any

import openai._base_client
import pytest

import tpo.model.connection
from tpo.model.chat import Chat
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Generation, Request
from tpo.sample.engines.server import ServerEngine, ServerEngineConfig
from tpo.sample.engines.server.vllm_server import adapter_name
from tpo.store.errors import TpoError

KEY = "sk-very-secret-0123456789"
END, DELIMITER, SWITCH = 1, 50, (60, 61)
PLAIN = Decoding(temperature=0.8, top_p=0.95, max_tokens=6)
TWO_PHASES = replace(PLAIN, max_response_tokens=4, response_delimiter="<R>", switch_ids=SWITCH)


class FakeVllm:
    """vLLM's HTTP interface over a rule in the model's place. Token 50 is the text `<R>`, token 1 ends a completion."""

    def __init__(self, root: str, *, port: int = 0, seconds: float = 0.0, max_model_len: int = 512) -> None:
        self.seconds = seconds
        self.cards = [{"id": "served", "root": root, "parent": None, "max_model_len": max_model_len}]
        self.requests: list[tuple[str, Any]] = []
        self.script: list[Any] = []  # per completion to come a reply, None for a good one, or what to do first
        self.usage: Any = None  # what is said of the tokens used
        self.adapter_reply: tuple[int, str] | None = None  # in place of loading
        self.change: Callable[[dict[str, Any]], None] = lambda choice: None
        self.num_open = self.peak = 0
        self.lock = threading.Lock()
        fake = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                fake.handle(self, None)

            def do_POST(self) -> None:
                fake.handle(self, json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

            def log_message(self, *arguments: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 64

            def handle_error(self, *arguments: Any) -> None:
                pass

        self.http = Server(("127.0.0.1", port), Handler)
        self.port = self.http.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def sent(self, path: str) -> list[Any]:
        return [body for name, body in self.requests if name == path]

    def handle(self, handler: BaseHTTPRequestHandler, body: Any) -> None:
        with self.lock:
            self.requests.append((handler.path.removeprefix("/v1/"), body))
            self.num_open += 1
            self.peak = max(self.peak, self.num_open)
        time.sleep(self.seconds)
        with self.lock:
            status, content = self.answer(handler.path, body)
            self.num_open -= 1
        if status == 0:
            handler.connection.shutdown(socket.SHUT_RDWR)
            handler.close_connection = True
            return
        data = content.encode() if isinstance(content, str) else json.dumps(content).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "text/plain" if isinstance(content, str) else "application/json")
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    def answer(self, path: str, body: Any) -> tuple[int, Any]:
        """Return a status, 0 for hanging up, and a body."""
        adapters = {card["id"]: card for card in self.cards if card["parent"]}
        match path:
            case "/v1/models":
                return 200, {"object": "list", "data": [{"object": "model", **card} for card in self.cards]}
            case "/v1/load_lora_adapter":
                name, place = body["lora_name"], body["lora_path"]
                if self.adapter_reply is not None:
                    return failed(*self.adapter_reply)
                if name in adapters:
                    return failed(400, f"The lora adapter '{name}' has already been loaded.")
                self.cards.append({"id": name, "root": place, "parent": "served", "max_model_len": None})
                return 200, f"Success: LoRA adapter '{name}' added successfully."
            case "/v1/unload_lora_adapter":
                self.cards.remove(adapters[body["lora_name"]])
                return 200, "Success"
            case "/v1/completions":
                reply = self.script.pop(0) if self.script else None
                if callable(reply):
                    reply()
                elif reply is not None:
                    return reply  # type: ignore[no-any-return]
                if body["model"] not in [card["id"] for card in self.cards]:
                    return failed(404, f"The model `{body['model']}` does not exist.")
                choices = [self.choice(body, number) for number in range(body["n"])]
                return 200, {
                    "object": "text_completion",
                    "model": body["model"],
                    "choices": choices,
                    "usage": self.usage,
                }
            case _:
                return 404, {"detail": "Not Found"}

    def choice(self, body: dict[str, Any], number: int) -> dict[str, Any]:
        token_ids, reason, stop_reason = [], "length", None
        for token in rule(body["model"], body["prompt"], number):
            token_ids.append(token)
            if token in body["stop_token_ids"] or (body.get("stop") and token == DELIMITER):
                reason, stop_reason = "stop", "<R>" if token == DELIMITER else None
                break
            if len(token_ids) == body["max_tokens"]:
                break
        choice = {
            "index": number,
            "text": "",
            "finish_reason": reason,
            "stop_reason": stop_reason,
            "token_ids": token_ids,
            "prompt_token_ids": body["prompt"],
        }
        self.change(choice)
        return choice

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def rule(model: str, prompt: Sequence[int], number: int) -> Iterator[int]:
    """What follows a prompt: endless, from everything that it may depend on."""
    draw = random.Random(f"{model} {list(prompt)} {number}")
    while True:
        yield draw.choice([END, DELIMITER, *range(70, 78)])


def failed(status: int, message: str) -> tuple[int, Any]:
    return status, {"error": {"message": message, "type": "error", "code": status}}


@pytest.fixture(autouse=True)
def short_delays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tpo.model.connection, "POLL_S", 0.02)
    monkeypatch.setattr(openai._base_client, "INITIAL_RETRY_DELAY", 0.002)
    monkeypatch.setattr(openai._base_client, "MAX_RETRY_DELAY", 0.02)
    monkeypatch.setenv("FAKE_KEY", KEY)


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A directory in the place of the policy's weights."""
    path = tmp_path / "model-1" / "quantized"
    path.mkdir(parents=True)
    (path / "model.safetensors").write_bytes(b"weights")
    return path


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """A directory in the place of an adapter."""
    path = tmp_path / "train-1" / "epoch-2"
    path.mkdir(parents=True)
    (path / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 12}))
    (path / "adapter_model.safetensors").write_bytes(b"weights")
    return path


@pytest.fixture
def serve(weights: Path) -> Iterator[Callable[..., FakeVllm]]:
    servers: list[FakeVllm] = []

    def start(root: Path | str = weights, **settings: Any) -> FakeVllm:
        servers.append(FakeVllm(str(root), **settings))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def open_engine(weights: Path | str, *urls: str, adapter: Path | None = None, **changes: Any) -> ServerEngine:
    reach = {"max_concurrency": 4, "max_retries": 3, "patience_s": 5.0, "timeout_s": 5.0, **changes}
    config = ServerEngineConfig(base_urls=list(urls), api_key_env="FAKE_KEY", **reach)
    policy = Policy(str(weights), None, "model-1/tokenizer", "bfloat16", 400, adapter, unquantized_path="some/model")
    engine = config.make(policy, chat=Chat(None, frozenset({END})), max_len=300, seed=0)
    assert isinstance(engine, ServerEngine)
    return engine


def requests_of(prompts: Iterable[Sequence[int]], count: int = 3) -> Iterator[Request]:
    for number, prompt in enumerate(prompts):
        yield Request(str(number), prompt, dict.fromkeys(range(count), 0))


def generate(engine: ServerEngine, prompts: Sequence[Sequence[int]], decoding: Decoding) -> list[list[Generation]]:
    """A group for each prompt, in order."""
    samples = list(engine.stream(requests_of(prompts), decoding=decoding))
    found = {(sample.key, sample.sample_index): sample.generation for sample in samples}
    assert len(found) == len(samples), "a sample came twice"
    return [[found[str(at), index] for index in range(3)] for at in range(len(prompts))]


def expected(model: str, prompt: list[int], number: int, *, max_tokens: int, ends: Sequence[int]) -> list[int]:
    """The rule's completion, cut where it ends."""
    token_ids: list[int] = []
    for token in rule(model, prompt, number):
        token_ids.append(token)
        if token in ends or len(token_ids) == max_tokens:
            return token_ids
    raise AssertionError


PROMPTS = [[5, 6, number] for number in range(7, 27)]


def test_completions_are_the_servers_token_ids(serve: Callable[..., FakeVllm], weights: Path) -> None:
    server = serve()
    groups = generate(open_engine(weights, server.url), PROMPTS, PLAIN)
    reasons = set()
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for number, generation in enumerate(group):
            wanted = expected("served", prompt, number, max_tokens=6, ends=[END])
            assert generation == Generation(wanted, "stop" if wanted[-1] == END else "length")
            reasons.add(generation.finish_reason)
    assert reasons == {"stop", "length"}
    assert len(server.sent("completions")) == len(PROMPTS), "a prompt's samples are one request"
    assert server.sent("completions")[0] == {
        "model": "served",
        "prompt": server.sent("completions")[0]["prompt"],
        "n": 3,
        "max_tokens": 6,
        "temperature": 0.8,
        "top_p": 0.95,
        "stop": None,
        "stop_token_ids": [END],
        "include_stop_str_in_output": True,
        "skip_special_tokens": False,
        "return_token_ids": True,
        # Else the server would take them from the model's generation config.
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
    }


def test_thoughts_switch_to_responses_as_in_process(serve: Callable[..., FakeVllm], weights: Path) -> None:
    server = serve()
    groups = generate(open_engine(weights, server.url), PROMPTS, TWO_PHASES)
    kinds = set()
    for prompt, group in zip(PROMPTS, groups, strict=True):
        for number, found in enumerate(group):
            thought = expected("served", prompt, number, max_tokens=6, ends=[END, DELIMITER])
            start = stop = 0
            if thought[-1] != DELIMITER:
                thought = thought[:-1] if thought[-1] == END else thought
                start, stop = len(thought), len(thought) + 2
                thought = [*thought, *SWITCH]
            response = expected("served", [*prompt, *thought], 0, max_tokens=4, ends=[END])
            reason = "stop" if response[-1] == END else "length"
            assert found == Generation([*thought, *response], reason, start, stop)
            kinds.add((stop > 0, reason))
    assert len(kinds) == 4
    assert len(server.sent("completions")) == len(PROMPTS) * 4


def test_several_servers_share_the_prompts(serve: Callable[..., FakeVllm], weights: Path) -> None:
    servers = [serve(seconds=0.02), serve(seconds=0.02)]
    engine = open_engine(weights, *(server.url for server in servers), max_concurrency=2)
    assert generate(engine, PROMPTS, PLAIN) == generate(open_engine(weights, serve().url), PROMPTS, PLAIN)
    counts = [len(server.sent("completions")) for server in servers]
    assert sum(counts) == len(PROMPTS) and min(counts) >= 3
    assert max(server.peak for server in servers) == 2


def test_adapters_are_loaded_used_and_unloaded(serve: Callable[..., FakeVllm], weights: Path, adapter: Path) -> None:
    server = serve()
    engine = open_engine(weights, server.url, adapter=adapter)
    name = adapter_name(adapter)
    for _ in range(2):
        groups = generate(engine, PROMPTS[:3], TWO_PHASES)
    assert {body["model"] for body in server.sent("completions")} == {name}
    assert name.startswith("train-1-epoch-2-") and len(name) == len("train-1-epoch-2-") + 12
    assert server.sent("load_lora_adapter") == [{"lora_name": name, "lora_path": str(adapter.resolve())}]
    engine.close()
    engine.close()
    assert server.sent("unload_lora_adapter") == [{"lora_name": name}]
    assert groups != generate(open_engine(weights, server.url), PROMPTS[:3], TWO_PHASES)


def test_other_weights_are_another_adapter(adapter: Path) -> None:
    name = adapter_name(adapter)
    assert adapter_name(adapter) == name
    (adapter / "adapter_model.safetensors").write_bytes(b"others")
    assert adapter_name(adapter) != name


def test_an_adapter_of_another_run_is_used_and_left(
    serve: Callable[..., FakeVllm], weights: Path, adapter: Path
) -> None:
    server = serve()
    first, second = (open_engine(weights, server.url, adapter=adapter) for _ in range(2))
    groups = generate(first, PROMPTS, PLAIN)
    assert generate(second, PROMPTS, PLAIN) == groups
    second.close()
    assert server.sent("unload_lora_adapter") == []
    generate(second, PROMPTS, PLAIN)
    first.close()
    assert generate(second, PROMPTS, PLAIN) == groups, "loaded again"
    server.script = [None] * 5 + [server.cards.pop]  # as a run that is done unloads it while this one samples
    assert generate(second, PROMPTS, PLAIN) == groups, "even while it samples"
    assert len(server.sent("load_lora_adapter")) == 3


def test_two_runs_may_load_an_adapter_at_once(serve: Callable[..., FakeVllm], weights: Path, adapter: Path) -> None:
    server = serve(seconds=0.05)
    results: list[Any] = []
    engines = [open_engine(weights, server.url, adapter=adapter) for _ in range(2)]
    runs = [threading.Thread(target=lambda e=engine: results.append(generate(e, PROMPTS, PLAIN))) for engine in engines]
    for run in runs:
        run.start()
    for run in runs:
        run.join()
    assert len(results) == 2 and results[0] == results[1]
    for engine in engines:
        engine.close()
    assert len(server.sent("unload_lora_adapter")) == 1, "by the one that loaded it"


@pytest.mark.parametrize("has_adapter", [False, True], ids=["seed_model", "adapter"])
def test_a_restarted_server_is_waited_for(
    serve: Callable[..., FakeVllm], weights: Path, adapter: Path, caplog: pytest.LogCaptureFixture, has_adapter: bool
) -> None:
    caplog.set_level(logging.INFO)
    server = serve()
    engine = open_engine(weights, server.url, adapter=adapter if has_adapter else None, max_concurrency=2)
    server.script = [None] * 6 + [(0, None)] * 100_000  # from the seventh on it hangs up

    def restart() -> None:
        while len(server.sent("completions")) < 8:
            time.sleep(0.005)
        server.close()
        time.sleep(0.1)
        restarted.append(serve(port=server.port))

    restarted: list[FakeVllm] = []
    thread = threading.Thread(target=restart)
    thread.start()
    groups = generate(engine, PROMPTS, PLAIN)
    thread.join()
    num_left = len(PROMPTS) - 6
    assert num_left <= len(restarted[0].sent("completions")) <= num_left + 2 * has_adapter, "first in vain, without it"
    assert len(restarted[0].sent("load_lora_adapter")) == has_adapter, "an adapter that is loaded again"
    name = adapter_name(adapter) if has_adapter else "served"
    wanted = [[expected(name, prompt, number, max_tokens=6, ends=[END]) for number in range(3)] for prompt in PROMPTS]
    assert [[generation.token_ids for generation in group] for group in groups] == wanted
    waits = [record.message for record in caplog.records if "waiting up to" in record.message]
    assert waits and all("prompts are sampled and kept" in line for line in waits)


def test_patience_has_an_end(weights: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}/v1"
    with pytest.raises(
        TpoError, match=r"is away for .*engine.patience_s.*0 prompts are sampled and kept.*set engine.base_urls"
    ):
        generate(open_engine(weights, url, patience_s=0.2), PROMPTS, PLAIN)


def test_what_passes_is_tried_again_and_what_does_not_ends_it(serve: Callable[..., FakeVllm], weights: Path) -> None:
    server = serve()
    engine = open_engine(weights, server.url, max_concurrency=1)
    server.script = [failed(500, "busy"), failed(429, "busy"), (0, None)]
    assert len(generate(engine, PROMPTS, PLAIN)) == len(PROMPTS)
    server.script = [None] * 3 + [failed(500, f"out of memory {KEY}")] * 4
    with pytest.raises(
        TpoError,
        match=r"prompt failed as often as engine.max_retries=3 allows.*out of memory <key>.* 3 prompts are sampled",
    ):
        generate(engine, PROMPTS, PLAIN)
    server.script = [failed(400, "n must be 1 when using greedy sampling")]
    with pytest.raises(TpoError, match="n must be 1 when using greedy sampling"):
        generate(engine, PROMPTS, PLAIN)


# Streaming


def test_prompts_are_taken_as_the_servers_have_room(serve: Callable[..., FakeVllm], weights: Path) -> None:
    servers = [serve(), serve()]
    taken = []

    def endless() -> Iterator[Request]:
        for request in requests_of([5, 6, number] for number in count()):
            taken.append(request)
            yield request

    engine = open_engine(weights, *(server.url for server in servers), max_concurrency=2)
    stream = engine.stream(endless(), decoding=TWO_PHASES)
    for number in range(1, 61):
        next(stream)
        assert len(taken) <= (number - 1) // 3 + 4, "four at a time"
    assert len({next(stream).key for _ in range(30)}) > 5
    stream.close()
    num_asked = sum(len(server.sent("completions")) for server in servers)
    time.sleep(0.1)
    assert sum(len(server.sent("completions")) for server in servers) == num_asked, "nothing goes on"


def test_a_response_does_not_wait_for_another_thought(serve: Callable[..., FakeVllm], weights: Path) -> None:
    server = serve()
    hold = threading.Event()
    handle = server.handle

    def held(handler: BaseHTTPRequestHandler, body: Any) -> None:
        if body and body.get("prompt") == PROMPTS[0]:
            hold.wait(10)
        handle(handler, body)

    server.handle = held  # type: ignore[method-assign]
    stream = open_engine(weights, server.url, max_concurrency=2).stream(requests_of(PROMPTS[:5]), decoding=TWO_PHASES)
    first = [next(stream).key for _ in range(12)]
    assert sorted(set(first)) == ["1", "2", "3", "4"] and not hold.is_set()
    hold.set()
    assert [sample.key for sample in stream] == ["0"] * 3


def test_what_was_finished_comes_before_the_error(serve: Callable[..., FakeVllm], weights: Path) -> None:
    server = serve()
    server.script = [None] * 5 + [failed(400, "no more")]
    stream = open_engine(weights, server.url, max_concurrency=3).stream(requests_of(PROMPTS), decoding=PLAIN)
    samples = []
    with pytest.raises(TpoError, match="no more"):
        for sample in stream:
            samples.append(sample)
    assert len(samples) in {15, 18, 21}, "those under way with it too"


def test_an_error_of_the_prompts_reaches_the_caller(serve: Callable[..., FakeVllm], weights: Path) -> None:
    def broken() -> Iterator[Request]:
        yield from requests_of(PROMPTS[:2])
        raise KeyError("prompt")

    with pytest.raises(KeyError, match="prompt"):
        list(open_engine(weights, serve().url).stream(broken(), decoding=PLAIN))


# What the server says of itself


@pytest.mark.parametrize("root", ["some/model", "absent/quantized", ""])
def test_a_server_of_another_model_is_refused(serve: Callable[..., FakeVllm], weights: Path, root: str) -> None:
    server = serve(root=root)
    with pytest.raises(TpoError) as caught:
        generate(open_engine(weights, server.url), PROMPTS, PLAIN)
    for part in (f"{root} as served", str(weights), "quantized values", "--tokenizer model-1/tokenizer"):
        assert part in str(caught.value)
    assert server.sent("completions") == []


def test_a_server_that_does_not_name_its_weights_is_refused(serve: Callable[..., FakeVllm], weights: Path) -> None:
    server = serve()
    del server.cards[0]["root"]
    with pytest.raises(TpoError, match="serves None as served, and the policy's weights are"):
        generate(open_engine(weights, server.url), PROMPTS, PLAIN)
    server.cards.clear()
    with pytest.raises(TpoError, match="serves no model, and the policy's weights are"):
        generate(open_engine(weights, server.url), PROMPTS, PLAIN)


def test_the_same_weights_are_recognized(
    serve: Callable[..., FakeVllm], weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert generate(open_engine("model-1/quantized", serve(root=weights).url), PROMPTS[:1], PLAIN)
    assert generate(open_engine("some/model", serve(root="some/model").url), PROMPTS[:1], PLAIN)
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"weights")
    assert generate(open_engine(weights, serve(root=other).url), PROMPTS[:1], PLAIN), "a copy"
    (other / "model.safetensors").write_bytes(b"WEIGHTS")
    with pytest.raises(TpoError, match="the policy's weights are"):
        generate(open_engine(weights, serve(root=other).url), PROMPTS[:1], PLAIN)


def test_a_short_context_is_refused(serve: Callable[..., FakeVllm], weights: Path) -> None:
    assert generate(open_engine(weights, serve(max_model_len=300).url), PROMPTS[:1], PLAIN)
    with pytest.raises(TpoError, match="may take 300 tokens.*--max-model-len 299: start it with 400"):
        generate(open_engine(weights, serve(max_model_len=299).url), PROMPTS, PLAIN)


@pytest.mark.parametrize(("tail", "message"), [("", "HTTP 404.*Does engine.base_urls end with /v1"), ("/v1/v1", "/v1")])
def test_a_wrong_address_is_told(serve: Callable[..., FakeVllm], weights: Path, tail: str, message: str) -> None:
    with pytest.raises(TpoError, match=message):
        generate(open_engine(weights, serve().url.removesuffix("/v1") + tail), PROMPTS, PLAIN)


REFUSED_ADAPTERS = {
    "no_route": (404, "Not Found"),
    "not_visible": (404, "Loading lora failed: No adapter found for /somewhere"),
    "rank": (500, "LoRA rank 12 is greater than max_lora_rank 8."),
}


@pytest.mark.parametrize("name", REFUSED_ADAPTERS)
def test_a_refused_adapter_is_told(serve: Callable[..., FakeVllm], weights: Path, adapter: Path, name: str) -> None:
    server = serve()
    server.adapter_reply = REFUSED_ADAPTERS[name]
    with pytest.raises(TpoError) as caught:
        generate(open_engine(weights, server.url, adapter=adapter), PROMPTS, PLAIN)
    told = str(caught.value)
    for part in (REFUSED_ADAPTERS[name][1], str(adapter), "VLLM_ALLOW_RUNTIME_LORA_UPDATING=1", "--max-lora-rank 16"):
        assert part in told
    assert len(server.sent("load_lora_adapter")) == 1 and server.sent("completions") == []
    assert caught.value.__context__ is None and caught.value.__cause__ is None, "their messages may hold the key"


# What the server returns


def changed(**values: Any) -> Callable[[dict[str, Any]], None]:
    def change(choice: dict[str, Any]) -> None:
        if choice["prompt_token_ids"] != PROMPTS[0]:  # the first is good
            choice.update(values)

    return change


UNUSABLE: dict[str, tuple[dict[str, Any], str]] = {
    "no_ids": ({"token_ids": None}, "returns no token ids.*only the tokens that were sampled can be trained on"),
    "prompt": ({"prompt_token_ids": [0, 5, 6, 7]}, "put other tokens before the completion than were sent"),
    "cut": (
        {"token_ids": [70, 71], "finish_reason": "length"},
        r"after 2 of 6 tokens \(finish_reason=length, last token 71\).*neither the budget",
    ),
    "foreign_end": (
        {"token_ids": [70, 2], "finish_reason": "stop"},
        r"after 2 of 6 tokens .*last token 2\).*policy's tokenizer",
    ),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_what_cannot_be_trained_on_is_refused(serve: Callable[..., FakeVllm], weights: Path, name: str) -> None:
    values, message = UNUSABLE[name]
    server = serve()
    server.change = changed(**values)
    with pytest.raises(TpoError, match=message):
        generate(open_engine(weights, server.url, max_concurrency=1), PROMPTS, PLAIN)
    assert len(server.sent("completions")) == 2, "no further ones are asked for"


DAMAGED: list[Any] = [
    {"object": "text_completion", "choices": []},
    {"error": {"message": "upstream is gone"}},
    "null",
]


@pytest.mark.parametrize("reply", DAMAGED)
def test_an_answer_that_cannot_be_used_is_asked_for_again(
    serve: Callable[..., FakeVllm], weights: Path, monkeypatch: pytest.MonkeyPatch, reply: Any
) -> None:
    monkeypatch.setattr("tpo.model.connection.FIRST_DELAY_S", 0.001)
    server = serve()
    server.script = [(200, reply)] * 2
    assert len(generate(open_engine(weights, server.url), PROMPTS, PLAIN)) == len(PROMPTS)
    server.script = [(200, reply)] * 99
    with pytest.raises(TpoError, match=r"answer to one prompt cannot be used .*engine\.max_retries=3 allows"):
        generate(open_engine(weights, server.url), PROMPTS, PLAIN)


@pytest.mark.parametrize("usage", [None, {}, {"total_tokens": None}, {"total_tokens": "many"}, {"total_tokens": 9.5}])
def test_a_completion_is_used_whatever_is_said_of_its_tokens(
    serve: Callable[..., FakeVllm], weights: Path, usage: Any
) -> None:
    server = serve()
    server.usage = usage
    assert len(generate(open_engine(weights, server.url), PROMPTS, PLAIN)) == len(PROMPTS)
    assert len(server.sent("completions")) == len(PROMPTS), "each once"


def test_an_aborted_completion_is_asked_for_again(
    serve: Callable[..., FakeVllm], weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tpo.model.connection.FIRST_DELAY_S", 0.001)
    server = serve()
    server.change = changed(token_ids=[], finish_reason="abort")
    with pytest.raises(TpoError, match=r"cannot be used \(it ended with finish_reason=abort.*max_retries=3"):
        generate(open_engine(weights, server.url, max_concurrency=1), PROMPTS, PLAIN)


def test_the_key_is_sent_and_not_shown(
    serve: Callable[..., FakeVllm], weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server = serve()
    keys: list[str] = []
    handle = server.handle

    def look(handler: BaseHTTPRequestHandler, body: Any) -> None:
        keys.append(handler.headers["Authorization"])
        handle(handler, body)

    server.handle = look  # type: ignore[method-assign]
    generate(open_engine(weights, server.url), PROMPTS[:2], PLAIN)
    assert set(keys) == {f"Bearer {KEY}"}
    generate(open_engine(weights, server.url.replace("//", "//user:password@")), PROMPTS[:2], PLAIN)
    assert KEY not in caplog.text and "password" not in caplog.text
