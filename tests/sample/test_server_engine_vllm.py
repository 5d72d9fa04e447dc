"""Sampling through vLLM's own server: the tokens of the torch engine, with adapters loaded as they come."""

import json
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from msgspec import structs
from real_vllm import Server
from test_torch_engine import DELIMITER, generate, make_adapter, random_prompts, switching

import tpo.sample.completions
from tpo.config.thought import DIRECT
from tpo.model.chat import Chat, load_tokenizer, save_tokenizer
from tpo.model.policy import Policy
from tpo.sample.completions import write_completions
from tpo.sample.decoding import EngineSettings
from tpo.sample.engines.server import ServerEngine, ServerEngineConfig
from tpo.sample.engines.server.vllm_server import adapter_name
from tpo.sample.engines.torch import TorchEngineConfig
from tpo.sample.sources.builtin import load_builtin
from tpo.store.errors import TpoError
from tpo.store.records import Completion, read_records

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1200)]

TORCH = TorchEngineConfig(max_sequences=16)
SETTINGS = {"num_samples": 1, "temperature": 0.0, "top_p": 1.0, "max_thought_tokens": 8, "max_response_tokens": 24}
PROMPTS = [prompt for prompt in load_builtin() if len(prompt.text) < 100][:6]


@pytest.fixture(scope="module")
def model(embedded_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The embedded model as the model stage writes it."""
    pytest.importorskip("vllm")
    path = tmp_path_factory.mktemp("model")
    (path / "model").symlink_to(embedded_model)
    save_tokenizer(path / "model", path / "tokenizer")
    return path


@pytest.fixture(scope="module")
def server(model: Path) -> Iterator[Server]:
    options = ["--max-model-len", "256", "--max-num-seqs", "16", "--enable-lora", "--max-lora-rank", "8"]
    server = Server(model, options, {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"})
    server.start()
    yield server
    server.kill()


@pytest.fixture(scope="module")
def adapter(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_adapter(model / "model", tmp_path_factory.mktemp("train-1") / "epoch-1")


def policy_of(model: Path, adapter: Path | None = None) -> Policy:
    return Policy(str(model / "model"), None, str(model / "tokenizer"), "float32", 256, adapter)


def engine_settings(*servers: Server) -> ServerEngineConfig:
    reach = {"max_concurrency": 4, "max_retries": 2, "patience_s": 10.0, "timeout_s": 600.0}
    return ServerEngineConfig(base_urls=[server.url for server in servers], api_key_env="NO_KEY", **reach)


def open_engine(server: Server, policy: Policy, *, end_ids: frozenset[int], max_tokens: int = 200) -> ServerEngine:
    return ServerEngine(engine_settings(server), policy, end_ids=end_ids, max_tokens=max_tokens)


def served(server: Server) -> list[str]:
    with urllib.request.urlopen(f"{server.url}/models", timeout=60) as reply:
        return [card["id"] for card in json.load(reply)["data"]]


def sample_rows(path: Path, policy: Policy, settings: EngineSettings) -> list[Completion]:
    path.mkdir()
    write_completions(path, PROMPTS, policy, DIRECT, settings=SETTINGS, engine_settings=settings, seed=0)
    return [structs.replace(row, seed=-1) for row in read_records(path / "rows.jsonl", Completion)]


def test_the_server_samples_what_the_torch_engine_does(
    model: Path, server: Server, adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = load_tokenizer(model / "tokenizer")
    ends = frozenset({tokenizer.eos_token_id, *tokenizer.encode(".")})  # so that some completions end early
    monkeypatch.setattr(tpo.sample.completions, "load_chat", lambda _: Chat(tokenizer, ends))
    rows = {}
    for name, path in (("seed", None), ("adapter", adapter)):
        policy = policy_of(model, path)
        rows[name] = sample_rows(tmp_path / f"{name}_server", policy, engine_settings(server))
        assert rows[name] == sample_rows(tmp_path / f"{name}_torch", policy, TORCH)
    assert [row.completion_ids for row in rows["seed"]] != [row.completion_ids for row in rows["adapter"]]
    assert {row.finish_reason for row in rows["seed"]} == {"stop", "length"}
    assert len(served(server)) == 1, "no adapter is left"


def test_two_servers_sample_what_one_engine_does(model: Path, server: Server, adapter: Path, tmp_path: Path) -> None:
    other = Server(model, server.options, server.environment)
    try:
        other.start()
        before = [each.num_answered() for each in (server, other)]
        rows = sample_rows(tmp_path / "two", policy_of(model, adapter), engine_settings(server, other))
        shares = [each.num_answered() - done for each, done in zip((server, other), before, strict=True)]
        assert sum(shares) == len(PROMPTS) and all(shares), "from one queue"
        assert [len(served(each)) for each in (server, other)] == [1, 1], "no adapter is left"
        assert rows == sample_rows(tmp_path / "torch", policy_of(model, adapter), TORCH)
    finally:
        other.kill()


def test_thoughts_are_switched(model: Path, server: Server, adapter: Path) -> None:
    tokenizer = load_tokenizer(model / "tokenizer")
    switch = switching(tokenizer, thought=6, response=7)
    assert switch.switch_ids is not None and DELIMITER in tokenizer.decode(switch.switch_ids)
    ends = frozenset({tokenizer.eos_token_id, *tokenizer.encode(" the and of to a in , .")})
    engine = open_engine(server, policy_of(model, adapter), end_ids=ends)
    groups = generate(engine, random_prompts(0, lengths=(2, 9, 33, 90)), seeds=[[0] * 4] * 4, decoding=switch)
    assert adapter_name(adapter) in served(server)
    engine.close()
    flat = [generation for group in groups for generation in group]
    assert len(flat) == 16
    for generation in flat:
        ids, start, stop = generation.token_ids, generation.forced_start, generation.forced_stop
        assert tuple(ids[start:stop]) == switch.switch_ids and start <= 6
        ended = [at for at, token in enumerate(ids) if token in ends and not start <= at < stop]
        assert ended == ([len(ids) - 1] if generation.finish_reason == "stop" else [])
        assert 1 <= len(ids) - stop <= 7
        assert generation.finish_reason == "stop" or len(ids) - stop == 7
    assert len({tuple(generation.token_ids) for generation in flat}) > 8, "samples differ"


def test_the_server_is_refused_where_it_is_another(model: Path, server: Server, adapter: Path, tmp_path: Path) -> None:
    def message(policy: Policy, **changes: Any) -> str:
        engine = open_engine(server, policy, end_ids=frozenset({2}), **changes)
        with pytest.raises(TpoError) as caught:
            switch = switching(load_tokenizer(model / "tokenizer"), thought=2, response=2)
            generate(engine, [[5, 6, 7]], seeds=[[0]], decoding=switch)
        engine.close()
        return str(caught.value)

    other = replace(policy_of(model), model_path="someone/else")
    assert f"serves {model / 'model'} as {model / 'model'}, and the policy's weights are someone/else" in message(other)
    assert "--max-model-len 256" in message(policy_of(model), max_tokens=257)
    too_wide = make_wide(adapter, tmp_path / "train-2" / "epoch-1")
    found = message(policy_of(model, too_wide))
    assert str(too_wide) in found and "HTTP 500" in found and "--max-lora-rank 16 or above" in found
    absent = tmp_path / "train-3" / "epoch-1"
    found = message(policy_of(model, make_wide(adapter, absent, weights=False)))
    assert str(absent) in found and "must see this very directory" in found
    assert len(served(server)) == 1


def make_wide(adapter: Path, directory: Path, *, weights: bool = True) -> Path:
    """Copy an adapter under a rank that the server does not allow, or without its weights."""
    directory.mkdir(parents=True)
    for file in adapter.iterdir():
        if weights or file.suffix != ".safetensors":
            (directory / file.name).write_bytes(file.read_bytes())
    config = json.loads((adapter / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(config | ({"r": 12} if weights else {})))
    return directory
