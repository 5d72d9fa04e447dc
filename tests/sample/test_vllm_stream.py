"""How requests stream through vLLM, over a fake of its engine; the real one is in test_vllm_engine.py."""

import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import count
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tpo.config.fields import restore
from tpo.judge.llm import local
from tpo.judge.llm.question import Question
from tpo.judge.llm.settings import LLMConfig
from tpo.model.policy import Policy
from tpo.sample.decoding import Decoding, Generation, Request
from tpo.sample.engines import vllm as engines
from tpo.sample.engines.vllm import VllmEngine, VllmEngineConfig, VllmLive, _serves
from tpo.store.seeds import derive_seed

END, DELIMITER, SWITCH = 1, 50, (60, 61)
PLAIN = Decoding(temperature=0.8, top_p=0.95, max_tokens=6)
TWO_PHASES = replace(PLAIN, max_response_tokens=4, response_delimiter="<R>", switch_ids=SWITCH)
POLICY = Policy("model", None, "tokenizer", "float32", 512, None)


@dataclass
class Added:
    prompt_ids: list[int]
    decoding: dict[str, Any]
    priority: int


class FakeEngine:
    """vLLM's engine: `size` requests are computed at a time, the last of them finishes first, each a token long."""

    def __init__(self, size: int = 4) -> None:
        self.size = size
        self.llm_engine = self  # of a `vllm.LLM`
        self.waiting: dict[str, Added] = {}
        self.added: list[Added] = []
        self.aborted: list[str] = []
        self.peak = 0

    def add_request(self, name: str, prompt: Any, decoding: Any, *, lora_request: Any, priority: int) -> None:
        assert name not in self.waiting
        self.added.append(Added(prompt["prompt_token_ids"], decoding, priority))
        self.waiting[name] = self.added[-1]
        self.peak = max(self.peak, len(self.waiting))

    def step(self) -> list[Any]:
        first = sorted(self.waiting, key=lambda name: self.waiting[name].priority)[: self.size]
        name = first[-1]
        added = self.waiting.pop(name)
        is_thought = added.decoding["stop"] is not None if "stop" in added.decoding else False
        sample = SimpleNamespace(
            token_ids=[70, END] if is_thought else [len(added.prompt_ids), END],
            finish_reason="stop",
            stop_reason=END,
            text="yes",
            logprobs=None,
        )
        output = SimpleNamespace(request_id=name, finished=True, outputs=[sample], prompt_token_ids=added.prompt_ids)
        return [SimpleNamespace(finished=False), output]

    def abort_request(self, names: list[str]) -> None:
        self.aborted += names
        for name in names:
            del self.waiting[name]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """A fake in vLLM's place."""
    engine = FakeEngine()
    module, parameters = ModuleType("vllm"), ModuleType("vllm.sampling_params")
    module.SamplingParams = module.TokensPrompt = dict  # type: ignore[attr-defined]
    parameters.RequestOutputKind = SimpleNamespace(FINAL_ONLY=2, DELTA=1)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", module)
    monkeypatch.setitem(sys.modules, "vllm.sampling_params", parameters)
    for user in (engines, local):
        monkeypatch.setattr(user, "start_vllm", lambda **_: engine)
    return engine


def open_engine(max_num_seqs: int = 4) -> VllmEngine:
    settings = VllmEngineConfig(max_num_seqs=max_num_seqs, gpu_memory_utilization=0.1)
    return VllmEngine(settings, POLICY, end_ids=frozenset({END}), seed=0)


def endless(taken: list[str], num_samples: int = 3) -> Iterator[Request]:
    for number in count():
        taken.append(str(number))
        yield Request(str(number), [5] * (number + 1), {index: 100 * number + index for index in range(num_samples)})


@pytest.mark.parametrize("decoding", [PLAIN, TWO_PHASES], ids=["whole", "two_phases"])
def test_requests_are_taken_as_there_is_room(fake: FakeEngine, decoding: Decoding) -> None:
    taken: list[str] = []
    stream = open_engine().stream(endless(taken), decoding=decoding)
    assert fake.added == []
    found = []
    for number in range(1, 100):
        found.append(next(stream))
        assert len(fake.waiting) == 7, "twice as many as decode at a time, less the one that has ended"
        assert len(taken) <= (number + 8) / 3 + 1
    assert fake.peak == 8
    assert len({(sample.key, sample.sample_index) for sample in found}) == 99
    under_way = set(fake.waiting)
    stream.close()  # type: ignore[attr-defined]
    assert set(fake.aborted) == under_way and fake.waiting == {}


def test_a_thought_s_response_comes_before_samples_that_have_not_begun(fake: FakeEngine) -> None:
    requests = [Request(str(number), [5] * 9, {0: number}) for number in range(12)]
    samples = list(open_engine().stream(requests, decoding=TWO_PHASES))
    assert sorted(sample.key for sample in samples) == sorted(str(number) for number in range(12))
    for sample in samples:
        assert sample.generation == Generation([70, *SWITCH, 12, END], "stop", 1, 3)
    responses = [added for added in fake.added if added.priority == 0]
    assert [added.prompt_ids for added in responses] == [[5] * 9 + [70, *SWITCH]] * 12
    assert {added.decoding["max_tokens"] for added in responses} == {4}
    assert {added.decoding["max_tokens"] for added in fake.added if added.priority == 1} == {6}


@pytest.mark.parametrize("is_cuda", [False, True])
def test_samples_have_seeds_of_their_own_on_cuda_alone(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch, is_cuda: bool
) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: is_cuda)
    engine = open_engine()
    list(engine.stream([Request("a", [5], {0: 7, 1: 8})], decoding=TWO_PHASES))
    expected = {7, 8, derive_seed(7, "response"), derive_seed(8, "response")} if is_cuda else {None}
    assert {added.decoding["seed"] for added in fake.added} == expected and len(fake.added) == 4
    assert engine.uses_seeds is is_cuda


def test_questions_are_taken_as_there_is_room_and_too_long_ones_are_told(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render(_: Any, key: str, question: Question) -> local.Rendered:
        return local.Rendered(key, [5] * len(question.user), "", question)

    monkeypatch.setattr(local.LocalBackend, "render", render)
    settings = {"max_num_seqs": 4, "max_model_len": 100}
    backend = local.LocalBackend(
        restore(LLMConfig, {"backend": "vllm", "name": "model", "max_tokens": 8, "vllm": settings}), None
    )
    taken = []

    def questions(lengths: Iterator[int]) -> Iterator[tuple[str, Question]]:
        for number, length in enumerate(lengths):
            taken.append(number)
            yield str(number), Question(None, "x" * length, 0.0, 8)

    assert [(key, answer.error) for key, answer in backend.stream(questions(iter([93, 94])))] == [
        ("0", "too_long"),
        ("1", "too_long"),
    ]
    assert fake.added == []
    taken.clear()
    stream = backend.stream(questions(93 if number % 5 == 1 else 50 for number in count()))
    found = dict(next(stream) for _ in range(60))
    assert len(found) == 60 and len(taken) <= 60 + 8 + 2
    assert {key for key, answer in found.items() if answer.error} == {key for key in found if int(key) % 5 == 1}
    stream.close()  # type: ignore[attr-defined]
    assert fake.waiting == {} and fake.aborted


class FakePartialEngine(FakeEngine):
    """vLLM's engine that gives every request one more token a step: two, and then its end."""

    def step(self) -> list[Any]:
        found = []
        for name, added in list(self.waiting.items()):
            assert added.decoding["output_kind"] == 1
            number = added.decoding["told"] = added.decoding.get("told", 0) + 1
            is_last = number == 3
            if is_last:
                del self.waiting[name]
            sample = SimpleNamespace(
                token_ids=[END if is_last else 70 + number], finish_reason="stop" if is_last else None, stop_reason=END
            )
            found.append(SimpleNamespace(request_id=name, finished=is_last, outputs=[sample]))
        return found


def test_pieces_of_a_thought_its_switch_and_its_response_add_up(
    fake: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_engine()
    engine.llm = FakePartialEngine()
    live = VllmLive(engine, max_sequences=4)
    live.add(Request("a", [5], {0: 1}), TWO_PHASES)
    live.add(Request("b", [5, 5], {0: 1}), PLAIN)
    live.add(Request("c", [5, 5, 5], {0: 1}), PLAIN)
    pieces: dict[str, list[int]] = {"a": [], "b": [], "c": []}
    ends = {}
    while len(live):
        for progress in live.step():
            pieces[progress.key] += progress.token_ids
            if progress.generation is not None:
                ends[progress.key] = progress.generation
        live.cancel("c")
    assert ends == {
        "a": Generation([71, 72, *SWITCH, 71, 72, END], "stop", 2, 4),
        "b": Generation([71, 72, END], "stop"),
    }
    assert {key: pieces[key] for key in ends} == {key: end.token_ids for key, end in ends.items()}
    assert pieces["c"] == [71] and engine.llm.aborted == ["2"]
    assert [added.prompt_ids for added in engine.llm.added][-1] == [5, 71, 72, *SWITCH]


def test_one_vllm_serves_a_model_with_its_adapter_and_without() -> None:
    plain = {"model": "a", "dtype": "bfloat16"}
    small = {**plain, "enable_lora": True, "max_lora_rank": 8}
    large = {**small, "max_lora_rank": 16}
    assert _serves(small, plain) and _serves(small, small) and _serves(large, small)
    assert not _serves(plain, small) and not _serves(small, large) and not _serves(small, {**plain, "model": "b"})
