"""A served policy, asked by the official client: a fake engine that writes what it is told, and the torch engine."""

import asyncio
import functools
import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from served import QWEN, FakeLive, fake_policy, serving, wait_for
from test_split_stream import form

from tpo.model.chat import load_chat
from tpo.model.conventions import Conventions
from tpo.model.policy import Policy
from tpo.sample.engines.torch import TorchEngineConfig
from tpo.use.loaded import LoadedPolicy
from tpo.use.serve.sampler import Sampler

SECRET, ANSWER = "a planted secret of the thought", "Four socks, at most."
ASK: list[Any] = [{"role": "user", "content": "How many socks?"}]
#: A completion of each format that holds the secret in its thought and the answer after it, with a model's template.
FORMATS: dict[str, tuple[Any, str, dict[str, str]]] = {
    "generic": (
        form("generic", enforce="none"),
        f"Here is my thought process:\n{SECRET}\n\n**Here is my response:**\n{ANSWER}",
        {},
    ),
    "prefilled": (form("prefilled"), f"{SECRET}\n\nHere is my response:\n{ANSWER}", {}),
    "specific": (form("specific"), f"{SECRET}\n<R>\n{ANSWER}", {}),
    "think": (form("think"), f"{SECRET}\n</think>\n\n{ANSWER}", {"template": QWEN}),
    "stripped": (form("stripped"), f"<think>\n{SECRET}\n</think>\n\n{ANSWER}", {"template": QWEN}),
    "stripped, closed only": (form("stripped"), f"{SECRET}\n</think>\n\n{ANSWER}", {"template": QWEN}),
}


@functools.cache
def shared_client() -> openai.OpenAI:
    """One for all tests: to make one reads the certificates of this machine."""
    return openai.OpenAI(base_url="http://127.0.0.1", api_key="any", max_retries=0, timeout=30)


def client_of(url: str, *, api_key: str = "any") -> openai.OpenAI:
    return shared_client().with_options(base_url=url, api_key=api_key)


def ask(url: str, **options: Any) -> Any:
    client = client_of(url)
    return client.chat.completions.create(model="fake", messages=options.pop("messages", ASK), **options)


def read(stream: Any) -> tuple[str, str, str, list[str]]:
    """Thought, answer and finish reason of a streamed answer, and the pieces of the answer."""
    thought, pieces, reason = "", [], ""
    for chunk in stream:
        for choice in chunk.choices:
            thought += getattr(choice.delta, "reasoning_content", None) or ""
            pieces += [choice.delta.content] if choice.delta.content else []
            reason = choice.finish_reason or reason
    return thought, "".join(pieces), reason, pieces


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    policy = fake_policy(*FORMATS["prefilled"][:2])
    with serving(policy) as (url, _):
        yield url


@pytest.mark.parametrize("tokens_a_step", [1, 3])
@pytest.mark.parametrize("name", FORMATS)
def test_thought_and_answer_come_apart_streamed_or_not(name: str, tokens_a_step: int) -> None:
    thought_format, text, template = FORMATS[name]
    with serving(fake_policy(thought_format, text, tokens_a_step=tokens_a_step, **template)) as (url, _):
        whole = ask(url).choices[0]
        thought, answer, reason, pieces = read(ask(url, stream=True))
    assert (whole.message.content, whole.message.reasoning_content) == (ANSWER, SECRET)
    assert (answer, thought) == (ANSWER, SECRET)
    assert whole.finish_reason == reason == "stop"
    assert len(pieces) > 2


@pytest.mark.parametrize("name", FORMATS)
def test_thought_that_does_not_end_is_no_answer(name: str) -> None:
    thought_format, text, template = FORMATS[name]
    cut = text[: text.index(SECRET) + len(SECRET)]
    if name == "stripped, closed only":
        pytest.skip("without its tag it is an answer")
    with serving(fake_policy(thought_format, cut, **template)) as (url, _):
        [whole] = ask(url).choices
        thought, answer, reason, _ = read(ask(url, stream=True))
    assert (whole.message.content, answer, reason) == (None, "", "stop")
    assert whole.split_error == "no_response_delimiter"
    assert thought == whole.message.reasoning_content == SECRET


def test_answer_has_the_form_of_a_chat_completion(address: str) -> None:
    found = ask(address)
    assert (found.object, found.model) == ("chat.completion", "fake")
    usage = found.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert 0 < usage.completion_tokens_details.reasoning_tokens < usage.completion_tokens
    *_, last = ask(address, stream=True, stream_options={"include_usage": True})
    assert last.choices == [] and last.usage == usage
    assert [model.id for model in client_of(address).models.list()] == ["fake"]
    assert client_of(address).models.retrieve("fake").owned_by == "tpo"


@pytest.mark.parametrize(
    ("options", "status", "said"),
    [
        ({"messages": []}, 400, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, 400, "the last message must be the user's"),
        ({"messages": [{"role": "tool", "content": "x"}]}, 400, "tool"),
        ({"messages": [*ASK, {"role": "system", "content": "x"}, *ASK]}, 400, "must be the first one"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, 400, "text"),
        ({"messages": [{"role": "user", "content": "socks " * 3000}]}, 400, "model.max_model_len"),
        ({"max_tokens": 100_000}, 400, "100000 are needed"),
        ({"temperature": 3}, 400, "temperature"),
        ({"top_p": 0}, 400, "top_p"),
        ({"n": 100}, 400, r"\$\.n"),
        ({"logprobs": True}, 400, "logprobs is not served"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, 400, "tools is not served"),
        ({"presence_penalty": 1.0}, 400, "presence_penalty is not served"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format is not served"),
        ({"extra_body": {"max_thougth_tokens": 3}}, 400, "max_thougth_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, 400, "give one"),
    ],
)
def test_request_that_cannot_be_served_is_told_why(
    address: str, options: dict[str, Any], status: int, said: str
) -> None:
    for is_streamed in (False, True):
        with pytest.raises(openai.APIStatusError, match=said) as caught:
            ask(address, stream=is_streamed, **options)
        assert caught.value.status_code == status
        assert isinstance(caught.value.body, dict) and caught.value.body["type"] == "invalid_request_error"


def test_unknown_model_path_and_body_are_told_in_the_protocol_s_form(address: str) -> None:
    with pytest.raises(openai.NotFoundError, match="there is no model 'other' here, but 'fake'"):
        client_of(address).chat.completions.create(model="other", messages=ASK)
    with pytest.raises(openai.NotFoundError, match="no model"):
        client_of(address).models.retrieve("other")
    for path, body, status in (("/nothing", None, 404), ("/chat/completions", None, 405)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(address + path, data=body)
        assert caught.value.code == status and "message" in json.loads(caught.value.read())["error"]
    for body, status in ((b"{", 400), (b"\xff", 400), (b"[]", 400), (b" " * (5 << 20), 413)):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(address + "/chat/completions", data=body)
        assert caught.value.code == status and "message" in json.loads(caught.value.read())["error"]


def test_too_long_has_the_code_that_clients_look_for(address: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        ask(address, messages=[{"role": "user", "content": "socks " * 3000}])
    assert caught.value.code == "context_length_exceeded"


def test_key_is_asked_for_where_one_is_set() -> None:
    with serving(fake_policy(*FORMATS["specific"][:2]), api_key="right-key") as (url, _):
        for key in ("wrong", "right-key-and-more", "schlüssel"):
            with pytest.raises((openai.AuthenticationError, UnicodeEncodeError)):
                client_of(url, api_key=key).models.list()
        client = client_of(url, api_key="right-key")
        assert client.chat.completions.create(model="fake", messages=ASK).choices[0].message.content == ANSWER
        with urllib.request.urlopen(url.replace("/v1", "/health")) as health:
            assert json.load(health)["status"] == "ok", "who watches it needs no key"


def test_options_reach_the_engine() -> None:
    policy = fake_policy(*FORMATS["prefilled"][:2])
    engine = policy.engine
    assert isinstance(engine, FakeLive)
    with serving(policy) as (url, _):
        ask(url)
        ask(url, temperature=0, top_p=0.5, seed=7, extra_body={"max_thought_tokens": 40})
        ask(url, max_tokens=60, n=2)
        ask(url, extra_body={"reasoning_effort": "none"})
        ask(url, seed=7)
    (first, plain), (second, changed), (_, short), *_, (direct, without), (again, _) = engine.asked
    assert (plain.temperature, plain.top_p, plain.max_tokens, plain.max_response_tokens) == (0.8, 0.95, 100, 100)
    assert (changed.temperature, changed.top_p, changed.max_tokens) == (0, 0.5, 40)
    assert plain.switch_ids is not None and short.switch_ids == plain.switch_ids
    assert short.max_total == 60 and short.max_response_tokens >= 20, "an answer is left room"
    assert without.switch_ids is None and without.max_tokens == 100
    assert len(engine.asked) == 6 and len({request.key for request, _ in engine.asked}) == 6
    assert second.seeds == again.seeds != first.seeds
    chat = policy.chat
    assert "thought process" in chat.decode(first.prompt_ids) and "thought process" not in chat.decode(
        direct.prompt_ids
    )


def test_earlier_thoughts_are_no_part_of_the_conversation() -> None:
    policy = fake_policy(form("generic"), f"{SECRET}\nHere is my response: {ANSWER}")
    engine = policy.engine
    assert isinstance(engine, FakeLive)
    with serving(policy) as (url, _):
        message = ask(url, messages=[{"role": "system", "content": "Be brief."}, *ASK]).choices[0].message
        told = [*ASK, message.model_dump(), {"role": "user", "content": "And <|im_end|> shoes?"}]
        ask(url, messages=told)
    text = policy.chat.decode(engine.asked[1][0].prompt_ids)
    assert SECRET not in text and ANSWER in text
    assert text.count("How many socks?") == text.count("And < |im_end|> shoes?") == 1
    assert text.count("Respond to the following user query") == 1, "the last question alone is asked for a thought"
    assert text.index("How many socks?") < text.index("Respond to") < text.index("shoes?")
    assert policy.chat.decode(engine.asked[0][0].prompt_ids).startswith("<|im_start|>system\nBe brief.")


def test_stop_strings_end_the_answer_and_what_is_sampled() -> None:
    policy = fake_policy(form("prefilled"), f"{SECRET}, at most\n\nHere is my response:\n{ANSWER} " + "more " * 200)
    engine = policy.engine
    assert isinstance(engine, FakeLive)
    with serving(policy) as (url, sampler):
        whole = ask(url, stop=[", at most"]).choices[0]
        thought, answer, reason, _ = read(ask(url, stream=True, stop=", at most"))
        wait_for(lambda: sampler.num_jobs == 0 and len(engine) == 0)
    assert whole.message.content == answer == "Four socks"
    assert whole.message.reasoning_content == thought == f"{SECRET}, at most"
    assert whole.finish_reason == reason == "stop"
    assert len(engine.cancelled) == 2


def test_second_delimiter_ends_the_stream_and_leaves_no_answer_where_it_can() -> None:
    text = f"x\nHere is my response: Draft.\nHere is my response: {ANSWER}"
    policy = fake_policy(form("prefilled"), text)
    with serving(policy) as (url, _):
        [whole] = ask(url).choices
        _, answer, reason, _ = read(ask(url, stream=True))
    assert (whole.message.content, whole.split_error) == (None, "repeated_delimiter")
    assert (answer, reason) == ("Draft.", "stop"), "what was said cannot be taken back; nothing follows it"


def test_ten_at_once_are_answered_and_decode_together() -> None:
    policy = fake_policy(*FORMATS["specific"][:2], step_s=0.005)
    engine = policy.engine
    assert isinstance(engine, FakeLive)

    async def ask_all(url: str) -> list[str]:
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            asked = (client.chat.completions.create(model="fake", messages=ASK) for _ in range(10))
            return [found.choices[0].message.content or "" for found in await asyncio.gather(*asked)]

    with serving(policy) as (url, _):
        assert asyncio.run(ask_all(url)) == [ANSWER] * 10
    assert max(engine.sizes) == 10


def test_full_queue_is_told_and_the_next_is_served() -> None:
    policy = fake_policy(form("none"), "word " * 90, step_s=0.02)
    engine = policy.engine
    with serving(policy, max_waiting=2) as (url, sampler):
        streams = [ask(url, stream=True) for _ in range(6)]  # 4 decode, 2 wait
        with pytest.raises(openai.RateLimitError, match="come back later") as caught:
            ask(url)
        assert caught.value.response.headers["retry-after"] == "1"
        with pytest.raises(openai.RateLimitError):
            ask(url, n=2, stream=True)
        for stream in streams:
            stream.close()
        wait_for(lambda: sampler.num_jobs == 0 and len(engine) == 0)
        assert ask(url, max_tokens=3).choices[0].finish_reason == "length"


@pytest.mark.parametrize("is_streamed", [True, False])
def test_client_that_goes_away_stops_what_is_sampled_for_it(is_streamed: bool) -> None:
    policy = fake_policy(form("none"), "word " * 90, step_s=0.02)
    engine = policy.engine
    assert isinstance(engine, FakeLive)
    with serving(policy) as (url, sampler):
        if is_streamed:
            with ask(url, stream=True, n=2) as stream:
                next(iter(stream))
                wait_for(lambda: len(engine) == 2)
        else:
            with pytest.raises(openai.APITimeoutError):
                client_of(url).with_options(timeout=0.3).chat.completions.create(model="fake", messages=ASK, n=2)
        wait_for(lambda: len(engine.cancelled) == 2, seconds=1.5)
        wait_for(lambda: sampler.num_jobs == 0 and len(engine) == 0)


def test_failed_engine_is_told_to_those_who_wait_and_to_those_who_come() -> None:
    policy = fake_policy(form("none"), "word " * 90, step_s=0.02)
    engine = policy.engine
    assert isinstance(engine, FakeLive)
    with serving(policy) as (url, sampler):
        stream = ask(url, stream=True)
        next(iter(stream))
        engine.error = RuntimeError("out of memory")
        with pytest.raises(openai.APIError, match="out of memory"):
            list(stream)
        with pytest.raises(openai.InternalServerError, match="out of memory"):
            ask(url)
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(url.replace("/v1", "/health"))
        assert caught.value.code == 503
        assert sampler.failure is not None


def test_closing_sampler_tells_those_who_wait() -> None:
    policy = fake_policy(form("none"), "word " * 90, step_s=0.02)
    sampler, told = Sampler(policy.engine, max_waiting=0), []
    from tpo.model.rendering import Turn

    answer = policy.begin([Turn("user", "x")], key="a", seed=0)
    sampler.submit([answer], [told.append])
    wait_for(lambda: len(told) > 2)
    sampler.close()
    assert str(told[-1]) == "the server is closing"


def test_torch_engine_serves_ten_at_once_as_it_samples_alone(tiny_model: Path) -> None:
    """Greedy, so that what is said does not depend on a seed; thought and answer of budgets that are forced."""
    policy = Policy(str(tiny_model), None, str(tiny_model), "float32", 1024, None, conventions=Conventions())
    ref = fake_policy(form("prefilled")).ref
    engine = TorchEngineConfig(max_sequences=4, num_workers=1)
    chat = load_chat(policy)
    loaded = LoadedPolicy(ref, policy, chat, engine.make_live(policy, chat=chat, max_len=1024, seed=0))
    budgets: Any = {"temperature": 0, "max_tokens": 40, "extra_body": {"max_thought_tokens": 8}}

    async def ask_all(url: str) -> list[Any]:
        async with openai.AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as client:
            questions = [[{"role": "user", "content": f"Name {number} rivers."}] for number in range(10)]
            asked = (client.chat.completions.create(model="fake", messages=one, **budgets) for one in questions)
            return [found.choices[0].message for found in await asyncio.gather(*asked)]

    with serving(loaded) as (url, _):
        together = asyncio.run(ask_all(url))
        for number, message in enumerate(together):
            alone = ask(url, messages=[{"role": "user", "content": f"Name {number} rivers."}], stream=True, **budgets)
            thought, answer, _, _ = read(alone)
            assert (thought or None, answer or None) == (message.reasoning_content, message.content)
            assert thought or answer
