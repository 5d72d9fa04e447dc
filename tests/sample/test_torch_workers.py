"""Several torch engines in processes of their own: the same samples as one engine's, and how many there are."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import torch

from tpo.config.fields import ConfigError, check_fields, identity
from tpo.model.chat import Chat, load_tokenizer
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Engine, Generation, Request
from tpo.sample.engines.torch import TorchEngineConfig
from tpo.sample.engines.torch.engine import TorchEngine
from tpo.sample.engines.torch.workers import TorchWorkers
from tpo.store.errors import TpoError
from tpo.store.processes.cores import AUTO

DECODING = Decoding(temperature=0.9, top_p=0.95, max_tokens=16)


def make(path: Path, num_workers: int, *, adapter_path: Path | None = None) -> Engine:
    tokenizer = load_tokenizer(path)
    policy = Policy(str(path), None, str(path), "float32", 1024, adapter_path)
    chat = Chat(tokenizer, frozenset({tokenizer.eos_token_id}))
    settings = TorchEngineConfig(max_sequences=6, num_workers=num_workers)
    return settings.make(policy, chat=chat, max_len=256, seed=0)


def requests() -> Iterator[Request]:
    for number in range(12):
        seeds = {index: 100 * number + index for index in range(1 + number % 3)}
        yield Request(f"prompt-{number}", [5 + number] * (1 + 3 * number), seeds)


def sample(engine: Engine) -> dict[tuple[str, int], Generation]:
    return {(key, index): generation for key, index, generation in engine.stream(requests(), decoding=DECODING)}


@pytest.fixture(scope="module")
def expected(tiny_model: Path) -> dict[tuple[str, int], Generation]:
    with closing(make(tiny_model, 1)) as engine:
        assert isinstance(engine, TorchEngine)
        return sample(engine)


@pytest.mark.parametrize("num_workers", [2, 3])
def test_samples_do_not_depend_on_the_number_of_workers(
    num_workers: int, expected: dict[tuple[str, int], Generation], tiny_model: Path
) -> None:
    assert len(expected) == 24
    with closing(make(tiny_model, num_workers)) as engine:
        assert isinstance(engine, TorchWorkers) and engine.uses_seeds
        assert sample(engine) == expected
        assert sample(engine) == expected, "and once more, of the same workers"


def test_what_the_engine_refuses_is_said(tiny_model: Path) -> None:
    with (
        closing(make(tiny_model, 2)) as engine,
        pytest.raises(TpoError, match=r"worker . of 2 failed: ValueError: .* may take 256\d tokens"),
    ):
        list(engine.stream([Request("long", [7] * 2550, {0: 0})], decoding=DECODING))
    with pytest.raises(TpoError, match=r"^nowhere \(model.name\): it cannot be loaded \(OSError: "):
        missing = Policy("nowhere", None, "nowhere", "float32", 1024, None)
        chat = Chat(load_tokenizer(tiny_model), frozenset({1}))
        settings = TorchEngineConfig(max_sequences=6, num_workers=2)
        next(settings.make(missing, chat=chat, max_len=256, seed=0).stream([], decoding=DECODING))


def test_several_workers_are_for_cpus(tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(TpoError, match="engine.num_workers=2: a GPU computes for one process: set it to 1 or auto"):
        make(tiny_model, 2)


@pytest.mark.parametrize("num_workers", [0, -1, 1.5, "many", None, True])
def test_wrong_numbers_are_refused(num_workers: Any) -> None:
    with pytest.raises(ConfigError, match="engine.num_workers="):
        check_fields(TorchEngineConfig(max_sequences=6, num_workers=num_workers), "engine")


def test_the_number_of_workers_is_no_part_of_the_identity() -> None:
    several, automatic = (TorchEngineConfig(max_sequences=6, num_workers=number) for number in (3, AUTO))
    assert identity(several) == identity(automatic)
